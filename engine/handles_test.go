package engine

import (
	"context"
	"fmt"
	"strings"
	"testing"
)

func TestRebuildIsCountedByTheEventsThatHandlersGet(t *testing.T) {
	t.Parallel()
	eachMarket(t, func(t *testing.T, m *market) {
		n := m.start(relaying(t, nil))
		n.begun()
		for i := range 3 {
			n.place("s", fmt.Sprint("order-", i), placeOrder{Target: "l", Text: "hello"})
		}
		n.drained() // the ledger has events too, which no handler gets
		events, head, err := n.operations().Handles(t.Context(), "relay")
		if err != nil || events != 3 || head != 6 {
			t.Errorf("%d events are counted up to position %d, %v; want 3 of 6", events, head, err)
		}
		if _, _, err := n.operations().Handles(t.Context(), "others"); err == nil || !strings.Contains(err.Error(), "use relay") {
			t.Errorf("an unknown name: %v", err)
		}
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		if _, _, err := n.operations().Handles(ended, "relay"); err == nil {
			t.Error("a count that has no time ends without an error")
		}
	})
}
