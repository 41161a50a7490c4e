package link

import (
	"cmp"
	"context"
	"errors"
	"io"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/ganglion-es/ganglion/proto/peer"
)

var (
	// ErrDown reports a link without a live stream; nothing was sent.
	ErrDown = errors.New("link: the peer is not reachable")
	// ErrDraining reports a peer, or a link, that takes no more requests;
	// nothing was sent.
	ErrDraining = errors.New("link: the peer is draining")
	// ErrDoubted reports a link on trial whose trial is under way; nothing was
	// sent.
	ErrDoubted = errors.New("link: the peer was silent, and has not answered since")
	// ErrFull reports a link whose queue is full; nothing was sent.
	ErrFull = errors.New("link: too many requests wait for the peer")
	// ErrTooLarge reports a request that no link carries; nothing was sent.
	ErrTooLarge = errors.New("link: the request is too large")
)

// Config configures a Link.
type Config struct {
	// Node and Addr are the peer's id and address. Required.
	Node, Addr string
	// Conn returns a connection to an address and a function that releases
	// it, as Pool.Conn does. Required.
	Conn func(addr string) (conn *grpc.ClientConn, release func(), err error)
	// Silence is how long the peer may say nothing before its stream is given
	// up.
	//
	// Defaults to 500 ms.
	Silence time.Duration
	// Changed, if not nil, is called when the link went up or down or its peer
	// began to drain, after Status says so. It must not block.
	Changed func()
	// Silent, if not nil, is called when a stream was given up because one side
	// did not hear the other. It must not block.
	Silent func()
	// Logger defaults to one that discards everything.
	Logger *slog.Logger
}

// Link is a stream of requests to one peer. It is safe for concurrent use.
type Link struct {
	cfg   Config
	heard atomic.Int64 // Unix nanoseconds of the last sign of life; 0: never
	words atomic.Uint64
	seen  atomic.Uint64 // replies of this stream whose callbacks have returned
	wake  chan struct{} // the queue is no longer empty; buffers one
	lost  time.Time     // when the last stream ended that the peer spoke on; Run's and its stream's

	mu        sync.Mutex
	open      bool // a stream is served, and not given up
	up        bool // and the peer has spoken on it
	draining  bool
	doubted   bool // it was silent, and has answered nothing since
	finishing bool
	stop      context.CancelFunc // ends Run
	nextID    uint64
	queue     []*request // in our hands
	queued    int        // bytes in queue
	pending   map[uint64]*request
}

// request is one that has no fate yet.
type request struct {
	msg  *peer.Request
	size int
	done Done
}

// New returns a link that is down until Run is called.
func New(cfg Config) *Link {
	cfg.Silence = cmp.Or(cfg.Silence, DefaultSilence)
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Changed == nil {
		cfg.Changed = func() {}
	}
	if cfg.Silent == nil {
		cfg.Silent = func() {}
	}
	return &Link{
		cfg:     cfg,
		wake:    make(chan struct{}, 1),
		pending: make(map[uint64]*request),
	}
}

// Node returns the peer's id.
func (l *Link) Node() string { return l.cfg.Node }

// Addr returns the peer's address.
func (l *Link) Addr() string { return l.cfg.Addr }

// Trust tells what the link is good for at this moment.
func (l *Link) Trust() Trust {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.trust()
}

func (l *Link) trust() Trust {
	switch {
	case !l.up || l.draining || l.finishing:
		return Unusable
	case l.doubted && len(l.queue)+len(l.pending) > 0:
		return Doubted
	}
	return Trusted
}

// Status describes the link at this moment.
func (l *Link) Status() Status {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := Status{
		Node: l.cfg.Node, Addr: l.cfg.Addr, Up: l.up, Draining: l.draining, Doubted: l.doubted, HeardMS: -1,
		Queued: len(l.queue), Unanswered: len(l.queue) + len(l.pending),
	}
	if at := l.heard.Load(); at != 0 {
		s.HeardMS = time.Since(time.Unix(0, at)).Milliseconds()
	}
	return s
}

