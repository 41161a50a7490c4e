package engine

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/proto/command"
)

// The log keeps hashes permanently, so they must never change.
func TestDigestIsPermanentAndUnambiguous(t *testing.T) {
	t.Parallel()
	h := digest("ada", "bid", []byte(`{"amount":700}`))
	if got, want := hex.EncodeToString(h[:]), "fcb8093619570776e1748773618d1155"; got != want {
		t.Errorf("digest is %s, want %s as stored in logs", got, want)
	}
	seen := map[eventstore.Hash]string{}
	for _, in := range [][3]string{
		{"ada", "bid", "{}"}, {"adab", "id", "{}"}, {"ad", "abid", "{}"}, {"ada", "bid{", "}"}, {"", "adabid", "{}"},
	} {
		h := digest(in[0], in[1], []byte(in[2]))
		if other, ok := seen[h]; ok {
			t.Errorf("%q and %s have the same digest", in, other)
		}
		seen[h] = fmt.Sprintf("%q", in)
	}
}

// protocol: rule Exactly once
func TestResentKeyIsReplayedOnAnyHost(t *testing.T) {
	t.Parallel()
	eachStore(t, func(t *testing.T, log opener) {
		one, two := start(t, Config{Store: log(nil)}), start(t, Config{Store: log(nil)})
		first := granted(t, do(t, one, cmd("a", "1", "repeat", m{"times": 3})), 3)
		granted(t, do(t, two, cmd("a", "2", "put", m{"by": 4})), 4)
		for _, h := range []*Host{one, two, start(t, Config{Store: log(nil)})} {
			again := cmd("a", "1", "repeat", m{"times": 3})
			again.Data = json.RawMessage(" { \"times\" : 3 } ") // the same data in another notation
			r := granted(t, do(t, h, again), 3)
			if !r.Replayed || r.Position != first.Position || r.Key != "1" {
				t.Errorf("replayed: %+v, first: %+v", r, first)
			}
			if value, version := get(t, h, command.Get{Stream: box("a"), Strong: true}); value != 7 || version != 4 {
				t.Errorf("the box shows %d at version %d", value, version)
			}
		}
	})
}

// protocol: rule Exactly once
func TestResentCommandGetsItsFirstOutcomeInAnyState(t *testing.T) {
	t.Parallel()
	eachStore(t, func(t *testing.T, log opener) {
		one, two := start(t, Config{Store: log(nil)}), start(t, Config{Store: log(nil)})
		expecting := func(key string, v eventstore.Version) command.Command {
			c := cmd("a", key, "put", m{"by": 1})
			c.Expect = &v
			return c
		}
		granted(t, do(t, one, expecting("granted", 0)), 1)
		failed(t, do(t, one, expecting("refused", 2)), command.CodeConflict, command.RetryNo)
		granted(t, do(t, one, cmd("a", "other", "put", m{"by": 1})), 2) // now at version 2 the first would be refused and the second granted
		again := map[string]func(h *Host){
			"granted": func(h *Host) {
				if r := granted(t, do(t, h, expecting("granted", 0)), 1); !r.Replayed || r.Position != 1 {
					t.Errorf("granted again: %+v", r)
				}
			},
			"refused": func(h *Host) {
				if f := failed(t, do(t, h, expecting("refused", 2)), command.CodeConflict, command.RetryNo); !f.Replayed || *f.Version != 1 {
					t.Errorf("refused again: %+v", f)
				}
			},
		}
		// A store treats the command after a known key differently, so each host begins
		// with another one.
		again["refused"](one)
		again["granted"](one)
		again["granted"](two)
		again["refused"](two)
		if value, version := get(t, two, command.Get{Stream: box("a"), Strong: true}); value != 2 || version != 2 {
			t.Errorf("the box shows %d at version %d", value, version)
		}
	})
}

