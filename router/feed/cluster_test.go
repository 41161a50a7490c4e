package feed

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/sqlite"
	"github.com/ganglion-es/ganglion/proto/peer"
	"github.com/ganglion-es/ganglion/router/cluster"
	"github.com/ganglion-es/ganglion/router/transport"
)

// Three nodes commit to one log, over real connections that are cut, and
// behind servers that are killed and restarted. Every subscriber delivers the
// whole log in order.
func TestEverySubscriberDeliversTheLog(t *testing.T) {
	for _, push := range []bool{true, false} {
		t.Run(fmt.Sprintf("push=%v", push), func(t *testing.T) {
			t.Parallel()
			const nodes = 3
			rounds := 40 // each waits for the disk
			if !push {
				rounds = 10 // connections do not matter without pushing
			}
			dir := t.TempDir()
			net := newNetwork(t, true)
			members := new(views)
			var (
				stores [nodes]*sqlite.Store
				pubs   [nodes]*Publisher
				view   [nodes]cluster.Member
			)
			for i := range nodes {
				pubs[i] = NewPublisher(PublisherConfig{})
				stores[i] = open(t, dir, pubs[i].Publish)
				view[i] = domain(fmt.Sprintf("n%d", i), net.serve(pubs[i]))
			}
			members.set(slices.Clone(view[:])...)

			var got []*witness
			var subs []*Subscriber
			subscribe := func(cfg SubscriberConfig) {
				w := newWitness()
				cfg.Begin, cfg.Deliver = w.begin, w.deliver
				cfg.Push, cfg.Watch, cfg.Open = push, members.watch, net.open
				got, subs = append(got, w), append(subs, start(t, cfg))
			}
			for i := range nodes {
				subscribe(SubscriberConfig{Self: fmt.Sprintf("n%d", i), Store: stores[i], Local: pubs[i]})
			}
			subscribe(SubscriberConfig{Self: "g1", Store: open(t, dir, nil)})
			subscribe(SubscriberConfig{Self: "g2", Store: open(t, dir, nil)})
			for _, s := range subs {
				waitStarted(t, s)
			}

			// In each round every node appends, and in some rounds a
			// connection or a server breaks.
			rng := rand.New(rand.NewPCG(7, 8))
			for round := range rounds {
				var appending sync.WaitGroup
				for i, s := range stores {
					for lane := range 1 + rng.IntN(4) {
						u := unit(fmt.Sprintf("s%d-%d-%d", i, lane, round), 1+rng.IntN(4), 1+rng.IntN(3))
						appending.Go(func() {
							if _, err := s.Append(t.Context(), u); err != nil {
								t.Error(err)
							}
						})
					}
				}
				switch i := rng.IntN(nodes); rng.IntN(8) {
				case 0, 1:
					net.drop(view[i].PeerAddr)
				case 2:
					net.stop(view[i].PeerAddr)
					view[i].Boot++
					view[i].PeerAddr = net.serve(pubs[i])
					members.set(slices.Clone(view[:])...)
				}
				appending.Wait()
			}

			log := read(t, stores[0])
			head := log[len(log)-1].Position
			for i, w := range got {
				w.wait(t, head)
				st := subs[i].Stats()
				t.Logf("%d: pushed %d, read %d, holes %d, skips %d", i, st.Pushed, st.Read, st.Holes, st.Skips)
				if st.Refused != 0 || push && st.Pushed == 0 || !push && st.Pushed != 0 {
					t.Errorf("subscriber %d: %+v", i, st)
				}
				w.mu.Lock()
				if !reflect.DeepEqual(w.commits, log) {
					t.Errorf("subscriber %d delivered commits that differ from the log", i)
				}
				w.mu.Unlock()
			}
		})
	}
}

