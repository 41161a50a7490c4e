package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/domain/process"
	"github.com/ganglion-es/ganglion/test/harness"
)

// A copied is what the process manager "copies" knows of one note.
type copied struct {
	Notes int `json:"notes"`
}

// copying has the process manager "copies", which writes each note again into the
// note of its team, whose id begins with a prefix.
func copying(prefix string, segments int) *aggregate.Catalog {
	c := notesCatalog(func(e noteWritten, n *noteRow) { *n = noteRow(e) })
	process.Define(c, process.Type[copied]{
		Name: "copies", Segments: segments,
		On: process.Handlers[copied]{process.On(func(at process.At, e noteWritten, s *copied) process.Commands {
			if e.Team == "" {
				return nil // a copy
			}
			s.Notes++
			return process.Commands{process.Send("note", prefix+e.Team, writeNote{Text: fmt.Sprint(at.ID, " ", at.Version)})}
		})},
	})
	return c
}

// A copier loads a cluster whose program copies notes.
type copier struct {
	c       *cluster
	stopped atomic.Bool
	all     sync.WaitGroup
	mu      sync.Mutex
	written map[string]int // versions, by note
}

const copierNotes = 6

// write writes notes until finish is called.
func (w *copier) write(ctx context.Context) {
	for n := range copierNotes {
		w.all.Go(func() {
			id := fmt.Sprint("n", n)
			writer := &harness.Client{ID: id, URLs: w.c.wsURLs()}
			defer writer.Leave()
			for i := 0; !w.stopped.Load(); i++ {
				data := writeNote{Text: "hello", Team: []string{"red", "blue"}[rand.IntN(2)]}
				if _, err := writer.Do(ctx, "note/"+id, "write", fmt.Sprint(id, "-", i), data); err != nil {
					w.c.t.Error(err)
					return
				}
				w.mu.Lock()
				w.written[id]++
				w.mu.Unlock()
			}
		})
	}
}

func (w *copier) total() (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, of := range w.written {
		n += of
	}
	return n
}

// more waits until more notes are written.
func (w *copier) more(n int) {
	w.c.t.Helper()
	from := w.total()
	harness.Eventually(w.c.t, fmt.Sprint(n, " more notes"), func() error {
		if got := w.total() - from; got < n {
			return fmt.Errorf("there are %d", got)
		}
		return nil
	})
}

// copies returns the versions of each note whose copies the log has, in its order, by
// the id of the note that has them.
func (w *copier) copies() map[string]map[string][]int {
	w.c.t.Helper()
	db := w.c.connect()
	list, err := db.Query(w.c.t.Context(), `select agg_id, data ->> 'text' from event where agg_type = 'note' and data ->> 'team' = '' order by pos`)
	if err != nil {
		w.c.t.Fatal(err)
	}
	found := map[string]map[string][]int{}
	var to, text, from string
	var version int
	for list.Next() {
		if err := list.Scan(&to, &text); err != nil {
			w.c.t.Fatal(err)
		}
		if _, err := fmt.Sscan(text, &from, &version); err != nil {
			w.c.t.Fatal(err)
		}
		if found[to] == nil {
			found[to] = map[string][]int{}
		}
		found[to][from] = append(found[to][from], version)
	}
	if err := list.Err(); err != nil {
		w.c.t.Fatal(err)
	}
	return found
}

// finish stops writing, and checks that each note has one copy, in the order of its
// note wherever the copies are in one place.
func (w *copier) finish() {
	w.c.t.Helper()
	w.stopped.Store(true)
	w.all.Wait()
	count := func(of map[string]map[string][]int) (n int) {
		for _, froms := range of {
			for _, versions := range froms {
				n += len(versions)
			}
		}
		return n
	}
	harness.Eventually(w.c.t, "all notes are copied", func() error {
		if got, want := count(w.copies()), w.total(); got < want {
			return fmt.Errorf("%d of %d are", got, want)
		}
		return nil
	})
	seen := map[string]string{}
	for to, froms := range w.copies() {
		for from, versions := range froms {
			for i, v := range versions {
				name := fmt.Sprint(from, " ", v)
				if seen[name] != "" {
					w.c.t.Errorf("%s is copied to %s and %s", name, seen[name], to)
				}
				seen[name] = to
				if i > 0 && v < versions[i-1] {
					w.c.t.Errorf("%s has copies of %s in the order %v", to, from, versions)
					break
				}
			}
		}
	}
	if len(seen) != w.total() {
		w.c.t.Errorf("%d notes are copied, %d were written", len(seen), w.total())
	}
	w.c.t.Logf("%d notes, each copied once", w.total())
}

// begun waits until a process manager has a build, so that later events cause
// commands.
func (c *cluster) begun(name string) {
	c.t.Helper()
	db := c.connect()
	harness.Eventually(c.t, "a build of "+name, func() error {
		var n int
		if err := db.QueryRow(c.t.Context(), `select count(*) from processor_build where name = $1`, name).Scan(&n); err != nil || n == 0 {
			return fmt.Errorf("%d builds, %w", n, err)
		}
		return nil
	})
}

// TestProcessManagerSendsOnceAcrossUpgradeAndReturn rolls the nodes under load to a
// program that copies to other notes, with another build, and back.
// GANGLION_FAULTS=long does so twice.
func TestProcessManagerSendsOnceAcrossUpgradeAndReturn(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), hungAfter)
	defer cancel()
	first, second := programAt(t, "copies"), programAt(t, "copies-elsewhere")
	c := startTrioOf(t, database(t), first)
	w := &copier{c: c, written: map[string]int{}}
	c.begun("copies")
	w.write(ctx)
	w.more(40)
	rolls := []string{second, first}
	if long {
		rolls = append(rolls, second, first)
	}
	for _, program := range rolls {
		before := w.copies()
		for i := range c.members {
			c.leave(i)
			c.members[i].binary = program
			c.start(i)
			c.settled()
		}
		prefix := map[string]string{first: "copy-", second: "moved-"}[program]
		harness.Eventually(t, "copies of the new program", func() error {
			for to, froms := range w.copies() {
				for from, versions := range froms {
					if strings.HasPrefix(to, prefix) && len(versions) > len(before[to][from]) {
						return nil
					}
				}
			}
			return fmt.Errorf("no note %s… has new ones", prefix)
		})
		w.more(40)
	}
	w.finish()
}