// A command that changed nothing is at the position of the event before it, which a
// replay reads from the log.
func TestReplayedCommandWithoutEventsKeepsItsPosition(t *testing.T) {
	t.Parallel()
	log := newMemlog()
	var unreadable atomic.Bool
	log.reading = func(eventstore.StreamID) error {
		if unreadable.Load() {
			return eventstore.ErrUnavailable
		}
		return nil
	}
	h := start(t, Config{Store: log})
	granted(t, do(t, h, cmd("b", "0", "put", m{"by": 1})), 1)
	granted(t, do(t, h, cmd("a", "1", "repeat", m{"times": 3})), 3)
	idle := cmd("a", "2", "idle", m{})
	granted(t, do(t, h, idle), 3)

	if r := granted(t, do(t, h, idle), 3); !r.Replayed || r.Position != 4 {
		t.Errorf("sent again: %+v, want position 4", r)
	}
	granted(t, do(t, h, cmd("a", "3", "put", m{"by": 1})), 4) // the state is in memory again
	unreadable.Store(true)
	// The command was executed, so no other node may execute it.
	if f := failed(t, do(t, h, idle), command.CodeUnavailable, command.RetrySameKey); f.Elsewhere || f.Key != "2" {
		t.Errorf("while the log is unreadable: %+v", f)
	}
	unreadable.Store(false)
	log.mu.Lock() // the log went back
	log.streams[box("a")] = nil
	log.mu.Unlock()
	if r := granted(t, do(t, h, idle), 3); !r.Replayed || r.Position != 0 {
		t.Errorf("without the event before it: %+v, want no position", r)
	}
}

// protocol: rule Exactly once
func TestRejectionUnderAClientsKeyIsFinal(t *testing.T) {
	t.Parallel()
	eachStore(t, func(t *testing.T, log opener) {
		one, two := start(t, Config{Store: log(nil)}), start(t, Config{Store: log(nil)})
		empty := cmd("a", "no", "put", m{"by": 0})
		first := failed(t, do(t, one, empty), command.CodeRejected, command.RetryNo)
		if first.Reason != "empty" || first.Message != "the box has 0" || first.Replayed {
			t.Errorf("rejected: %+v", first)
		}
		granted(t, do(t, two, cmd("a", "1", "put", m{"by": 5})), 1)
		for _, h := range []*Host{one, two} {
			again := failed(t, do(t, h, empty), command.CodeRejected, command.RetryNo)
			if again.Message != first.Message || again.Reason != first.Reason || !again.Replayed || again.Key != "no" {
				t.Errorf("rejected again: %+v", again)
			}
		}
	})
}

func TestOutcomeIsKeptForClientsKeysAndSecondAttempts(t *testing.T) {
	t.Parallel()
	eachStore(t, func(t *testing.T, log opener) {
		h := start(t, Config{Store: log(nil)})
		c := cmd("a", "gateway-made", "put", m{"by": 0})
		c.ClientKey = false
		failed(t, do(t, h, c), command.CodeRejected, command.RetryNo)
		c.Attempt = 2
		if f := failed(t, do(t, h, c), command.CodeRejected, command.RetryNo); f.Replayed {
			t.Error("a rejection under a key of the gateway was kept")
		}
		c.Attempt = 3
		if f := failed(t, do(t, h, c), command.CodeRejected, command.RetryNo); !f.Replayed {
			t.Error("the rejection of a second attempt was not kept")
		}
	})
}

func TestKeyBelongsToClientCommandAndData(t *testing.T) {
	t.Parallel()
	eachStore(t, func(t *testing.T, log opener) {
		h := start(t, Config{Store: log(nil)})
		granted(t, do(t, h, cmd("a", "k", "put", m{"by": 1})), 1)
		bob := cmd("a", "k", "put", m{"by": 1})
		bob.Client = "bob"
		for _, c := range []command.Command{bob, cmd("a", "k", "put", m{"by": 2}), cmd("a", "k", "idle", m{})} {
			if f := failed(t, do(t, h, c), command.CodeKeyReused, command.RetryNo); f.Key != "k" {
				t.Errorf("%+v", f)
			}
		}
		granted(t, do(t, h, cmd("b", "k", "put", m{"by": 2})), 1) // keys belong to one aggregate
		if value, version := get(t, h, command.Get{Stream: box("a")}); value != 1 || version != 1 {
			t.Errorf("the box shows %d at version %d", value, version)
		}
	})
}