func open(t testing.TB, dir string, committed eventstore.Committed) *sqlite.Store {
	t.Helper()
	s, err := sqlite.Open(t.Context(), sqlite.Config{Dir: dir, Committed: committed})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// unit returns the first commands of a stream.
func unit(id string, commands, events int) eventstore.Unit {
	u := eventstore.Unit{Stream: eventstore.StreamID{Type: "counter", ID: id}}
	for i := range commands {
		c := eventstore.Command{
			Key: fmt.Sprintf("%s-%d", id, i), At: time.UnixMicro(1_700_000_000_000_000).UTC(),
			Meta: eventstore.Meta{Client: "ada"},
		}
		for range events {
			c.Events = append(c.Events, eventstore.Event{Type: "added", Form: 1, Data: []byte(`{"by":1}`)})
		}
		u.Commands = append(u.Commands, c)
	}
	return u
}

func read(t testing.TB, s eventstore.Store) []eventstore.Commit {
	t.Helper()
	var log []eventstore.Commit
	for after := eventstore.Position(0); ; after = log[len(log)-1].Position {
		page, err := s.Read(t.Context(), after, 1000)
		if err != nil {
			t.Fatal(err)
		}
		if len(page) == 0 {
			return log
		}
		log = append(log, page...)
	}
}

// scrambler is a peer that pushes a log on streams that break, in frames that
// overlap, repeat, come out of order or are missing.
type scrambler struct {
	id      string // of the log
	log     []eventstore.Commit
	seed    uint64
	streams atomic.Uint64 // each sends other frames
}

func (s *scrambler) Feed(_ string, stream transport.Sender[peer.FeedBatch]) error {
	rng := rand.New(rand.NewPCG(s.seed, s.streams.Add(1)))
	for {
		wire := encodeLog(s.id)
		for range 1 + rng.IntN(8) {
			i := rng.IntN(len(s.log))
			n := min(1+rng.IntN(12), len(s.log)-i)
			for _, f := range frames(s.log[i : i+n]) {
				wire = append(wire, f.encoded()...)
			}
			switch rng.IntN(200) {
			case 0:
				wire = append(wire, encodeHead(s.log[i].Position)...)
			case 1:
				wire = append(wire, encodeSkip(s.log[0].Position, s.log[i].Position)...)
			}
		}
		if err := stream.Send(preencoded(wire)); err != nil {
			return err
		}
		if rng.IntN(20) == 0 {
			return errors.New("this stream breaks")
		}
	}
}

// Peers send repeated, reordered and overlapping frames. Commits are delivered
// dense, in order and once. With half of the seeds the log cannot be read.
func TestScrambledFramesComeOutInOrder(t *testing.T) {
	t.Parallel()
	for seed := range uint64(4) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			rng := rand.New(rand.NewPCG(seed, 9))
			begin := history(rng, 0, 3)
			rest := history(rng, begin[2].Position, 600)
			log := newMemory(begin)
			net, members, got := newNetwork(t, true), new(views), newWitness()
			s := start(t, SubscriberConfig{
				Store: log, Push: true, Watch: members.watch, Open: net.open, Begin: got.begin, Deliver: got.deliver,
			})
			waitStarted(t, s)
			log.append(rest...)
			if seed%2 == 1 {
				log.fail(eventstore.ErrUnavailable)
			}
			var ms []cluster.Member
			for i := range 3 {
				ms = append(ms, domain(fmt.Sprintf("n%d", i), net.serve(&scrambler{id: log.LogID(), log: rest, seed: seed + uint64(i)})))
			}
			members.set(ms...)
			got.wait(t, rest[len(rest)-1].Position)
			st := s.Stats()
			t.Logf("pushed %d, read %d, holes %d, skips %d", st.Pushed, st.Read, st.Holes, st.Skips)
			if st.Refused != 0 || st.Parked > parkedEvents || seed%2 == 1 && st.Read != 0 {
				t.Errorf("%+v", st)
			}
			got.mu.Lock()
			defer got.mu.Unlock()
			if !reflect.DeepEqual(got.commits, rest) {
				t.Error("the delivered commits differ from the log")
			}
		})
	}
}

// A stream ends when its subscriber has gone.
func TestStreamsEndWithTheirSubscriber(t *testing.T) {
	t.Parallel()
	net := newNetwork(t, true)
	p := NewPublisher(PublisherConfig{})
	addr := net.serve(p)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stream, err := net.open(ctx, addr, "gateway")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil { // the head is sent first
		t.Fatal(err)
	}
	cancel()
	net.finish(addr) // returns when the stream has ended
	if n := p.Stats().Subscribers; n != 0 {
		t.Errorf("%d streams are open", n)
	}
}
