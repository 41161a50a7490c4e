package batch

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/internal/guard"
	"github.com/ganglion-es/ganglion/eventstore/internal/stored"
)

// scripted is a database in memory that answers each batch by the next of its
// steps, and stores everything once they are used up.
type scripted struct {
	steps []step
	sent  []attempt
	head  eventstore.Position
	ready func() error // optional
}

// step answers one batch.
type step func(s *scripted, units []*stored.Unit) (Result, error)

// attempt is what the Committer sent.
type attempt struct {
	ids   []string
	again bool
}

func (s *scripted) Ready() error {
	if s.ready != nil {
		return s.ready()
	}
	return nil
}

func (s *scripted) Append(units []*stored.Unit, again bool) (Result, error) {
	a := attempt{again: again}
	for _, u := range units {
		a.ids = append(a.ids, u.Stream.ID)
	}
	s.sent = append(s.sent, a)
	next := stores
	if len(s.steps) > 0 {
		next, s.steps = s.steps[0], s.steps[1:]
	}
	return next(s, units)
}

func stores(s *scripted, units []*stored.Unit) (Result, error) {
	base := s.head
	for _, u := range units {
		s.head += eventstore.Position(u.Events)
	}
	return Result{Base: base, Verdicts: make([]Verdict, len(units))}, nil
}

func fails(k Kind) step {
	return func(*scripted, []*stored.Unit) (Result, error) {
		return Result{}, &Failure{Kind: k, Reason: fmt.Sprint("reason ", k)}
	}
}

// finds answers that the first unit's command is known. Its content is the
// unit's own but for what change changes.
func finds(change func(*Found)) step {
	return func(_ *scripted, units []*stored.Unit) (Result, error) {
		r := &units[0].Rows[0]
		f := Found{Version: r.Version, Position: 7, Hash: r.Hash, At: r.At, Meta: r.Meta, Events: r.Events}
		change(&f)
		return Result{Verdicts: []Verdict{{Found: map[int]Found{0: f}}}}, nil
	}
}

func moved(_ *scripted, units []*stored.Unit) (Result, error) {
	return Result{Verdicts: []Verdict{{Moved: true, Actual: 3}}}, nil
}

// refusesPoison refuses a batch that holds the stream "poison".
func refusesPoison(s *scripted, units []*stored.Unit) (Result, error) {
	if slices.ContainsFunc(units, func(u *stored.Unit) bool { return u.Stream.ID == "poison" }) {
		return fails(Refused)(s, units)
	}
	return stores(s, units)
}

func unitOf(id string, commands int) eventstore.Unit {
	u := eventstore.Unit{Stream: eventstore.StreamID{Type: "counter", ID: id}}
	for i := range commands {
		u.Commands = append(u.Commands, eventstore.Command{
			Key: fmt.Sprint("k", i), At: time.Unix(0, 0), Events: []eventstore.Event{{Type: "added", Data: []byte(`{}`)}},
		})
	}
	return u
}

// committer runs one over s and collects the keys that Committed was told of.
func committer(t *testing.T, s *scripted, change func(*Config)) (*Committer, *[]eventstore.Position) {
	t.Helper()
	told := new([]eventstore.Position)
	cfg := Config{
		Backend: s, Saw: func(string, guard.Commit) error { return nil }, Deadline: 5 * time.Second,
		Committed: func(_ string, commits []eventstore.Commit) {
			for _, c := range commits {
				*told = append(*told, c.Position)
			}
		},
	}
	if change != nil {
		change(&cfg)
	}
	c := New(cfg)
	t.Cleanup(c.Close)
	return c, told
}

