package feed

import (
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/proto/peer"
	"github.com/ganglion-es/ganglion/router/cluster"
	"github.com/ganglion-es/ganglion/router/transport"
)

// bed is a subscriber with publishers, in a synctest bubble: time passes only
// when all goroutines wait, so the times in these tests are exact.
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
		Self: "gateway", Store: b.log, Push: true, Watch: b.views.watch, Open: b.net.open,
		Begin: b.got.begin, Deliver: b.got.deliver,
	}
}

// start starts the subscriber and waits until it is idle.
func (b *bed) start(cfg SubscriberConfig) {
	b.Helper()
	b.sub = start(b.T, cfg)
	waitStarted(b, b.sub)
	synctest.Wait()
}

// commit appends n commits to the log and does not push them.
func (b *bed) commit(n int) []eventstore.Commit {
	cs := history(b.rng, b.log.end(), n)
	b.log.append(cs...)
	return cs
}

// within checks that everything is delivered within d.
func (b *bed) within(d time.Duration) {
	b.Helper()
	began := time.Now()
	b.got.wait(b, b.log.end())
	if took := time.Since(began); took > d {
		b.Errorf("it took %v, want at most %v", took, d)
	}
}

// quiet waits until no more questions follow from the opening of streams.
func (b *bed) quiet() {
	time.Sleep(120 * time.Millisecond)
	synctest.Wait()
}

