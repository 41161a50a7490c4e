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

// scripted is a database in memory. Each batch gets the next of its replies;
// after the last one it stores every batch.
type scripted struct {
	replies []reply
	sent    []attempt
	head    eventstore.Position
	ready   func() error // optional
}

// reply is the outcome of one batch.
type reply func(s *scripted, units []*stored.Unit) (Result, error)

// attempt is what the Committer sent.
type attempt struct {
	ids         []string
	mayBeStored bool
}

func (s *scripted) Ready() error {
	if s.ready != nil {
		return s.ready()
	}
	return nil
}

func (s *scripted) Append(units []*stored.Unit, mayBeStored bool) (Result, error) {
	a := attempt{mayBeStored: mayBeStored}
	for _, u := range units {
		a.ids = append(a.ids, u.Stream.ID)
	}
	s.sent = append(s.sent, a)
	next := stores
	if len(s.replies) > 0 {
		next, s.replies = s.replies[0], s.replies[1:]
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

func fails(k Kind) reply {
	return func(*scripted, []*stored.Unit) (Result, error) {
		return Result{}, &Failure{Kind: k, Reason: fmt.Sprint("reason ", k)}
	}
}

// finds replies that the key of the first unit's command is known. The content
// under the key is the command's own, as altered by change.
func finds(change func(*Found)) reply {
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

// refusesPoison refuses a batch with the stream "poison".
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

// newCommitter starts a Committer over s. The list has the positions that
// Committed was called with; it may be read after Close.
func newCommitter(t *testing.T, s *scripted, change func(*Config)) (c *Committer, announced *[]eventstore.Position) {
	t.Helper()
	announced = new([]eventstore.Position)
	cfg := Config{
		Backend: s, Saw: func(string, guard.Commit) error { return nil }, Deadline: 5 * time.Second,
		Committed: func(_ string, commits []eventstore.Commit) {
			for _, c := range commits {
				*announced = append(*announced, c.Position)
			}
		},
	}
	if change != nil {
		change(&cfg)
	}
	c = New(cfg)
	t.Cleanup(c.Close)
	return c, announced
}

// TestFailuresEndWithTheTrueOutcome has a row for each sequence of failures of
// a batch of one unit.
func TestFailuresEndWithTheTrueOutcome(t *testing.T) {
	t.Parallel()
	own := finds(func(*Found) {})
	sentinels := []error{eventstore.ErrUnknown, eventstore.ErrUnavailable, eventstore.ErrWentBack, eventstore.ErrKnownKeys, eventstore.ErrConflict}
	for _, test := range []struct {
		name        string
		replies     []reply
		position    eventstore.Position // 0: an error
		errs        []error
		mayBeStored []bool // of each attempt; only of the first ones, if endless
		endless     bool   // retried until Deadline
	}{
		{"stored", nil, 1, nil, []bool{false}, false},
		{"lost, then stored by the second attempt", []reply{fails(Lost)}, 1, nil, []bool{false, true}, false},
		{"lost, and its own commit is found", []reply{fails(Lost), own}, 7, nil, []bool{false, true}, false},
		{"lost, then down, then its own is found", []reply{fails(Lost), fails(Down), own}, 7, nil, []bool{false, true, true}, false},
		{"lost, then busy, then its own is found", []reply{fails(Lost), fails(Busy), own}, 7, nil, []bool{false, true, true}, false},
		{"lost, then broken, then its own is found", []reply{fails(Lost), fails(Broken), own}, 7, nil, []bool{false, true, true}, false},
		{"lost, and another time is found", []reply{fails(Lost), finds(func(f *Found) { f.At = f.At.Add(time.Second) })}, 0, []error{eventstore.ErrKnownKeys}, []bool{false, true}, false},
		{"lost, and another version is found", []reply{fails(Lost), finds(func(f *Found) { f.Version++ })}, 0, []error{eventstore.ErrKnownKeys}, []bool{false, true}, false},
		{"lost, and other events are found", []reply{fails(Lost), finds(func(f *Found) { f.Events = []byte(`[]`) })}, 0, []error{eventstore.ErrKnownKeys}, []bool{false, true}, false},
		{"lost, and another client is found", []reply{fails(Lost), finds(func(f *Found) { f.Meta = []byte(`{"client":"eve"}`) })}, 0, []error{eventstore.ErrKnownKeys}, []bool{false, true}, false},
		{"lost, and the stream has moved", []reply{fails(Lost), moved}, 0, []error{eventstore.ErrConflict}, []bool{false, true}, false},
		{"lost forever", slices.Repeat([]reply{fails(Lost)}, 100), 0, []error{eventstore.ErrUnknown}, []bool{false, true, true}, true},
		{"lost, then the log went back", []reply{fails(Lost), fails(WentBack)}, 0, []error{eventstore.ErrUnknown, eventstore.ErrWentBack}, []bool{false, true}, false},
		{"its own content is known at the first attempt", []reply{own}, 0, []error{eventstore.ErrKnownKeys}, []bool{false}, false},
		{"the stream has moved", []reply{moved}, 0, []error{eventstore.ErrConflict}, []bool{false}, false},
		{"the log went back", []reply{fails(WentBack)}, 0, []error{eventstore.ErrWentBack}, []bool{false}, false},
		{"down", []reply{fails(Down)}, 0, []error{eventstore.ErrUnavailable}, []bool{false}, false},
		{"broken", []reply{fails(Broken)}, 0, []error{eventstore.ErrUnavailable}, []bool{false}, false},
		{"refused alone", []reply{fails(Refused)}, 0, []error{eventstore.ErrInvalid}, []bool{false}, false},
		{"busy, then stored", []reply{fails(Busy), fails(Busy)}, 1, nil, []bool{false, false, false}, false},
		{"busy forever", slices.Repeat([]reply{fails(Busy)}, 100), 0, []error{eventstore.ErrUnavailable}, []bool{false, false}, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := &scripted{replies: test.replies}
				c, announced := newCommitter(t, s, nil)
				a, err := c.Append(t.Context(), unitOf("a", 1))
				for _, sentinel := range sentinels {
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
				c.Close()
				if !slices.Equal(*announced, want) {
					t.Errorf("announced %v, want %v", *announced, want)
				}
				var mayBeStored []bool
				for _, a := range s.sent {
					mayBeStored = append(mayBeStored, a.mayBeStored)
				}
				if test.endless {
					mayBeStored = mayBeStored[:min(len(mayBeStored), len(test.mayBeStored))]
				}
				if !slices.Equal(mayBeStored, test.mayBeStored) {
					t.Errorf("attempts with mayBeStored %v, want %v", mayBeStored, test.mayBeStored)
				}
			})
		})
	}
}

// appendAll appends units in one batch, in order. The stream "gate" is in a
// batch before it.
func appendAll(t *testing.T, c *Committer, s *scripted, units ...eventstore.Unit) []error {
	t.Helper()
	release := make(chan struct{})
	replies := s.replies
	s.replies = append([]reply{func(s *scripted, units []*stored.Unit) (Result, error) {
		<-release
		return stores(s, units)
	}}, replies...)
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

func TestRefusedBatchIsHalvedToItsRefusedUnit(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &scripted{replies: slices.Repeat([]reply{refusesPoison}, 10)}
		c, announced := newCommitter(t, s, nil)
		errs := appendAll(t, c, s, unitOf("a", 1), unitOf("b", 1), unitOf("poison", 1), unitOf("c", 1))
		for i, err := range errs {
			if want := i == 2; errors.Is(err, eventstore.ErrInvalid) != want || (err != nil) != want {
				t.Errorf("unit %d: got %v", i, err)
			}
		}
		c.Close()
		if !slices.Equal(*announced, []eventstore.Position{1, 2, 3, 4}) {
			t.Errorf("announced %v", *announced)
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

func TestHalvesOfLostBatchMayBeStored(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &scripted{replies: append([]reply{fails(Lost)}, slices.Repeat([]reply{refusesPoison}, 10)...)}
		c, _ := newCommitter(t, s, nil)
		errs := appendAll(t, c, s, unitOf("a", 1), unitOf("poison", 1))
		if errs[0] != nil || !errors.Is(errs[1], eventstore.ErrInvalid) {
			t.Errorf("got %v", errs)
		}
		c.Close()
		for i, a := range s.sent {
			if want := i >= 2; a.mayBeStored != want { // 0 is the gate's batch, 1 the one that is lost
				t.Errorf("attempt %d: mayBeStored is %v", i, a.mayBeStored)
			}
		}
	})
}

func TestBatchesStayWithinTheirBounds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := new(scripted)
		c, _ := newCommitter(t, s, nil)
		heavy := func(id string) eventstore.Unit {
			u := unitOf(id, 1)
			u.Commands[0].Events[0].Data = []byte(`"` + strings.Repeat("x", MaxBytes/2+1) + `"`)
			return u
		}
		second := unitOf("a", 1)
		second.Commands[0].Key = "second"
		errs := appendAll(t, c, s,
			unitOf("a", 600), unitOf("b", 500), unitOf("c", 400), second, // c fits, b does not, second waits for a
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

func TestSilentDatabaseRejectsUnitsAfterPatience(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		release := make(chan error)
		s := &scripted{ready: func() error { return <-release }}
		c, _ := newCommitter(t, s, func(cfg *Config) { cfg.Patience = 500 * time.Millisecond })
		began := time.Now()
		if _, err := c.Append(t.Context(), unitOf("a", 1)); !errors.Is(err, eventstore.ErrUnavailable) {
			t.Errorf("got %v", err)
		}
		if waited := time.Since(began); waited != 500*time.Millisecond { // by the bubble's clock
			t.Errorf("rejected after %v", waited)
		}
		if c.Away().Err() == nil {
			t.Error("the database does not count as away")
		}
		if _, err := c.Append(t.Context(), unitOf("a", 1)); !errors.Is(err, eventstore.ErrUnavailable) || !time.Now().Equal(began.Add(500*time.Millisecond)) {
			t.Errorf("away: got %v after %v", err, time.Since(began))
		}
		close(release)
		synctest.Wait()
		if c.Away().Err() != nil {
			t.Error("the database has answered and still counts as away")
		}
		if _, err := c.Append(t.Context(), unitOf("a", 1)); err != nil {
			t.Errorf("back: %v", err)
		}
	})
}

func TestAwayDatabaseIsReportedWithLastError(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		connect := make(chan error)
		s := &scripted{ready: func() error { return <-connect }}
		c, _ := newCommitter(t, s, func(cfg *Config) { cfg.Patience = 500 * time.Millisecond })
		defer close(connect)
		for _, says := range []string{"not answered for 500ms", "connection refused", "starting"} {
			if says != "not answered for 500ms" {
				connect <- &Failure{Kind: Down, Reason: says}
				synctest.Wait()
			}
			if _, err := c.Append(t.Context(), unitOf("a", 1)); !errors.Is(err, eventstore.ErrUnavailable) || !strings.Contains(err.Error(), says) {
				t.Errorf("got %v, want %q in it", err, says)
			}
			time.Sleep(time.Second) // in the bubble: the Committer connects again
		}
	})
}

func TestLostBatchIsUnknownAfterPatience(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &scripted{replies: slices.Repeat([]reply{fails(Lost)}, 1000)}
		c, announced := newCommitter(t, s, func(cfg *Config) { cfg.Patience = 500 * time.Millisecond })
		began := time.Now()
		if _, err := c.Append(t.Context(), unitOf("a", 1)); !errors.Is(err, eventstore.ErrUnknown) {
			t.Errorf("got %v", err)
		}
		if waited := time.Since(began); waited > time.Second {
			t.Errorf("rejected after %v", waited)
		}
		c.Close()
		if len(*announced) > 0 {
			t.Errorf("announced %v", *announced)
		}
	})
}