// TestEachFailureLeadsToTheOneTrueAnswer has a row for each sequence of
// failures of one unit's batch, as attempt.go states them.
func TestEachFailureLeadsToTheOneTrueAnswer(t *testing.T) {
	t.Parallel()
	own := finds(func(*Found) {})
	anyTime := []error{eventstore.ErrUnknown, eventstore.ErrUnavailable, eventstore.ErrWentBack, eventstore.ErrKnownKeys, eventstore.ErrConflict}
	for _, test := range []struct {
		name     string
		steps    []step
		position eventstore.Position // 0: an error
		errs     []error
		again    []bool // of each attempt; only its beginning, if endless
		endless  bool   // it is tried until Deadline
	}{
		{"stored", nil, 1, nil, []bool{false}, false},
		{"lost, then stored by the second attempt", []step{fails(Lost)}, 1, nil, []bool{false, true}, false},
		{"lost, and its own commit is found", []step{fails(Lost), own}, 7, nil, []bool{false, true}, false},
		{"lost, then down, then its own is found", []step{fails(Lost), fails(Down), own}, 7, nil, []bool{false, true, true}, false},
		{"lost, then busy, then its own is found", []step{fails(Lost), fails(Busy), own}, 7, nil, []bool{false, true, true}, false},
		{"lost, then broken, then its own is found", []step{fails(Lost), fails(Broken), own}, 7, nil, []bool{false, true, true}, false},
		{"lost, and another time is found", []step{fails(Lost), finds(func(f *Found) { f.At = f.At.Add(time.Second) })}, 0, []error{eventstore.ErrKnownKeys}, []bool{false, true}, false},
		{"lost, and another version is found", []step{fails(Lost), finds(func(f *Found) { f.Version++ })}, 0, []error{eventstore.ErrKnownKeys}, []bool{false, true}, false},
		{"lost, and other events are found", []step{fails(Lost), finds(func(f *Found) { f.Events = []byte(`[]`) })}, 0, []error{eventstore.ErrKnownKeys}, []bool{false, true}, false},
		{"lost, and another client is found", []step{fails(Lost), finds(func(f *Found) { f.Meta = []byte(`{"client":"eve"}`) })}, 0, []error{eventstore.ErrKnownKeys}, []bool{false, true}, false},
		{"lost, and the stream has moved", []step{fails(Lost), moved}, 0, []error{eventstore.ErrConflict}, []bool{false, true}, false},
		{"lost for good", slices.Repeat([]step{fails(Lost)}, 100), 0, []error{eventstore.ErrUnknown}, []bool{false, true, true}, true},
		{"lost, then the log went back", []step{fails(Lost), fails(WentBack)}, 0, []error{eventstore.ErrUnknown, eventstore.ErrWentBack}, []bool{false, true}, false},
		{"its own content is known at the first attempt", []step{own}, 0, []error{eventstore.ErrKnownKeys}, []bool{false}, false},
		{"the stream has moved", []step{moved}, 0, []error{eventstore.ErrConflict}, []bool{false}, false},
		{"the log went back", []step{fails(WentBack)}, 0, []error{eventstore.ErrWentBack}, []bool{false}, false},
		{"down", []step{fails(Down)}, 0, []error{eventstore.ErrUnavailable}, []bool{false}, false},
		{"broken", []step{fails(Broken)}, 0, []error{eventstore.ErrUnavailable}, []bool{false}, false},
		{"refused alone", []step{fails(Refused)}, 0, []error{eventstore.ErrInvalid}, []bool{false}, false},
		{"busy, then stored", []step{fails(Busy), fails(Busy)}, 1, nil, []bool{false, false, false}, false},
		{"busy for good", slices.Repeat([]step{fails(Busy)}, 100), 0, []error{eventstore.ErrUnavailable}, []bool{false, false}, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := &scripted{steps: test.steps}
				c, told := committer(t, s, nil)
				a, err := c.Append(t.Context(), unitOf("a", 1))
				for _, sentinel := range anyTime {
					if want := slices.Contains(test.errs, sentinel); errors.Is(err, sentinel) != want {
						t.Errorf("got %v, want it to be %v: %v", err, sentinel, want)
					}
				}
				var want []eventstore.Position
				if test.position > 0 {
					want = []eventstore.Position{test.position}
					if err != nil || len(a.Commands) != 1 || a.Commands[0].Position != test.position {
						t.Errorf("got %v, %v, want position %d", a, err, test.position)
					}
				} else if err == nil {
					t.Error("got no error")
				}
				c.Close() // told is the Committer's until then
				if !slices.Equal(*told, want) {
					t.Errorf("told of %v, want %v", *told, want)
				}
				var again []bool
				for _, a := range s.sent {
					again = append(again, a.again)
				}
				if test.endless {
					again = again[:min(len(again), len(test.again))]
				}
				if !slices.Equal(again, test.again) {
					t.Errorf("attempts with again %v, want %v", again, test.again)
				}
			})
		})
	}
}

// appendAll appends units so that they are in one batch, in order: the first
// batch holds the stream "gate" only.
func appendAll(t *testing.T, c *Committer, s *scripted, units ...eventstore.Unit) []error {
	t.Helper()
	release := make(chan struct{})
	steps := s.steps
	s.steps = append([]step{func(s *scripted, units []*stored.Unit) (Result, error) {
		<-release
		return stores(s, units)
	}}, steps...)
	errs, done := make([]error, len(units)), make(chan struct{})
	go func() {
		_, err := c.Append(t.Context(), unitOf("gate", 1))
		if err != nil {
			t.Errorf("gate: %v", err)
		}
		done <- struct{}{}
	}()
	synctest.Wait()
	for i, u := range units {
		go func() {
			_, errs[i] = c.Append(t.Context(), u)
			done <- struct{}{}
		}()
		synctest.Wait()
	}
	close(release)
	for range len(units) + 1 {
		<-done
	}
	return errs
}

