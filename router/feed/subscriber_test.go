package feed

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/proto/peer"
	"github.com/ganglion-es/ganglion/router/cluster"
)

// bed is a subscriber with publishers around it, in a synctest bubble: time
// passes only when everybody waits, so what these tests say of time is exact.
type bed struct {
	*testing.T
	net   *network
	log   *memory
	views *views
	got   *witness
	sub   *Subscriber
	rng   *rand.Rand
}

// inBed runs a test with a log of ten commits.
func inBed(t *testing.T, test func(t *testing.T, b *bed)) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rng := rand.New(rand.NewPCG(5, 6))
		b := &bed{
			T: t, net: newNetwork(t, false), log: newMemory(history(rng, 0, 10)),
			views: new(views), got: newWitness(), rng: rng,
		}
		test(t, b)
		synctest.Wait()
		b.got.check(t)
	})
}

// publisher adds a domain node to the network, not to the view.
func (b *bed) publisher() (*Publisher, string) {
	p := NewPublisher(PublisherConfig{})
	return p, b.net.serve(p)
}

func (b *bed) config() SubscriberConfig {
	return SubscriberConfig{
		Self: "gateway", Store: b.log, Push: true, Watch: b.views.watch, Conn: b.net.conn,
		Begin: b.got.begin, Deliver: b.got.deliver,
	}
}

// start starts the subscriber and waits until it has nothing left to do now.
func (b *bed) start(cfg SubscriberConfig) {
	b.Helper()
	b.sub = start(b.T, cfg)
	waitStarted(b, b.sub)
	synctest.Wait()
}

// commit appends n commits to the log, and leaves it to the test to push them.
func (b *bed) commit(n int) []eventstore.Commit {
	cs := history(b.rng, b.log.end(), n)
	b.log.append(cs...)
	return cs
}

// within checks that everything is delivered before d has passed.
func (b *bed) within(d time.Duration) {
	b.Helper()
	began := time.Now()
	b.got.wait(b, b.log.end())
	if took := time.Since(began); took > d {
		b.Errorf("it took %v, want at most %v", took, d)
	}
}

// quiet lets the looks that follow upon the opening of streams pass.
func (b *bed) quiet() {
	time.Sleep(120 * time.Millisecond)
	synctest.Wait()
}

func TestPushedEventsArriveAtOnceAndInOrder(t *testing.T) {
	inBed(t, func(t *testing.T, b *bed) {
		p1, a1 := b.publisher()
		p2, a2 := b.publisher()
		b.views.set(domain("n1", a1), domain("n2", a2))
		b.start(b.config())
		b.quiet()
		_, reads := b.log.asked()
		for range 50 {
			first, second := b.commit(1+b.rng.IntN(5)), b.commit(1+b.rng.IntN(5))
			p2.Publish(logOne, second) // the later one comes first
			synctest.Wait()
			p1.Publish(logOne, first)
			b.within(0)
		}
		if st := b.sub.Stats(); st.Read != 0 || st.Pushed == 0 || st.Holes != 0 || st.Refused != 0 || st.Parked != 0 {
			t.Errorf("%+v", st)
		}
		if _, now := b.log.asked(); now != reads {
			t.Errorf("the log was read %d times", now-reads)
		}
		if seen := b.log.seen(); seen != b.sub.Watermark() {
			t.Errorf("the store has witnessed %d of %d", seen, b.sub.Watermark())
		}
		if len(b.sub.Stats().Streams) != 2 {
			t.Errorf("streams: %+v", b.sub.Stats().Streams)
		}
	})
}

