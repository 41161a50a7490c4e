package relay

import (
	"strings"
	"testing"

	"github.com/ganglion-es/ganglion/eventstore"
)

func TestRoutingKeyHasThreeWordsAtMost255Bytes(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("i", eventstore.MaxIDBytes)
	for _, c := range []struct{ typ, id, event, want string }{
		{"auction", "42", "opened", "auction.42.opened"},
		{"auction", "a.b", "opened", "auction.~2e7336dc8eba87ef472df568c35482ab.opened"},
		{"auction", "#", "opened", "auction.~334359b90efed75da5f0ada1d5e6b256.opened"},
		{"auction", long, "opened", "auction." + long + ".opened"},
		{strings.Repeat("t", 50), long, "opened", strings.Repeat("t", 50) + ".~"},
		{strings.Repeat("t", 200), long, strings.Repeat("e", 100), strings.Repeat("t", 200) + ".~"},
	} {
		m := Message{Stream: eventstore.StreamID{Type: c.typ, ID: c.id}, Event: c.event}
		got := m.Key()
		if !strings.HasPrefix(got, c.want) || len(got) > 255 {
			t.Errorf("%s/%s: got %q, want %q", c.typ, c.id, got, c.want)
		}
	}
}

func TestRelaysAreChecked(t *testing.T) {
	t.Parallel()
	target := func() Target { return nil }
	for _, c := range []struct {
		r    Relay
		want string
	}{
		{Relay{Name: "orders", New: target, Categories: []string{"order"}, Window: 1}, ""},
		{Relay{New: target}, "the relay has no name: give it 1 to 24 lower-case letters, digits and -"},
		{Relay{Name: "Orders", New: target}, `the relay's name "Orders" has the character 'O'`},
		{Relay{Name: strings.Repeat("o", 25), New: target}, "has 25 bytes: use at most 24"},
		{Relay{Name: "orders"}, `relay "orders": New is required`},
		{Relay{Name: "orders", New: target, Window: 10_001}, `relay "orders": the window is 10001 messages: use 1 to 10000`},
		{Relay{Name: "orders", New: target, Categories: []string{"Order"}}, `relay "orders": categories: `},
	} {
		err := Check([]Relay{c.r})
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%+v: got %v, want %q", c.r.Name, err, c.want)
		}
	}
	two := Relay{Name: "orders", New: target}
	if err := Check([]Relay{two, two}); err == nil || !strings.Contains(err.Error(), `two relays have the name "orders"`) {
		t.Errorf("two of a name: %v", err)
	}
}
