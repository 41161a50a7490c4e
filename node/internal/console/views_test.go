package console

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// asked returns the status and the body of an answer to a request with a token.
func asked(t *testing.T, url, token string) (int, string) {
	t.Helper()
	response := ask(t, url, token)
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(body)
}

// TestPagesShareOneReadOfAView asks as pages do, on a clock of its own.
func TestPagesShareOneReadOfAView(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reads, took := 0, time.Duration(0)
		v := &view{read: func(context.Context) (any, any, error) {
			reads++
			time.Sleep(took)
			return []string{"data"}, []string{}, nil
		}}
		get := func(want int) {
			t.Helper()
			for range 10 {
				for role, want := range map[Role]string{Operator: `["data"]`, Reader: `["data"]`, Viewer: `[]`} {
					if text, err := v.get(t.Context(), role); err != nil || string(text) != want {
						t.Errorf("%s gets %s, %v; want %s", role, text, err, want)
					}
				}
			}
			if reads != want {
				t.Errorf("the view was read %d times, want %d", reads, want)
			}
		}
		get(1)
		time.Sleep(viewEvery)
		took = time.Second
		get(2)
		time.Sleep(viewShare*took - 1) // a slow read is not repeated soon
		get(2)
		time.Sleep(time.Nanosecond)
		get(3)
		v.changed.Store(true)
		get(4)
		time.Sleep(viewKept + 1)
		v.mu.Lock()
		defer v.mu.Unlock()
		if v.whole != nil || v.masked != nil {
			t.Error("the answer is kept although no page asks")
		}
	})
}

func TestAViewThatCannotBeReadIsRefused(t *testing.T) {
	f := newFake()
	f.views = map[string]View{"rows": func(context.Context) (any, any, error) { return nil, nil, errors.New("the database is away") }}
	url := f.serve(t)
	if code, body := asked(t, url+"/api/views/rows", "viewer"); code != http.StatusServiceUnavailable || !strings.Contains(body, "the database is away") {
		t.Errorf("got %d %s", code, body)
	}
	if code, body := asked(t, url+"/api/views/others", "viewer"); code != http.StatusNotFound {
		t.Errorf("a view that does not exist: %d %s", code, body)
	}
	if code, _ := asked(t, url+"/api/views/rows", "guest"); code != http.StatusForbidden {
		t.Errorf("a user without a role: %d", code)
	}
}

// TestAViewDoesNotEndWithThePageThatAskedFirst cancels the request that reads.
func TestAViewDoesNotEndWithThePageThatAskedFirst(t *testing.T) {
	begun := make(chan struct{})
	first := true
	v := &view{read: func(ctx context.Context) (any, any, error) {
		if first {
			first = false
			close(begun)
			<-ctx.Done()
			return nil, nil, ctx.Err()
		}
		return "data", "", nil
	}}
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-begun
		cancel()
	}()
	if _, err := v.get(ctx, Reader); !errors.Is(err, context.Canceled) {
		t.Errorf("the page that has gone gets %v", err)
	}
	if text, err := v.get(t.Context(), Reader); err != nil || string(text) != `"data"` {
		t.Errorf("the next page gets %s, %v", text, err)
	}
}
