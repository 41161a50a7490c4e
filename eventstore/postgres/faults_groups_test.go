package postgres_test

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/groups"
	"github.com/ganglion-es/ganglion/eventstore/postgres"
	"github.com/ganglion-es/ganglion/eventstore/postgres/postgrestest"
)

// tenures records who was given a segment under which epoch, and up to where it was
// acknowledged.
type tenures struct {
	mu     sync.Mutex
	holder map[uint64]string
	acked  map[uint64]eventstore.Position
}

// given records a tenure that a coordinator has seen. Two sessions never share an
// epoch, and a tenure begins at or after what earlier ones have acknowledged.
func (r *tenures) given(t *testing.T, s groups.Segment) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if other, known := r.holder[s.Epoch]; known && other != s.Holder.Session {
		t.Errorf("epoch %d was given to %s and to %s", s.Epoch, other, s.Holder.Session)
	}
	r.holder[s.Epoch] = s.Holder.Session
	for epoch, p := range r.acked {
		if epoch < s.Epoch && p > s.Position {
			t.Errorf("epoch %d begins at %d, and epoch %d had acknowledged %d", s.Epoch, s.Position, epoch, p)
		}
	}
}

// Backends are killed all the time, while two coordinators assign one segment and its
// holders acknowledge.
func TestGroupsSurviveKilledBackends(t *testing.T) {
	t.Parallel()
	url := postgrestest.URL(t)
	first, second := open(t, postgres.Config{URL: url}), open(t, postgres.Config{URL: url})
	defer first.Close()
	defer second.Close()
	const events = 5000
	for i := range events / 100 {
		u := unit("a", eventstore.Version(i*100), fmt.Sprint("key", i))
		for range 99 {
			u.Commands[0].Events = append(u.Commands[0].Events, u.Commands[0].Events[0])
		}
		if _, err := first.Append(t.Context(), u); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := first.Groups().Ensure(t.Context(), "g", 1); err != nil {
		t.Fatal(err)
	}
	if err := first.Groups().Reset(t.Context(), "g", groups.Place{}); err != nil {
		t.Fatal(err)
	}
	seen := &tenures{holder: map[uint64]string{}, acked: map[uint64]eventstore.Position{}}
	var answered atomic.Int64
	stop := postgrestest.EndBackends(t, url, func() int64 { return answered.Load() / 10 })
	var all sync.WaitGroup
	for n, store := range []groups.Store{first.Groups(), second.Groups()} {
		name := fmt.Sprint("n", n)
		all.Go(func() {
			for round := 0; round < 40; {
				session := fmt.Sprint(name, " ", round)
				g, err := store.Take(t.Context(), "g", name)
				if err == nil {
					g, err = store.Assign(t.Context(), "g", g.Generation, name, []groups.Change{{Segment: "0", To: groups.Holder{Session: session}}})
				}
				switch {
				case errors.Is(err, groups.ErrFenced), errors.Is(err, eventstore.ErrUnavailable):
					continue
				case err != nil:
					t.Error(err)
					return
				}
				round++
				answered.Add(1)
				s := g.Segments[0]
				seen.given(t, s)
				if s.Holder.Session != session {
					continue // the other coordinator has assigned it in the meantime
				}
				for p := s.Position + 1; p <= s.Position+20; p++ {
					errs, err := store.Ack(t.Context(), []groups.Ack{{Group: "g", Segment: "0", Epoch: s.Epoch, Position: min(p, events)}})
					if err != nil {
						continue
					}
					answered.Add(1)
					if errs[0] != nil {
						break
					}
					seen.mu.Lock()
					seen.acked[s.Epoch] = p
					seen.mu.Unlock()
				}
			}
		})
	}
	all.Wait()
	killed := stop()
	if killed == 0 {
		t.Error("no backend was killed, so this test shows nothing")
	}
	t.Logf("%d tenures, %d backends killed", len(seen.holder), killed)
}

// Acknowledgements do not wait for the disk, and everything else does: a crash may
// deliver events again, and gives no epoch out twice.
func TestCrashedServerLosesAcknowledgementsAndNoEpoch(t *testing.T) {
	t.Parallel()
	server, err := postgrestest.StartServer(t.Context(), postgrestest.Options{Durable: true, Settings: map[string]string{"wal_writer_delay": "10s"}})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	log := open(t, postgres.Config{URL: server.URL("postgres")})
	defer func() { log.Close() }()
	if _, err := log.Groups().Ensure(t.Context(), "g", 1); err != nil {
		t.Fatal(err)
	}
	lost := 0
	for round := range 5 {
		for i := range 3 {
			n := 3*round + i
			if _, err := log.Append(t.Context(), unit("a", eventstore.Version(n), fmt.Sprint("key", n))); err != nil {
				t.Fatal(err)
			}
		}
		before, err := log.Groups().Take(t.Context(), "g", "n1")
		if err == nil {
			before, err = log.Groups().Assign(t.Context(), "g", before.Generation, "n1", []groups.Change{{Segment: "0", To: groups.Holder{Session: fmt.Sprint(round)}}})
		}
		if err != nil {
			t.Fatal(err)
		}
		s := before.Segments[0]
		to := eventstore.Position(3 * (round + 1))
		if errs, err := log.Groups().Ack(t.Context(), []groups.Ack{{Group: "g", Segment: "0", Epoch: s.Epoch, Position: to}}); err != nil || errs[0] != nil {
			t.Fatal(errs, err)
		}
		if round%2 == 1 { // a park waits for the disk, and so for what is before it
			if err := log.Groups().Park(t.Context(), "g", "0", s.Epoch, groups.Park{Sequence: fmt.Sprint("a/", round), Position: to}); err != nil {
				t.Fatal(err)
			}
		}
		if err := errors.Join(server.Crash(), server.Start(t.Context()), log.Close()); err != nil {
			t.Fatal(err)
		}
		log = open(t, postgres.Config{URL: server.URL("postgres")})
		list, err := log.Groups().Groups(t.Context(), "g")
		if err != nil {
			t.Fatal(err)
		}
		after := list[0]
		if after.Generation != before.Generation || after.Segments[0].Epoch != s.Epoch || after.Segments[0].Holder != s.Holder {
			t.Errorf("before the crash %+v, after it %+v", before, after)
		}
		if want := (round + 1) / 2; after.Parked != want {
			t.Errorf("%d sequences are parked, want %d", after.Parked, want)
		}
		if at := after.Segments[0].Position; at < to {
			lost++
			if round%2 == 1 {
				t.Errorf("the position is %d, and the park after the acknowledgement of %d was kept", at, to)
			}
		}
	}
	if lost == 0 {
		t.Error("no crash lost an acknowledgement, so this test shows nothing")
	}
}
