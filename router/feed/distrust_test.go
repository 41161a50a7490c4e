package feed

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/proto/peer"
)

func TestLogThatWentBackStopsFeed(t *testing.T) {
	inBed(t, func(t *testing.T, b *bed) {
		p, a := b.publisher()
		q := NewPublisher(PublisherConfig{})
		b.views.set(domain("n1", a), domain("n2", b.net.serve(q)))
		cfg := b.config()
		local := NewPublisher(PublisherConfig{})
		cfg.Local = local
		b.start(cfg)
		b.quiet()
		local.Publish(logOne, b.commit(20))
		p.Publish(logOne, b.commit(20))
		b.within(0)
		before := b.log.end()

		b.log.cutTo(10)
		time.Sleep(headEvery)
		synctest.Wait()
		if err := b.sub.Err(); !errors.Is(err, eventstore.ErrWentBack) {
			t.Fatalf("Err: %v", err)
		}
		delivered := len(b.got.commits)
		q.Publish(logTwo, b.commit(5)) // other nodes already reuse positions
		p.Publish(logOne, history(b.rng, before, 5))
		time.Sleep(time.Second)
		if len(b.got.commits) != delivered || b.sub.Watermark() != before {
			t.Error("something was delivered")
		}
		if st := b.sub.Stats(); st.Error == "" {
			t.Errorf("%+v", st)
		}

		b.log.accept()
		head := b.log.end()
		b.sub.Reset(logTwo, head)
		if b.sub.Err() != nil || b.sub.Watermark() != head || b.got.watermark() != head {
			t.Errorf("after Reset(%d): %v, watermark %d, begun at %d", head, b.sub.Err(), b.sub.Watermark(), b.got.watermark())
		}
		if h := local.Stats().Head; h > head {
			t.Errorf("the local publisher has head %d, the log has %d", h, head)
		}
		// Pushes of the lost log do no harm.
		b.quiet()
		for range 5 {
			q.Publish(logTwo, b.commit(3))
			b.within(pollEvery)
		}
		local.Publish(logTwo, b.commit(3))
		b.within(pollEvery)
		time.Sleep(2 * distrust)
		p.Publish(logTwo, b.commit(3))
		b.within(pollEvery)
		if behind := b.sub.Behind(); behind != 0 {
			t.Errorf("behind for %v", behind)
		}
	})
}

// Reset drops events of the lost history that were received but not processed.
func TestResetDropsEventsInTransit(t *testing.T) {
	for i := range 8 { // Reset and the next arrival race
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			inBed(t, func(t *testing.T, b *bed) {
				local := NewPublisher(PublisherConfig{})
				cfg := b.config()
				cfg.Local = local
				gate := make(chan struct{})
				cfg.Deliver = func(cs []eventstore.Commit) {
					<-gate
					b.got.deliver(cs)
				}
				b.views.set()
				b.start(cfg)
				kept := b.commit(1)
				local.Publish(logOne, kept)
				synctest.Wait() // Deliver is running
				for range 5 {
					local.Publish(logOne, b.commit(1))
					synctest.Wait()
				}
				w := kept[0].Position
				b.log.cutTo(w)
				b.log.accept()
				done := make(chan struct{})
				go func() {
					b.sub.Reset(logTwo, w)
					close(done)
				}()
				synctest.Wait()
				close(gate)
				<-done
				time.Sleep(time.Second)
				if got := b.sub.Watermark(); got != w || b.sub.Err() != nil {
					t.Errorf("after Reset(%d) the watermark is %d, Err %v", w, got, b.sub.Err())
				}
				local.Publish(logTwo, b.commit(2))
				b.within(0)
			})
		})
	}
}

// Other nodes have accepted a loss that this node has not noticed, and their log
// has grown past what was delivered here.
func TestEventsOfAnotherLogAreNeverDelivered(t *testing.T) {
	inBed(t, func(t *testing.T, b *bed) {
		p, a := b.publisher()
		b.views.set(domain("n1", a))
		b.start(b.config())
		b.quiet()
		p.Publish(logOne, b.commit(5))
		b.within(0)
		delivered, w := len(b.got.commits), b.sub.Watermark()

		b.log.fail(eventstore.ErrUnavailable) // this node cannot read the log
		p.Publish(logTwo, history(b.rng, w-3, 1))
		p.Publish(logTwo, history(b.rng, w, 4))
		time.Sleep(3 * giveUp)
		if len(b.got.commits) != delivered || b.sub.Watermark() != w {
			t.Errorf("events of another log were delivered: the watermark was %d and is %d", w, b.sub.Watermark())
		}
		if b.sub.Streaming() {
			t.Error("a stream of another log counts as healthy")
		}
	})
}