func TestANodeReadsItsOwnPublisher(t *testing.T) {
	inBed(t, func(t *testing.T, b *bed) {
		p := NewPublisher(PublisherConfig{})
		cfg := b.config()
		cfg.Self, cfg.Local = "n1", p
		b.views.set(domain("n1", "nobody dials this"))
		b.start(cfg)
		for range 10 {
			p.Publish(logOne, b.commit(3))
			b.within(0)
		}
		if st := b.sub.Stats(); st.Read != 0 || len(st.Streams) != 1 || !st.Streams[0].Healthy {
			t.Errorf("%+v", st)
		}
		p.Bye()
		synctest.Wait()
		if st := b.sub.Stats(); !st.Streams[0].Bye || p.Stats().Subscribers != 0 {
			t.Errorf("after BYE: %+v, %d subscribers", st, p.Stats().Subscribers)
		}
	})
}

func TestWithoutPushEverythingIsDelivered(t *testing.T) {
	inBed(t, func(t *testing.T, b *bed) {
		p, a := b.publisher()
		b.views.set(domain("n1", a))
		cfg := b.config()
		cfg.Push = false
		b.start(cfg)
		for range 20 {
			p.Publish(logOne, b.commit(1+b.rng.IntN(3*pageCommits)))
			b.within(tailEvery)
		}
		if st := b.sub.Stats(); st.Pushed != 0 || st.Read == 0 || len(st.Streams) != 0 || p.Stats().Subscribers != 0 {
			t.Errorf("%+v", st)
		}
	})
}

// A hole is given 30 ms, in which the push that fills it may come.
func TestAHoleIsReadFromTheLog(t *testing.T) {
	inBed(t, func(t *testing.T, b *bed) {
		p, a := b.publisher()
		b.views.set(domain("n1", a))
		b.start(b.config())
		b.quiet()
		b.commit(1) // committed by somebody who never pushes it
		p.Publish(logOne, b.commit(2))
		synctest.Wait()
		if st := b.sub.Stats(); st.Parked == 0 || b.sub.Behind() != 0 || st.Lag == 0 {
			t.Errorf("%+v", st)
		}
		b.within(patience)
		if st := b.sub.Stats(); st.Holes != 1 || st.Lag != 0 || b.sub.Behind() != 0 {
			t.Errorf("%+v", st)
		}
	})
}

// A node learns from Behind that it serves old news, however healthy its streams
// are.
func TestBehindGrowsWhileTheLogCannotFillAHole(t *testing.T) {
	inBed(t, func(t *testing.T, b *bed) {
		p, a := b.publisher()
		b.views.set(domain("n1", a))
		b.start(b.config())
		b.quiet()
		b.log.fail(eventstore.ErrUnavailable)
		b.commit(1) // committed by somebody who never pushes it
		p.Publish(logOne, b.commit(2))
		time.Sleep(6 * time.Second)
		if behind := b.sub.Behind(); behind < 5*time.Second || !b.sub.Streaming() {
			t.Errorf("behind for %v, streaming %v", behind, b.sub.Streaming())
		}
		b.log.fail(nil)
		b.within(retryMax)
		if behind := b.sub.Behind(); behind != 0 {
			t.Errorf("behind for %v with the log", behind)
		}
	})
}

// What a publisher committed and did not push before it died is looked for
// at once, and again for an append that the dead node had sent.
func TestWhatADeadPublisherLeftIsFound(t *testing.T) {
	inBed(t, func(t *testing.T, b *bed) {
		_, a1 := b.publisher()
		_, a2 := b.publisher()
		b.views.set(domain("n1", a1), domain("n2", a2))
		b.start(b.config())
		b.quiet()
		b.commit(2)
		b.net.stop(a1)
		b.within(0)

		// It is out of view: only the looks after its end are left.
		b.views.set(domain("n2", a2))
		synctest.Wait()
		b.within(0)
		b.commit(1)
		b.within(50 * time.Millisecond)
		b.commit(1)
		b.within(150 * time.Millisecond)
		// And this one nobody can have expected.
		b.commit(1)
		b.within(headEvery + patience)
		if st := b.sub.Stats(); st.Read == 0 || st.Pushed != 0 {
			t.Errorf("%+v", st)
		}
	})
}