func TestDuplicateKeysInOneDrainGetOneOutcome(t *testing.T) {
	t.Parallel()
	log := newMemlog()
	held := holdFirst(t, log)
	h := start(t, Config{Store: log})
	zero := submit(t, h, cmd("a", "0", "put", m{"by": 1}))
	<-held.arrived
	var answers []<-chan command.Outcome
	for _, c := range []command.Command{
		cmd("a", "k", "put", m{"by": 1}), // 0: the first
		cmd("a", "k", "put", m{"by": 1}), // 1: the same
		cmd("a", "k", "put", m{"by": 2}), // 2: another
		cmd("a", "l", "put", m{"by": 1}), // 3: another key
		cmd("a", "n", "put", m{"by": 0}), // 4: rejected
		cmd("a", "n", "put", m{"by": 0}), // 5: the same
		cmd("a", "0", "put", m{"by": 9}), // 6: the log has the key for another command
		cmd("a", "0", "put", m{"by": 9}), // 7: the same
		cmd("a", "0", "put", m{"by": 1}), // 8: the command in the log
	} {
		answers = append(answers, submit(t, h, c))
	}
	held.open()
	granted(t, <-zero, 1)
	if r := granted(t, <-answers[0], 2); r.Replayed {
		t.Error("the first is marked replayed")
	}
	if r := granted(t, <-answers[1], 2); !r.Replayed {
		t.Error("the second is not marked replayed")
	}
	failed(t, <-answers[2], command.CodeKeyReused, command.RetryNo)
	granted(t, <-answers[3], 3)
	if f := failed(t, <-answers[4], command.CodeRejected, command.RetryNo); f.Replayed {
		t.Error("the first rejection is marked replayed")
	}
	if f := failed(t, <-answers[5], command.CodeRejected, command.RetryNo); !f.Replayed {
		t.Error("the second rejection is not marked replayed")
	}
	failed(t, <-answers[6], command.CodeKeyReused, command.RetryNo)
	failed(t, <-answers[7], command.CodeKeyReused, command.RetryNo)
	if r := granted(t, <-answers[8], 1); !r.Replayed {
		t.Error("the command in the log is not marked replayed")
	}
	if value, version := get(t, h, command.Get{Stream: box("a")}); value != 3 || version != 3 {
		t.Errorf("the box shows %d at version %d", value, version)
	}
	assertLog(t, log)
}

func TestKnownKeysLeaveTheRestOfTheUnitInOrder(t *testing.T) {
	t.Parallel()
	log := newMemlog()
	other := start(t, Config{Store: log})
	granted(t, do(t, other, cmd("a", "x", "put", m{"by": 1})), 1)
	failed(t, do(t, other, cmd("a", "y", "put", m{"by": 0})), command.CodeRejected, command.RetryNo)
	held := holdFirst(t, log)
	h := start(t, Config{Store: log})
	zero := submit(t, h, cmd("a", "0", "put", m{"by": 1}))
	<-held.arrived
	var answers []<-chan command.Outcome
	for _, c := range []command.Command{
		cmd("a", "1", "put", m{"by": 1}), cmd("a", "x", "put", m{"by": 1}), cmd("a", "2", "put", m{"by": 1}),
		cmd("a", "y", "put", m{"by": 0}), cmd("a", "3", "put", m{"by": 1}),
	} {
		answers = append(answers, submit(t, h, c))
	}
	held.open()
	granted(t, <-zero, 2)
	granted(t, <-answers[0], 3)
	granted(t, <-answers[1], 1)
	granted(t, <-answers[2], 4)
	failed(t, <-answers[3], command.CodeRejected, command.RetryNo)
	granted(t, <-answers[4], 5)
	if s := h.Stats(); s.Replays != 2 || s.Units != 2 {
		t.Errorf("%+v", s)
	}
	assertLog(t, log)
}

func TestResendingTheKeyResolvesAnUnknownOutcome(t *testing.T) {
	t.Parallel()
	for _, stored := range []bool{true, false} {
		t.Run(fmt.Sprintf("stored %v", stored), func(t *testing.T) {
			t.Parallel()
			log := newMemlog()
			var once sync.Once
			lose := func(eventstore.Unit) (err error) {
				once.Do(func() { err = eventstore.ErrUnknown })
				return err
			}
			if stored {
				log.after = lose
			} else {
				log.before = lose
			}
			h := start(t, Config{Store: log})
			c := cmd("a", "1", "put", m{"by": 1})
			failed(t, do(t, h, c), command.CodeUnavailable, command.RetrySameKey)
			if r := granted(t, do(t, h, c), 1); r.Replayed != stored {
				t.Errorf("replayed %v", r.Replayed)
			}
			granted(t, do(t, h, cmd("a", "2", "put", m{"by": 1})), 2)
			if n := len(assertLog(t, log)); n != 2 {
				t.Errorf("%d commits", n)
			}
		})
	}
}