// Send hands in a request: requests are sent in the order of the calls. The
// link sets its id. Send never blocks. After an error nothing was sent and
// done is not called; else it is called exactly once, perhaps before Send
// returns.
//
// least is what the link must be good for: with Trusted, a link on trial takes
// one request, and no other until that is answered.
func (l *Link) Send(msg *peer.Request, least Trust, done Done) error {
	size := proto.Size(msg) + 32 // id, seen, and the batch around them
	if size > MaxMessage {
		return ErrTooLarge
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case !l.up:
		return ErrDown
	case l.draining || l.finishing:
		return ErrDraining
	case l.trust() < least:
		return ErrDoubted
	case len(l.queue) >= maxQueued || l.queued+size > maxQueuedSize || len(l.queue)+len(l.pending) >= maxUnanswered:
		return ErrFull
	}
	l.nextID++
	msg.Id, msg.Seen = l.nextID, l.seen.Load()
	l.queue = append(l.queue, &request{msg: msg, size: size, done: done})
	l.queued += size
	if len(l.queue) == 1 {
		signal(l.wake)
	}
	return nil
}

// Finish makes the link take no more requests, and end when it has none
// unanswered.
func (l *Link) Finish() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.finishing = true
	if l.stop != nil && len(l.queue)+len(l.pending) == 0 {
		l.stop()
	}
}

// finished tells whether Finish has been called and nothing is unanswered.
func (l *Link) finished() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.finishing && len(l.queue)+len(l.pending) == 0
}

// Run keeps the stream up until the context ends or the link has finished, and
// has then told the fate of every request.
func (l *Link) Run(ctx context.Context) {
	const shortest, longest = 20 * time.Millisecond, 500 * time.Millisecond
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	l.mu.Lock()
	l.stop = cancel
	l.mu.Unlock()
	// The connection is kept between streams, so that a new stream begins after
	// everything that was sent on the last one.
	conn, release, err := l.cfg.Conn(l.cfg.Addr)
	if err != nil {
		l.cfg.Logger.Error("a peer can't be connected to", "member", l.cfg.Node, "addr", l.cfg.Addr, "error", err)
		return
	}
	defer release()
	pause, refused := shortest, false
	for ctx.Err() == nil && !l.finished() {
		spoke, err := l.stream(ctx, conn)
		if ctx.Err() != nil || l.finished() {
			return
		}
		if status.Code(err) == codes.FailedPrecondition && !refused {
			refused = true // told once
			l.cfg.Logger.Error("a peer refuses this node's commands", "member", l.cfg.Node, "addr", l.cfg.Addr, "error", err)
		}
		if spoke {
			l.lost = time.Now()
			if errors.Is(err, io.EOF) { // the peer leaves, which the cluster's log line says
				l.cfg.Logger.Debug("a peer ended its command stream in order", "member", l.cfg.Node, "addr", l.cfg.Addr)
			} else {
				l.cfg.Logger.Warn("a peer's command stream ended", "member", l.cfg.Node, "addr", l.cfg.Addr, "error", err)
			}
			pause = shortest
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
		pause = min(2*pause, longest)
	}
}

// stream opens one stream and serves it until it ends. It tells whether the
// peer ever spoke on it.
func (l *Link) stream(ctx context.Context, conn *grpc.ClientConn) (spoke bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// Waiting for the connection to be ready leaves the pace of attempts to
	// the pool's backoff.
	stream, err := peer.NewPeerClient(conn).Commands(ctx, grpc.WaitForReady(true))
	if err != nil {
		return false, err
	}
	l.words.Store(0)
	l.seen.Store(0)
	l.mu.Lock()
	l.open = true
	l.mu.Unlock()

	var received error
	recvEnd, sendEnd := make(chan struct{}), make(chan struct{})
	go func() { defer close(recvEnd); received = l.receive(stream) }()
	go func() { defer close(sendEnd); l.send(ctx, stream) }()
	silent := l.watch(recvEnd)
	l.down()
	cancel()
	<-recvEnd
	<-sendEnd
	if silent {
		received = errSilent
	}
	spoke = l.words.Load() > 0
	if silent || status.Code(received) == codes.Aborted { // or the peer says that it was
		if spoke { // else it took no request, and may just have been starting
			l.doubt()
		}
		l.cfg.Silent()
	}
	l.settle(errors.Is(received, io.EOF))
	if spoke {
		l.cfg.Changed()
	}
	return spoke, received
}

var errSilent = errors.New("link: the peer was silent for too long")

// watch waits until the stream's receiving end has ended, or the peer was
// silent for too long. It ends the trial of a peer that never is.
func (l *Link) watch(ended <-chan struct{}) (silent bool) {
	const parts = 20 // so that a silence is found a twentieth late at most
	tick := time.NewTicker(l.cfg.Silence / parts)
	defer tick.Stop()
	last, quiet, steady := uint64(0), 0, 0
	for {
		select {
		case <-ended:
			return false
		case <-tick.C:
			if words := l.words.Load(); words != last {
				last, quiet = words, 0
			} else if quiet++; quiet >= parts {
				return true
			}
			if last == 0 { // nothing was heard yet
				continue
			}
			if steady++; steady%(trialSilences*parts) == 0 {
				l.acquit()
			}
		}
	}
}

// receive hands replies to their requests' callbacks until the stream ends.
func (l *Link) receive(stream grpc.BidiStreamingClient[peer.Requests, peer.Replies]) error {
	for {
		batch, err := stream.Recv()
		if err != nil {
			return err
		}
		l.heard.Store(time.Now().UnixNano())
		first := l.words.Add(1) == 1
		if l.note(first, batch.GetDraining()) {
			if first && !l.lost.IsZero() {
				l.cfg.Logger.Info("a peer is heard again", "member", l.cfg.Node, "addr", l.cfg.Addr, "away", time.Since(l.lost).Round(time.Millisecond))
			}
			l.cfg.Changed()
		}
		for _, reply := range batch.GetItems() {
			if done := l.take(reply.GetId()); done != nil {
				done(reply, Answered)
			}
			l.seen.Add(1)
		}
	}
}

// note keeps what a batch says about the peer, and tells whether it is news.
// The first word on a stream that was given up before it came is none: what
// was sent then would have no stream to go out on.
func (l *Link) note(first, draining bool) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.open {
		return false
	}
	news := first || draining && !l.draining
	if first {
		l.up, l.draining = true, false
	}
	l.draining = l.draining || draining
	return news
}