func TestTheLogIsTailedWhileAMemberHasNoStream(t *testing.T) {
	inBed(t, func(t *testing.T, b *bed) {
		p, a := b.publisher()
		b.views.set(domain("n1", a), domain("n2", "nobody listens here"))
		b.start(b.config())
		b.quiet()
		for range 10 {
			b.commit(1)
			b.within(tailEvery)
		}
		for _, st := range b.sub.Stats().Streams {
			if st.Healthy != (st.Member == "n1") {
				t.Errorf("%+v", st)
			}
		}
		// Another run of n2 is reached, and only what it pushes is needed.
		_, a2 := b.publisher()
		m := domain("n2", a2)
		m.Boot, m.State = 2, cluster.Draining
		b.views.set(domain("n1", a), m)
		b.quiet()
		heads, _ := b.log.asked()
		time.Sleep(10 * headEvery)
		if now, _ := b.log.asked(); now-heads > 11 {
			t.Errorf("the log was asked %d times in %v", now-heads, 10*headEvery)
		}
		p.Publish(logOne, b.commit(1))
		b.within(0)
	})
}

// mute is a peer that opens streams and says what it is told to, if anything.
type mute struct {
	say     chan []byte
	streams atomic.Int32 // that were opened
}

func (m *mute) Feed(_ *peer.FeedRequest, stream grpc.ServerStreamingServer[peer.FeedBatch]) error {
	m.streams.Add(1)
	for {
		select {
		case wire, ok := <-m.say:
			if !ok {
				return nil
			}
			if err := stream.Send(preencoded(slices.Concat(wire, encodeLog(logOne)))); err != nil {
				return err
			}
		case <-stream.Context().Done():
			return nil
		}
	}
}

func TestASilentStreamIsNotHealthy(t *testing.T) {
	inBed(t, func(t *testing.T, b *bed) {
		m := &mute{say: make(chan []byte)}
		b.views.set(domain("n1", b.net.serve(m)))
		b.start(b.config())
		healthy := func() bool { return b.sub.Stats().Streams[0].Healthy }
		if healthy() {
			t.Error("healthy before it said anything")
		}
		m.say <- encodeHead(0)
		synctest.Wait()
		if !healthy() {
			t.Error("not healthy after it spoke")
		}
		time.Sleep(silence + time.Millisecond)
		if healthy() {
			t.Error("healthy after a silence")
		}
		time.Sleep(tailEvery)
		b.commit(1)
		b.within(tailEvery)
		m.say <- encodeHead(b.log.end())
		synctest.Wait()
		if !healthy() {
			t.Error("not healthy after it spoke again")
		}
		time.Sleep(giveUp + retryMin)
		synctest.Wait()
		m.say <- encodeHead(0) // on a new stream: the old one was given up
		synctest.Wait()
		if !healthy() {
			t.Error("the silent stream was not opened anew")
		}
	})
}

func TestBye(t *testing.T) {
	inBed(t, func(t *testing.T, b *bed) {
		p, a := b.publisher()
		b.views.set(domain("n1", a))
		b.start(b.config())
		b.quiet()
		p.Publish(logOne, b.commit(5))
		b.commit(1) // of somebody else, who died: the end of a stream is a reason to look
		p.Bye()
		b.within(0)
		synctest.Wait()
		if st := b.sub.Stats().Streams[0]; !st.Bye || !st.Healthy {
			t.Errorf("%+v", st)
		}
		time.Sleep(time.Second)
		heads, _ := b.log.asked()
		time.Sleep(10 * headEvery)
		if now, _ := b.log.asked(); now-heads > 11 {
			t.Errorf("after BYE the log was asked %d times in %v", now-heads, 10*headEvery)
		}
		if n := p.Stats().Subscribers; n != 0 {
			t.Errorf("%d streams after BYE", n)
		}
		// Started again, it is listened to again.
		p, a = b.publisher()
		m := domain("n1", a)
		m.Boot++
		b.views.set(m)
		b.quiet()
		p.Publish(logOne, b.commit(1))
		b.within(0)
		if b.sub.Stats().Pushed == 0 {
			t.Error("nothing was pushed")
		}
	})
}