func TestRefusedBatchIsHalvedUntilTheCulpritIsAlone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &scripted{steps: slices.Repeat([]step{refusesPoison}, 10)}
		c, told := committer(t, s, nil)
		errs := appendAll(t, c, s, unitOf("a", 1), unitOf("b", 1), unitOf("poison", 1), unitOf("c", 1))
		for i, err := range errs {
			if want := i == 2; errors.Is(err, eventstore.ErrInvalid) != want || (err != nil) != want {
				t.Errorf("unit %d: got %v", i, err)
			}
		}
		c.Close()
		if !slices.Equal(*told, []eventstore.Position{1, 2, 3, 4}) {
			t.Errorf("told of %v", *told)
		}
		var sent []string
		for _, a := range s.sent {
			sent = append(sent, strings.Join(a.ids, " "))
		}
		if want := []string{"gate", "a b poison c", "a b", "poison c", "poison", "c"}; !slices.Equal(sent, want) {
			t.Errorf("sent %q, want %q", sent, want)
		}
	})
}

func TestHalvesOfALostBatchAreAskedAboutAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &scripted{steps: append([]step{fails(Lost)}, slices.Repeat([]step{refusesPoison}, 10)...)}
		c, _ := committer(t, s, nil)
		errs := appendAll(t, c, s, unitOf("a", 1), unitOf("poison", 1))
		if errs[0] != nil || !errors.Is(errs[1], eventstore.ErrInvalid) {
			t.Errorf("got %v", errs)
		}
		c.Close()
		for i, a := range s.sent {
			if want := i >= 2; a.again != want { // the gate's, then the one that was lost
				t.Errorf("attempt %d: again is %v", i, a.again)
			}
		}
	})
}

func TestBatchesKeepTheirBounds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := new(scripted)
		c, _ := committer(t, s, nil)
		heavy := func(id string) eventstore.Unit {
			u := unitOf(id, 1)
			u.Commands[0].Events[0].Data = []byte(`"` + strings.Repeat("x", MaxBytes/2+1) + `"`)
			return u
		}
		second := unitOf("a", 1)
		second.Commands[0].Key = "second"
		errs := appendAll(t, c, s,
			unitOf("a", 600), unitOf("b", 500), unitOf("c", 400), second, // c fits, b does not, a is taken
			heavy("d"), heavy("e"))
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
		c.Close()
		var sent []string
		for _, a := range s.sent {
			sent = append(sent, strings.Join(a.ids, " "))
		}
		want := []string{"gate", "a c", "b a d", "e"}
		if !slices.Equal(sent, want) {
			t.Errorf("sent %q, want %q", sent, want)
		}
	})
}

func TestCallersAreGivenUpAfterPatience(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		release := make(chan error)
		s := &scripted{ready: func() error { return <-release }}
		c, _ := committer(t, s, func(cfg *Config) { cfg.Patience = 500 * time.Millisecond })
		began := time.Now()
		if _, err := c.Append(t.Context(), unitOf("a", 1)); !errors.Is(err, eventstore.ErrUnavailable) {
			t.Errorf("got %v", err)
		}
		if waited := time.Since(began); waited != 500*time.Millisecond { // the bubble's clock
			t.Errorf("given up after %v", waited)
		}
		if c.Away().Err() == nil {
			t.Error("the database counts as there")
		}
		if _, err := c.Append(t.Context(), unitOf("a", 1)); !errors.Is(err, eventstore.ErrUnavailable) || !time.Now().Equal(began.Add(500*time.Millisecond)) {
			t.Errorf("while it is away: got %v after %v", err, time.Since(began))
		}
		close(release)
		synctest.Wait()
		if c.Away().Err() != nil {
			t.Error("the database answered and still counts as away")
		}
		if _, err := c.Append(t.Context(), unitOf("a", 1)); err != nil {
			t.Errorf("once it is back: %v", err)
		}
	})
}

func TestADatabaseThatStaysAwayIsReportedWithItsLastError(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		answer := make(chan error)
		s := &scripted{ready: func() error { return <-answer }}
		c, _ := committer(t, s, func(cfg *Config) { cfg.Patience = 500 * time.Millisecond })
		defer close(answer)
		for _, says := range []string{"not answered for 500ms", "connection refused", "starting"} {
			if says != "not answered for 500ms" {
				answer <- &Failure{Kind: Down, Reason: says}
				synctest.Wait()
			}
			if _, err := c.Append(t.Context(), unitOf("a", 1)); !errors.Is(err, eventstore.ErrUnavailable) || !strings.Contains(err.Error(), says) {
				t.Errorf("got %v; want it to say %q", err, says)
			}
			time.Sleep(time.Second) // the bubble's: the Committer connects again
		}
	})
}

func TestALostBatchIsUnknownAfterPatience(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &scripted{steps: slices.Repeat([]step{fails(Lost)}, 1000)}
		c, told := committer(t, s, func(cfg *Config) { cfg.Patience = 500 * time.Millisecond })
		began := time.Now()
		if _, err := c.Append(t.Context(), unitOf("a", 1)); !errors.Is(err, eventstore.ErrUnknown) {
			t.Errorf("got %v", err)
		}
		if waited := time.Since(began); waited > time.Second {
			t.Errorf("given up after %v", waited)
		}
		c.Close()
		if len(*told) > 0 {
			t.Errorf("told of %v", *told)
		}
	})
}
