package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"testing"

	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/node"
	"github.com/ganglion-es/ganglion/test/harness"
)

// Three releases of an application, which changed the form of event "noted" twice.
type (
	diary   struct{ Lines []string }
	noteOne struct {
		Text string `json:"text"`
	}
	noteTwo struct {
		Title string `json:"title"`
	}
	noteThree struct {
		Lines []string `json:"lines"`
	}
	notedOne   noteOne
	notedTwo   noteTwo
	notedThree noteThree
)

func (c noteOne) Decide(aggregate.Call, diary) (aggregate.Decision[diary], error) {
	return aggregate.Emit[diary](notedOne(c))
}

func (c noteTwo) Decide(aggregate.Call, diary) (aggregate.Decision[diary], error) {
	return aggregate.Emit[diary](notedTwo(c))
}

func (c noteThree) Decide(aggregate.Call, diary) (aggregate.Decision[diary], error) {
	return aggregate.Emit[diary](notedThree(c))
}

func (e notedOne) Apply(d *diary)   { d.Lines = append(d.Lines, e.Text) }
func (e notedTwo) Apply(d *diary)   { d.Lines = append(d.Lines, e.Title) }
func (e notedThree) Apply(d *diary) { d.Lines = append(d.Lines, e.Lines...) }

func diaryRelease(t *testing.T, n int) *aggregate.Catalog {
	t.Helper()
	up := []aggregate.Upcaster{
		aggregate.Upcast(func(old notedOne) notedTwo { return notedTwo{Title: old.Text} }),
		aggregate.Upcast(func(old notedTwo) notedThree { return notedThree{Lines: []string{old.Title}} }),
	}
	var catalog aggregate.Catalog
	aggregate.Define(&catalog, aggregate.Type[diary]{
		Name: "diary", Access: aggregate.Access{Send: aggregate.Authenticated, Read: aggregate.Anyone}, SnapshotEvery: 2,
		Commands:  aggregate.Commands[diary]{"note": []aggregate.Command[diary]{noteOne{}, noteTwo{}, noteThree{}}[n-1]},
		Events:    aggregate.Events[diary]{"noted": []aggregate.Event[diary]{notedOne{}, notedTwo{}, notedThree{}}[n-1]},
		Upcasters: aggregate.Upcasters{"noted": up[:n-1]},
	})
	if err := catalog.Err(); err != nil {
		t.Fatal(err)
	}
	return &catalog
}

// runRelease runs two nodes of a release while use runs.
func runRelease(t *testing.T, store string, n int, use func(urls []string)) {
	t.Helper()
	catalog := diaryRelease(t, n)
	urls, stop := harness.Serve(t, 2, func(ctx context.Context, ready func(string)) error {
		return node.RunDev(ctx, node.Config{Catalog: catalog, Listen: "127.0.0.1:0", Store: store, Ready: ready}, 2)
	})
	defer stop()
	for i, url := range urls {
		urls[i] = harness.WS(url)
	}
	use(urls)
}

// TestClientsReceiveOldEventsInNewestForm checks that clients of the third release
// receive all events, old and live, in the third form, and a state computed from
// all of them.
func TestClientsReceiveOldEventsInNewestForm(t *testing.T) {
	t.Parallel()
	for name, store := range map[string]string{"sqlite": t.TempDir(), "postgres": database(t)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := t.Context()
			written := 0
			note := func(urls []string, n int) {
				t.Helper()
				client := &harness.Client{ID: "ada", URLs: urls}
				defer client.Leave()
				for range 3 {
					text := fmt.Sprint("line ", written)
					data := []any{noteOne{text}, noteTwo{text}, noteThree{[]string{text}}}[n-1]
					if _, err := client.Do(ctx, "diary/a", "note", fmt.Sprint("k", written), data); err != nil {
						t.Fatal(err)
					}
					written++
				}
			}
			runRelease(t, store, 1, func(urls []string) { note(urls, 1) })
			runRelease(t, store, 2, func(urls []string) { note(urls, 2) })
			runRelease(t, store, 3, func(urls []string) {
				for _, url := range urls { // the gateways of the owner and of another node
					session, err := harness.Dial(ctx, url, "bob", nil)
					if err != nil {
						t.Fatal(err)
					}
					defer session.Close()
					events := make(chan harness.Frame, 100)
					if _, err := session.Subscribe(ctx, "s", map[string]any{"stream": "diary/a", "after": 0}, func(f harness.Frame) {
						if f.Op == "event" {
							events <- f
						}
					}); err != nil {
						t.Fatal(err)
					}
					history := written
					for i := range history + 3 {
						if i == history {
							note(urls[:1], 3)
						}
						var got noteThree
						var f harness.Frame
						select {
						case f = <-events:
						case <-session.Done():
							t.Fatalf("the session ended: %v", session.Err())
						}
						if err := json.Unmarshal(f.Data, &got); err != nil {
							t.Fatal(err)
						}
						if want := []string{fmt.Sprint("line ", i)}; f.Version != uint64(i+1) || !slices.Equal(got.Lines, want) {
							t.Errorf("version %d has %s, want %q", f.Version, f.Data, want)
						}
					}
					state, err := session.Call(ctx, map[string]any{"op": "get", "aggregate": "diary/a"})
					if err != nil {
						t.Fatal(err)
					}
					var shown diary
					if err := json.Unmarshal(state.Data, &shown); err != nil {
						t.Fatal(err)
					}
					if len(shown.Lines) != written || shown.Lines[written-1] != fmt.Sprint("line ", written-1) {
						t.Errorf("the state is %s", state.Data)
					}
				}
			})
		})
	}
}
