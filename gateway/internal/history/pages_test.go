package history

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/ganglion-es/ganglion/eventstore"
)

// pageReader is a reader of pages, which reads each page when it gets it.
type pageReader struct{ pages *Pages }

func (r pageReader) IsWaiting() bool { return true }

func (r pageReader) Resume(p *Page) bool {
	if p != nil {
		r.pages.Unpin(p)
	}
	return true
}

// numbers is a log of a number of events, of which a page has 4. A read takes until
// the test sends to gate, if that is not nil.
type numbers struct {
	ctx  context.Context
	head eventstore.Position
	gate chan struct{}

	mu    sync.Mutex
	reads []eventstore.Position // where they began
}

func (n *numbers) context() context.Context { return n.ctx }

func (n *numbers) next(_ string, t Topic, from Place) (*Page, error) {
	n.mu.Lock()
	n.reads = append(n.reads, from.At)
	n.mu.Unlock()
	if n.gate != nil {
		<-n.gate
	}
	to := min(from.At+4, n.head)
	return &Page{topic: t, from: from, to: Place{At: to}, isLast: to == n.head, bytes: 1}, nil
}

func (n *numbers) begun() []eventstore.Position {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Sorted(slices.Values(n.reads))
}

// readNumbers returns the pages of a log, with a number of concurrent reads.
func readNumbers(t *testing.T, head eventstore.Position, reads int, gate chan struct{}) (*numbers, *Pages) {
	ctx, cancel := context.WithCancel(context.Background())
	n := &numbers{ctx: ctx, head: head, gate: gate}
	ps := newPages(n, 4, reads, slog.New(slog.DiscardHandler))
	t.Cleanup(func() {
		cancel()
		ps.Stop()
	})
	return n, ps
}

func TestPagesAreReadAheadOfTheirReaders(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n, ps := readNumbers(t, 1000, 2, nil)
		r := pageReader{ps}
		if p := ps.Get(r, "ada", Topic{}, Place{}); p != nil {
			t.Fatal("a page was there before it was read")
		}
		synctest.Wait()
		if got, want := n.begun(), []eventstore.Position{0, 4, 8, 12, 16}; !slices.Equal(got, want) {
			t.Errorf("read from %v, want the first page and %d more: %v", got, pagesAhead, want)
		}
		// A reader of the second page moves the reads on by one page.
		if p := ps.Get(r, "ada", Topic{}, Place{At: 5}); p == nil || p.End() != 8 {
			t.Errorf("the second page is %v", p)
		}
		synctest.Wait()
		if got := n.begun(); len(got) != 6 || got[5] != 20 {
			t.Errorf("read from %v, want one page more", got)
		}
	})
}

func TestReadsAheadEndAtTheHead(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n, ps := readNumbers(t, 6, 2, nil)
		ps.Get(pageReader{ps}, "ada", Topic{}, Place{})
		synctest.Wait()
		ps.Get(pageReader{ps}, "ada", Topic{}, Place{At: 4})
		synctest.Wait()
		if got, want := n.begun(), []eventstore.Position{0, 4}; !slices.Equal(got, want) {
			t.Errorf("read from %v, want %v", got, want)
		}
	})
}

// TestNoPageIsReadAheadWhileReadersWaitForTheirTurn lets readers of two types use the
// only read in turn.
func TestNoPageIsReadAheadWhileReadersWaitForTheirTurn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		n, ps := readNumbers(t, 1000, 1, gate)
		defer close(gate)
		r := pageReader{ps}
		ps.Get(r, "ada", Topic{Category: "a"}, Place{})
		ps.Get(r, "bob", Topic{Category: "b"}, Place{})
		synctest.Wait()
		gate <- struct{}{} // the page of a is read, while b waits
		synctest.Wait()
		if got, want := n.begun(), []eventstore.Position{0, 0}; !slices.Equal(got, want) {
			t.Errorf("read from %v, want both first pages", got)
		}
		ps.mu.Lock()
		defer ps.mu.Unlock()
		if ps.wanted.Len() > 0 {
			t.Error("a page after that of a waits for its turn, though b waited before it")
		}
	})
}
