package transport

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestNewestCommonVersionIsChosen(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		a, b Versions
		want int // 0: none
	}{
		{Versions{1, 1}, Versions{1, 1}, 1},
		{Versions{1, 1}, Versions{1, 2}, 1},
		{Versions{1, 2}, Versions{2, 3}, 2},
		{Versions{1, 1}, Versions{2, 3}, 0},
		{Versions{2, 3}, Versions{3, 4}, 3},
		{Versions{1, 3}, Versions{0, 0}, 0},
	} {
		for _, pair := range [][2]Versions{{c.a, c.b}, {c.b, c.a}} {
			got, ok := pair[0].agree(pair[1])
			if ok != (c.want > 0) || ok && got != c.want {
				t.Errorf("%v and %v agree on %d (%v), want %d", pair[0], pair[1], got, ok, c.want)
			}
		}
	}
}

// The error says what to do. A caller that names no version is an operator.
func TestCallerWithoutCommonVersionIsRefused(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		server Versions
		says   string
		ok     bool
	}{
		{Versions{2, 2}, "", true},
		{Versions{2, 2}, "2-2", true},
		{Versions{2, 3}, "2-2", true},
		{Versions{2, 2}, "2-3", true},
		{Versions{3, 4}, "2-3", true},
		{Versions{3, 4}, "2-2", false},
		{Versions{2, 2}, "3-4", false},
		{Versions{2, 2}, "nonsense", false},
	} {
		err := c.server.refuse(c.says)
		if refused := CodeOf(err) == FailedPrecondition; refused == c.ok || refused && !strings.Contains(err.Error(), "upgrade through a release that speaks both") {
			t.Errorf("a server with %v answers a caller with %q: %v", c.server, c.says, err)
		}
	}
}

// The handler of the server asks for the version before everything else.
func TestServerRefusesCallersOfOtherVersions(t *testing.T) {
	t.Parallel()
	s := NewServer(ServerConfig{})
	Register(s, UnimplementedPeer{})
	for _, path := range []string{"/peer/vitals", "/peer/commands", "/peer/what-is-to-come"} {
		r := httptest.NewRequest(http.MethodPost, path, strings.NewReader("{}"))
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set(versionHeader, "900-901")
		w := httptest.NewRecorder()
		s.serve(w, r)
		if w.Code != http.StatusPreconditionFailed || !strings.Contains(w.Body.String(), "upgrade through a release") {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
}