// take removes the request that a reply is for. A reply to nothing is
// nobody's: peers of another mind can't settle what was not sent to them.
func (l *Link) take(id uint64) Done {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.pending[id]
	if r == nil {
		return nil
	}
	delete(l.pending, id)
	l.doubted = false
	if l.finishing && len(l.queue)+len(l.pending) == 0 {
		l.stop()
	}
	return r.done
}

// send passes batches to gRPC until the stream ends.
func (l *Link) send(ctx context.Context, stream grpc.BidiStreamingClient[peer.Requests, peer.Replies]) {
	beat := time.NewTicker(Heartbeat)
	defer beat.Stop()
	for {
		batch, more := l.batch()
		if err := stream.Send(batch); err != nil {
			return // Recv says why
		}
		if more {
			continue
		}
		select {
		case <-ctx.Done():
			return
		case <-l.wake:
		case <-beat.C:
		}
	}
}

// batch takes what fits into one batch out of the queue, and tells whether
// more is waiting. From here on the fate of what it took is gRPC's.
func (l *Link) batch() (batch *peer.Requests, more bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n, size := 0, 0
	for n < len(l.queue) && n < batchMessages {
		if size += l.queue[n].size; size > batchBytes && n > 0 {
			break
		}
		n++
	}
	batch = &peer.Requests{Items: make([]*peer.Request, n), Seen: l.seen.Load()}
	for i, r := range l.queue[:n] {
		batch.Items[i] = r.msg
		l.pending[r.msg.Id] = r
		l.queued -= r.size
	}
	l.queue = slices.Delete(l.queue, 0, n)
	if len(l.queue) > 0 {
		// The peer forgets a refusal when it hears that we know of it. It
		// must not, as long as something sent in ignorance is to come.
		batch.Seen = l.queue[0].msg.Seen
	}
	return batch, len(l.queue) > 0
}

func (l *Link) down() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open, l.up = false, false
}

// doubt puts the link on trial.
func (l *Link) doubt() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.doubted = true
}

// acquit ends a trial in which the peer has no request to prove itself with.
func (l *Link) acquit() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.queue)+len(l.pending) == 0 {
		l.doubted = false
	}
}

// settle tells every request its fate after the stream has ended, in the
// order in which they were handed in. The link is down, so none is added.
func (l *Link) settle(goodOrder bool) {
	l.mu.Lock()
	pending, queue := l.pending, l.queue
	l.pending, l.queue, l.queued = make(map[uint64]*request), nil, 0
	l.mu.Unlock()
	fate := Unknown
	if goodOrder {
		fate = NotExecuted
	}
	for _, id := range slices.Sorted(maps.Keys(pending)) {
		pending[id].done(nil, fate)
	}
	for _, r := range queue {
		r.done(nil, NotExecuted)
	}
}

// signal wakes one who waits on a channel that buffers one signal.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