func TestConflictIsDecidedAgain(t *testing.T) {
	t.Parallel()
	eachStore(t, func(t *testing.T, log opener) {
		one, two := start(t, Config{Store: log(nil)}), start(t, Config{Store: log(nil)})
		granted(t, do(t, one, cmd("a", "1", "put", m{"by": 1})), 1)
		granted(t, do(t, two, cmd("a", "2", "put", m{"by": 2})), 2)
		// A rejection must be decided at the newest version.
		if f := failed(t, do(t, one, cmd("a", "3", "put", m{"by": 0})), command.CodeRejected, command.RetryNo); f.Message != "the box has 3" {
			t.Errorf("the rejection was decided at a stale state: %s", f.Message)
		}
		if s := one.Stats(); s.Conflicts != 1 {
			t.Errorf("%d conflicts", s.Conflicts)
		}
		granted(t, do(t, one, cmd("a", "4", "put", m{"by": 3})), 3)
		// So must a decision to change nothing.
		if r := granted(t, do(t, two, cmd("a", "5", "idle", m{})), 3); r.Position != 3 {
			t.Errorf("%+v", r)
		}
	})
}

func TestRepeatedConflictsEndAsBusy(t *testing.T) {
	t.Parallel()
	log := newMemlog()
	n := 0
	log.before = func(u eventstore.Unit) error {
		n++ // one aggregate, so no concurrent appends
		return &eventstore.ConflictError{Stream: u.Stream, Expected: u.Expected, Actual: u.Expected + 1}
	}
	h := start(t, Config{Store: log})
	failed(t, do(t, h, cmd("a", "1", "put", m{"by": 1})), command.CodeBusy, command.RetryLater)
	if n != maxConflicts {
		t.Errorf("tried %d times", n)
	}
	if s := h.Stats(); s.Conflicts != maxConflicts || s.Busy != 1 || s.Cached != 0 {
		t.Errorf("%+v", s)
	}
}

// One host observes the commits of both, the other none.
func TestTwoHostsExecuteEachCommandOnce(t *testing.T) {
	t.Parallel()
	eachStore(t, func(t *testing.T, log opener) {
		var hosts [2]*Host
		var mu sync.Mutex // until both hosts are set
		feed := func(_ string, commits []eventstore.Commit) {
			mu.Lock()
			defer mu.Unlock()
			hosts[0].Observe(commits)
		}
		mu.Lock()
		for i := range hosts {
			hosts[i] = start(t, Config{Store: log(feed)})
		}
		mu.Unlock()

		const boxes, senders, each = 3, 8, 20
		var wg sync.WaitGroup
		for sender := range senders {
			wg.Go(func() {
				for i := range each {
					c := cmd(fmt.Sprint(i%boxes), fmt.Sprintf("%d-%d", sender, i), "put", m{"by": 1})
					h := hosts[rand.N(2)]
					for {
						o := do(t, h, c)
						if o.Failure == nil {
							break
						}
						if o.Failure.Retry == command.RetryNo {
							t.Errorf("%s: %v", c.Key, o.Failure)
							return
						}
						h = hosts[rand.N(2)]
					}
					if i%5 == 0 { // a strong get on any host shows an acknowledged command
						if _, version := get(t, hosts[rand.N(2)], command.Get{Stream: c.Stream, Strong: true}); version == 0 {
							t.Errorf("%s: version 0 after an acknowledged command", c.Stream)
						}
					}
				}
			})
		}
		wg.Wait()
		store := log(nil)
		if n := len(assertLog(t, store)); n != senders*each {
			t.Errorf("%d commits for %d commands", n, senders*each)
		}
		for b := range boxes {
			for i, h := range hosts {
				want := senders * ((each - b + boxes - 1) / boxes)
				if value, version := get(t, h, command.Get{Stream: box(fmt.Sprint(b)), Strong: true}); value != want || int(version) != want {
					t.Errorf("host %d shows %d at version %d for box %d, want %d", i, value, version, b, want)
				}
			}
		}
	})
}