// A subscriber that does not keep up falls out of the ring and reads the log;
// the others notice nothing.
func TestASlowSubscriberCostsNobodyElseAnything(t *testing.T) {
	inBed(t, func(t *testing.T, b *bed) {
		p := NewPublisher(PublisherConfig{frames: 16})
		b.views.set(domain("n1", b.net.serve(p)))
		b.start(b.config())

		gate, slowGot := make(chan struct{}), newWitness()
		cfg := b.config()
		cfg.Self, cfg.Begin = "slow", slowGot.begin
		cfg.Deliver = func(cs []eventstore.Commit) {
			<-gate
			slowGot.deliver(cs)
		}
		slow := start(t, cfg)
		waitStarted(t, slow)
		b.quiet()

		for range 400 {
			cs := b.commit(4)
			for i := range cs {
				cs[i].Events[0].Data = make([]byte, 4<<10)
			}
			p.Publish(logOne, cs)
			b.within(0)
		}
		if st := b.sub.Stats(); st.Skips != 0 || st.Read != 0 || st.Holes != 0 {
			t.Errorf("the others noticed: %+v", st)
		}
		close(gate)
		slowGot.wait(t, b.log.end())
		if st := slow.Stats(); st.Skips == 0 || st.Read == 0 || st.Pushed == 0 {
			t.Errorf("the slow one: %+v", st)
		}
		if p.Stats().Skips == 0 || p.Stats().RingBytes > ringBytes {
			t.Errorf("the publisher: %+v", p.Stats())
		}
		slowGot.check(t)
	})
}

func TestParkedEventsHaveABound(t *testing.T) {
	inBed(t, func(t *testing.T, b *bed) {
		p, a := b.publisher()
		b.views.set(domain("n1", a))
		b.start(b.config())
		b.quiet()
		b.log.fail(eventstore.ErrUnavailable)
		b.commit(1) // never pushed
		for range 60 {
			p.Publish(logOne, b.commit(100))
			synctest.Wait()
		}
		st := b.sub.Stats()
		if st.Overflows == 0 || st.Parked > parkedEvents || st.Parked < parkedEvents/2 {
			t.Errorf("%+v", st)
		}
		time.Sleep(5 * time.Second)
		if behind := b.sub.Behind(); behind < 5*time.Second {
			t.Errorf("behind for %v", behind)
		}
		b.log.fail(nil)
		b.within(retryMax + patience)
		st = b.sub.Stats()
		if st.Parked != 0 || st.Lag != 0 || st.BehindMS != 0 {
			t.Errorf("%+v", st)
		}
	})
}

func TestItStartsWhenTheStoreAnswers(t *testing.T) {
	inBed(t, func(t *testing.T, b *bed) {
		p, a := b.publisher()
		b.views.set(domain("n1", a))
		b.log.fail(eventstore.ErrUnavailable)
		b.sub = start(t, b.config())
		time.Sleep(time.Minute)
		select {
		case <-b.sub.Started():
			t.Error("it started without knowing the head")
		default:
		}
		p.Publish(logOne, b.commit(3))
		b.log.fail(nil)
		waitStarted(t, b.sub)
		if w := b.sub.Watermark(); w != b.log.end() {
			t.Errorf("the watermark is %d, the head %d", w, b.log.end())
		}
		synctest.Wait()
		p.Publish(logOne, b.commit(3))
		b.within(0)
	})
}