// Streaming is false while a domain node has no healthy stream.
func TestStreamingNeedsEveryDomainMember(t *testing.T) {
	inBed(t, func(t *testing.T, b *bed) {
		_, a := b.publisher()
		q := NewPublisher(PublisherConfig{})
		one, two := domain("n1", a), domain("n2", b.net.serve(q))
		b.views.set(one, two)
		b.start(b.config())
		b.quiet()
		streaming := func(want bool, when string) {
			t.Helper()
			if got := b.sub.Streaming(); got != want {
				t.Errorf("%s: Streaming is %v", when, got)
			}
		}
		streaming(true, "with streams of both")
		b.log.fail(eventstore.ErrUnavailable)
		time.Sleep(time.Second)
		streaming(true, "with streams of both and without the log")
		before, err := b.sub.Answered()
		if !errors.Is(err, eventstore.ErrUnavailable) {
			t.Errorf("the log answers with %v", err)
		}

		b.views.set(one) // n2 left without BYE: it may just be unreachable
		time.Sleep(time.Second)
		streaming(false, "while a vanished member may still commit")
		b.log.fail(nil)
		time.Sleep(time.Second)
		streaming(true, "once the log was read after that")
		if after, err := b.sub.Answered(); err != nil || !after.After(before) {
			t.Errorf("the log answered %v, before that %v: %v", after, before, err)
		}
		b.views.set()
		time.Sleep(time.Second)
		streaming(false, "without any domain member")
	})
}

func TestAcceptedLossStillNeedsReset(t *testing.T) {
	inBed(t, func(t *testing.T, b *bed) {
		b.views.set()
		b.start(b.config())
		b.log.accept()
		b.log.cutTo(5)
		time.Sleep(headEvery)
		synctest.Wait()
		if err := b.sub.Err(); !errors.Is(err, eventstore.ErrWentBack) {
			t.Fatalf("Err: %v", err)
		}
	})
}

func TestDamagedLogStopsFeed(t *testing.T) {
	inBed(t, func(t *testing.T, b *bed) {
		s, err := NewSubscriber(b.config())
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- s.Run(t.Context()) }()
		waitStarted(t, s)
		head := b.log.end()
		b.log.append(commit(head+3, 1))
		err = <-done
		var damaged *eventstore.DamagedError
		if !errors.As(err, &damaged) || damaged.Position != head+1 {
			t.Errorf("Run: %v", err)
		}
		if !errors.Is(s.Err(), eventstore.ErrDamaged) || s.Watermark() != head {
			t.Errorf("Err: %v, watermark %d", s.Err(), s.Watermark())
		}
		s.Reset(logOne, head) // does not hang
		if err := s.Run(t.Context()); err == nil {
			t.Error("Run ran twice")
		}
	})
}

// False positions of a peer cost one question to the log, and the peer is ignored
// for a while.
func TestPeerThatSendsNonsenseIsDistrusted(t *testing.T) {
	always := func(wire []byte) func(eventstore.Position) []byte {
		return func(eventstore.Position) []byte { return wire }
	}
	for name, wire := range map[string]func(head eventstore.Position) []byte{
		"a head that does not exist": always(encodeHead(1 << 40)),
		"a skip to nowhere":          always(encodeSkip(1, 1<<40)),
		"a head that cannot exist":   always(encodeHead(1 << 60)),
		"events that do not exist":   always(frames([]eventstore.Commit{commit(1<<40, 3)})[0].encoded()),
		"a commit that begins at the head": func(head eventstore.Position) []byte {
			return frames([]eventstore.Commit{commit(head+1, 2)})[0].encoded()
		},
		"events that are not there": always(mustEncode(&peer.FeedFrame{Body: &peer.FeedFrame_Commits{
			Commits: &peer.Commits{From: 1, To: 1 << 40},
		}})),
	} {
		t.Run(name, func(t *testing.T) {
			inBed(t, func(t *testing.T, b *bed) {
				p, a := b.publisher()
				m := &mute{say: make(chan []byte)}
				b.views.set(domain("n1", a), domain("n2", b.net.serve(m)))
				b.start(b.config())
				b.quiet()
				m.say <- wire(b.log.end())
				synctest.Wait()
				for range 5 {
					p.Publish(logOne, b.commit(2))
					b.within(0)
				}
				time.Sleep(patience + pollEvery)
				synctest.Wait()
				st := b.sub.Stats()
				if st.Refused == 0 || st.Lag != 0 || st.Parked != 0 || st.Streams[1].Healthy || !st.Streams[0].Healthy {
					t.Errorf("%+v", st)
				}
				if b.sub.Err() != nil || b.sub.Behind() != 0 {
					t.Errorf("Err %v, behind %v", b.sub.Err(), b.sub.Behind())
				}
				p.Publish(logOne, b.commit(1))
				b.within(0)
				time.Sleep(distrust - time.Second)
				if n := m.streams.Load(); n != 1 {
					t.Errorf("%d streams to a peer that is not trusted", n)
				}
				time.Sleep(time.Second)
				synctest.Wait()
				if n := m.streams.Load(); n != 2 {
					t.Errorf("%d streams after the peer was left alone", n)
				}
			})
		})
	}
}