func TestPushedEventsArriveInOrder(t *testing.T) {
	inBed(t, func(t *testing.T, b *bed) {
		p1, a1 := b.publisher()
		p2, a2 := b.publisher()
		b.views.set(domain("n1", a1), domain("n2", a2))
		b.start(b.config())
		b.quiet()
		_, reads := b.log.asked()
		for range 50 {
			first, second := b.commit(1+b.rng.IntN(5)), b.commit(1+b.rng.IntN(5))
			p2.Publish(logOne, second) // the later one arrives first
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

func TestNodeReadsItsOwnPublisher(t *testing.T) {
	inBed(t, func(t *testing.T, b *bed) {
		p := NewPublisher(PublisherConfig{})
		cfg := b.config()
		cfg.Self, cfg.Local = "n1", p
		b.views.set(domain("n1", "never dialled"))
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
			b.within(pollEvery)
		}
		if st := b.sub.Stats(); st.Pushed != 0 || st.Read == 0 || len(st.Streams) != 0 || p.Stats().Subscribers != 0 {
			t.Errorf("%+v", st)
		}
	})
}

// For 30 ms a hole waits for the push that fills it.
func TestHoleIsReadFromLog(t *testing.T) {
	inBed(t, func(t *testing.T, b *bed) {
		p, a := b.publisher()
		b.views.set(domain("n1", a))
		b.start(b.config())
		b.quiet()
		b.commit(1) // never pushed
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

// While a node cannot deliver new events, Behind grows, even if its streams are
// healthy.
func TestBehindGrowsWhileTheLogCannotFillAHole(t *testing.T) {
	inBed(t, func(t *testing.T, b *bed) {
		p, a := b.publisher()
		b.views.set(domain("n1", a))
		b.start(b.config())
		b.quiet()
		b.log.fail(eventstore.ErrUnavailable)
		b.commit(1) // never pushed
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

// When a publisher dies, the log is asked immediately for commits that it did not
// push, and again for an append that it had sent.
func TestEventsOfDeadPublisherAreFound(t *testing.T) {
	inBed(t, func(t *testing.T, b *bed) {
		_, a1 := b.publisher()
		_, a2 := b.publisher()
		b.views.set(domain("n1", a1), domain("n2", a2))
		b.start(b.config())
		b.quiet()
		b.commit(2)
		b.net.stop(a1)
		b.within(0)

		// The publisher is not in the view: only the questions after its end remain.
		b.views.set(domain("n2", a2))
		synctest.Wait()
		b.within(0)
		b.commit(1)
		b.within(50 * time.Millisecond)
		b.commit(1)
		b.within(150 * time.Millisecond)
		// This one commits after those questions.
		b.commit(1)
		b.within(headEvery + patience)
		if st := b.sub.Stats(); st.Read == 0 || st.Pushed != 0 {
			t.Errorf("%+v", st)
		}
	})
}

func TestLogIsPolledWhileMemberHasNoStream(t *testing.T) {
	inBed(t, func(t *testing.T, b *bed) {
		p, a := b.publisher()
		b.views.set(domain("n1", a), domain("n2", "no listener"))
		b.start(b.config())
		b.quiet()
		for range 10 {
			b.commit(1)
			b.within(pollEvery)
		}
		for _, st := range b.sub.Stats().Streams {
			if st.Healthy != (st.Member == "n1") {
				t.Errorf("%+v", st)
			}
		}
		// n2 has restarted, and its pushes suffice.
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

// mute is a peer that opens streams and sends only what the test says.
type mute struct {
	say     chan []byte
	streams atomic.Int32 // that were opened
}

func (m *mute) Feed(_ string, stream transport.Sender[peer.FeedBatch]) error {
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

func TestSilentStreamIsUnhealthy(t *testing.T) {
	inBed(t, func(t *testing.T, b *bed) {
		m := &mute{say: make(chan []byte)}
		b.views.set(domain("n1", b.net.serve(m)))
		b.start(b.config())
		healthy := func() bool { return b.sub.Stats().Streams[0].Healthy }
		if healthy() {
			t.Error("healthy before its first message")
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
		time.Sleep(pollEvery)
		b.commit(1)
		b.within(pollEvery)
		m.say <- encodeHead(b.log.end())
		synctest.Wait()
		if !healthy() {
			t.Error("not healthy after it spoke again")
		}
		time.Sleep(giveUp + retryMin)
		synctest.Wait()
		m.say <- encodeHead(0) // on a new stream: the old one was abandoned
		synctest.Wait()
		if !healthy() {
			t.Error("the silent stream was not opened again")
		}
	})
}

func TestByeEndsStreamInOrder(t *testing.T) {
	inBed(t, func(t *testing.T, b *bed) {
		p, a := b.publisher()
		b.views.set(domain("n1", a))
		b.start(b.config())
		b.quiet()
		p.Publish(logOne, b.commit(5))
		b.commit(1) // by a dead node; found because a stream's end causes a question
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
		// After a restart its pushes arrive again.
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

// A slow subscriber falls out of the ring and reads the log. Other subscribers are
// not affected.
func TestSlowSubscriberDoesNotAffectOthers(t *testing.T) {
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

func TestFeedStartsWhenStoreAnswers(t *testing.T) {
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

func TestConfigReportsEveryProblem(t *testing.T) {
	t.Parallel()
	_, err := NewSubscriber(SubscriberConfig{Push: true, Silence: -1})
	for _, want := range []string{"Self", "Store", "Deliver", "Watch", "Open", "Silence"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not name %s: %v", want, err)
		}
	}
}

// Publish returns even if subscribers are blocked, and the ring keeps its bounds.
func TestPublishNeverBlocks(t *testing.T) {
	t.Parallel()
	p := NewPublisher(PublisherConfig{frames: 8, bytes: 64 << 10})
	c := p.subscribe() // which reads nothing
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
	d := c.read()
	if d.skipFrom != 1 || d.skipTo != w || len(d.frames) != 0 || !d.caughtUp {
		t.Fatalf("%+v", d)
	}
	p.Publish(logOne, []eventstore.Commit{commit(w+1, 1)})
	select {
	case <-d.wake:
	case <-time.After(waitMost):
		t.Fatal("Publish does not wake a waiting cursor")
	}
	if d = c.read(); d.skipTo != 0 || len(d.frames) != 1 || d.frames[0].to != w+1 {
		t.Fatalf("%+v", d)
	}
}