func TestALogThatWentBack(t *testing.T) {
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
		q.Publish(logTwo, b.commit(5)) // the rest of the cluster goes on, with positions used before
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
			t.Errorf("the local publisher still says %d, the head is %d", h, head)
		}
		// What the publishers still think of the lost log does no harm.
		b.quiet()
		for range 5 {
			q.Publish(logTwo, b.commit(3))
			b.within(tailEvery)
		}
		local.Publish(logTwo, b.commit(3))
		b.within(tailEvery)
		time.Sleep(2 * distrust)
		p.Publish(logTwo, b.commit(3))
		b.within(tailEvery)
		if behind := b.sub.Behind(); behind != 0 {
			t.Errorf("behind for %v", behind)
		}
	})
}

// What was received of the lost history and not yet looked at when Reset came
// is forgotten.
func TestResetForgetsWhatIsOnItsWay(t *testing.T) {
	for i := range 8 { // whether Reset or the next arrival is taken first is left to chance
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
				synctest.Wait() // it is being delivered
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

// The other nodes have accepted a loss that this one has not noticed yet, and
// their log has grown past what was delivered here.
func TestEventsOfAnotherLogAreNeverDelivered(t *testing.T) {
	inBed(t, func(t *testing.T, b *bed) {
		p, a := b.publisher()
		b.views.set(domain("n1", a))
		b.start(b.config())
		b.quiet()
		p.Publish(logOne, b.commit(5))
		b.within(0)
		delivered, w := len(b.got.commits), b.sub.Watermark()

		b.log.fail(eventstore.ErrUnavailable) // this node learns nothing from the log itself
		p.Publish(logTwo, history(b.rng, w-3, 1))
		p.Publish(logTwo, history(b.rng, w, 4))
		time.Sleep(3 * giveUp)
		if len(b.got.commits) != delivered || b.sub.Watermark() != w {
			t.Errorf("events of another log were delivered: the watermark was %d and is %d", w, b.sub.Watermark())
		}
		if b.sub.Streaming() {
			t.Error("a stream of another log counts as one of this log")
		}
	})
}

// A gateway that neither reads the log nor hears every domain node is blind.
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

		b.views.set(one) // n2 said no goodbye: it may only be out of reach
		time.Sleep(time.Second)
		streaming(false, "while one that vanished may still commit")
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

func TestALossThatTheStoreHasAcceptedStillNeedsReset(t *testing.T) {
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

func TestADamagedLogStopsTheFeed(t *testing.T) {
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

// Peers that lie about positions delay nothing by more than a look at the
// log, and are left alone for a while.
func TestAPeerThatTalksNonsense(t *testing.T) {
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
				time.Sleep(patience + tailEvery)
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

func TestConfigReportsEveryProblem(t *testing.T) {
	t.Parallel()
	_, err := NewSubscriber(SubscriberConfig{Push: true, Silence: -1})
	for _, want := range []string{"Self", "Store", "Deliver", "Watch", "Conn", "Silence"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("no word of %s: %v", want, err)
		}
	}
}

// Publish returns whatever the subscribers do; the ring keeps its bounds.
func TestPublishNeverBlocks(t *testing.T) {
	t.Parallel()
	p := NewPublisher(PublisherConfig{frames: 8, bytes: 64 << 10})
	c := p.subscribe() // and takes nothing
	defer c.close()
	w := eventstore.Position(0)
	for range 1000 {
		w++
		big := commit(w, 1)
		big.Events[0].Data = make([]byte, 20<<10)
		p.Publish(logOne, []eventstore.Commit{big})
		if st := p.Stats(); st.RingBytes > 64<<10 || st.Head != w {
			t.Fatalf("%+v", st)
		}
	}
	d := c.take()
	if d.skipFrom != 1 || d.skipTo != w || len(d.frames) != 0 || !d.caughtUp {
		t.Fatalf("%+v", d)
	}
	p.Publish(logOne, []eventstore.Commit{commit(w+1, 1)})
	select {
	case <-d.wake:
	case <-time.After(waitMost):
		t.Fatal("what was published wakes nobody")
	}
	if d = c.take(); d.skipTo != 0 || len(d.frames) != 1 || d.frames[0].to != w+1 {
		t.Fatalf("%+v", d)
	}
}
