package link

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ganglion-es/ganglion/proto/peer"
	"github.com/ganglion-es/ganglion/router/transport"
)

var (
	// ErrDown reports a link without a live stream. Nothing was sent.
	ErrDown = errors.New("link: the peer is not reachable")
	// ErrDraining reports a peer or a link that accepts no more requests. Nothing
	// was sent.
	ErrDraining = errors.New("link: the peer is draining")
	// ErrDoubted reports a link on trial that has an unanswered request. Nothing
	// was sent.
	ErrDoubted = errors.New("link: the peer was silent and has not answered since")
	// ErrFull reports a link whose queue is full. Nothing was sent.
	ErrFull = errors.New("link: too many requests wait for the peer")
	// ErrTooLarge reports a request that exceeds MaxMessage. Nothing was sent.
	ErrTooLarge = errors.New("link: the request is too large")
)

// Config configures a Link.
type Config struct {
	// Node and Addr are the peer's id and address. Required.
	Node, Addr string
	// Open opens a stream to an address: (*transport.Pool).Commands. Required.
	Open func(ctx context.Context, addr, id string) (transport.CommandsClient, error)
	// Silence is how long the peer may send nothing before its stream is
	// abandoned.
	//
	// Defaults to 500 ms.
	Silence time.Duration
	// Changed, if not nil, is called after the link has gone up or down or its
	// peer has begun to drain, when Status already shows it. It must not block.
	Changed func()
	// Silent, if not nil, is called when a stream ended because one side did not
	// hear the other. It must not block.
	Silent func()
	// Logger defaults to one that discards everything.
	Logger *slog.Logger
}

// Link is a stream of requests to one peer. It is safe for concurrent use.
type Link struct {
	cfg     Config
	id      string        // of all its streams
	heard   atomic.Int64  // time of the last batch, in Unix nanoseconds; 0: none
	batches atomic.Uint64 // batches received on this stream
	seen    atomic.Uint64 // replies of this stream whose callbacks have returned
	wake    chan struct{} // the queue is no longer empty; buffers one
	lost    time.Time     // end of the last stream that had received a batch; only Run and receive use it

	mu        sync.Mutex
	open      bool // a stream is served and not abandoned
	up        bool // open, and a batch was received on the stream
	draining  bool
	onTrial   bool // the peer was silent and has not answered since
	finishing bool
	stop      context.CancelFunc // ends Run
	nextID    uint64
	queue     []*request // not written
	queued    int        // bytes in queue
	pending   map[uint64]*request
}

// request is a request without a fate.
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
		id:      rand.Text(),
		wake:    make(chan struct{}, 1),
		pending: make(map[uint64]*request),
	}
}

// Node returns the peer's id.
func (l *Link) Node() string { return l.cfg.Node }

// Addr returns the peer's address.
func (l *Link) Addr() string { return l.cfg.Addr }

// Trust returns what the link can be used for at this moment.
func (l *Link) Trust() Trust {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.trust()
}

func (l *Link) trust() Trust {
	switch {
	case !l.up || l.draining || l.finishing:
		return Unusable
	case l.onTrial && len(l.queue)+len(l.pending) > 0:
		return Doubted
	}
	return Trusted
}

// Status describes the link at this moment.
func (l *Link) Status() Status {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := Status{
		Node: l.cfg.Node, Addr: l.cfg.Addr, Up: l.up, Draining: l.draining, Doubted: l.onTrial, HeardMS: -1,
		Queued: len(l.queue), Unanswered: len(l.queue) + len(l.pending),
	}
	if at := l.heard.Load(); at != 0 {
		s.HeardMS = time.Since(time.Unix(0, at)).Milliseconds()
	}
	return s
}

// Send queues a request and sets its id. Requests are sent in the order of the
// calls. Send does not block. If it returns an error, nothing was sent and done
// is not called; else done is called exactly once, perhaps before Send returns.
//
// minTrust is the lowest trust that the link may have. With Trusted, a link on
// trial accepts one request, and the next only when that one is answered.
func (l *Link) Send(msg *peer.Request, minTrust Trust, done Done) error {
	size := msg.SizeVT() + 32 // id, seen, and the batch around them
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
	case l.trust() < minTrust:
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

// Finish makes the link reject new requests, and makes Run return when no request
// is unanswered.
func (l *Link) Finish() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.finishing = true
	if l.stop != nil && len(l.queue)+len(l.pending) == 0 {
		l.stop()
	}
}

// finished reports whether Finish has been called and no request is unanswered.
func (l *Link) finished() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.finishing && len(l.queue)+len(l.pending) == 0
}

// leaving reports whether the peer has said that it leaves.
func (l *Link) leaving() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.draining
}

// Run keeps the stream up until ctx ends or the link has finished. When it
// returns, every request has its fate.
func (l *Link) Run(ctx context.Context) {
	const shortest, longest = 20 * time.Millisecond, 500 * time.Millisecond
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	l.mu.Lock()
	l.stop = cancel
	l.mu.Unlock()
	pause, refusalLogged := shortest, false
	for ctx.Err() == nil && !l.finished() {
		heard, err := l.stream(ctx)
		if ctx.Err() != nil || l.finished() {
			return
		}
		if transport.CodeOf(err) == transport.FailedPrecondition && !refusalLogged {
			refusalLogged = true
			l.cfg.Logger.Error("a peer refuses this node's commands", "member", l.cfg.Node, "addr", l.cfg.Addr, "err", err)
		}
		if heard {
			l.lost = time.Now()
			if errors.Is(err, io.EOF) || l.leaving() { // the cluster logs that
				l.cfg.Logger.Debug("a peer ended its command stream in order", "member", l.cfg.Node, "addr", l.cfg.Addr)
			} else {
				l.cfg.Logger.Warn("a peer's command stream ended", "member", l.cfg.Node, "addr", l.cfg.Addr, "err", err)
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

// stream opens one stream and serves it until it ends. heard reports whether a
// batch was received on it.
func (l *Link) stream(ctx context.Context) (heard bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := l.cfg.Open(ctx, l.cfg.Addr, l.id)
	if err != nil {
		return false, err
	}
	l.batches.Store(0)
	l.seen.Store(0)
	l.mu.Lock()
	l.open = true
	l.mu.Unlock()

	var received error
	recvEnd, sendEnd := make(chan struct{}), make(chan struct{})
	go func() { defer close(recvEnd); received = l.receive(stream) }()
	go func() { defer close(sendEnd); l.send(ctx, stream) }()
	silent := l.waitSilence(recvEnd)
	l.down()
	cancel()
	<-recvEnd
	<-sendEnd
	if silent {
		received = errSilent
	}
	heard = l.batches.Load() > 0
	if silent || transport.CodeOf(received) == transport.Aborted { // Aborted: the peer reports a silence
		if heard { // else the peer may just have been starting
			l.beginTrial()
		}
		l.cfg.Silent()
	}
	l.reportFates(errors.Is(received, io.EOF))
	if heard {
		l.cfg.Changed()
	}
	return heard, received
}

var errSilent = errors.New("link: the peer was silent for too long")

// waitSilence waits until the stream's receiver has ended, or until the peer has
// been silent for too long. Meanwhile it ends the trial of a peer without
// requests.
func (l *Link) waitSilence(ended <-chan struct{}) (silent bool) {
	const parts = 20 // a silence is noticed at most 1/20 of its length late
	tick := time.NewTicker(l.cfg.Silence / parts)
	defer tick.Stop()
	last, quiet, steady := uint64(0), 0, 0
	for {
		select {
		case <-ended:
			return false
		case <-tick.C:
			if n := l.batches.Load(); n != last {
				last, quiet = n, 0
			} else if quiet++; quiet >= parts {
				return true
			}
			if last == 0 { // nothing was received yet
				continue
			}
			if steady++; steady%(trialSilences*parts) == 0 {
				l.endTrialIfIdle()
			}
		}
	}
}

// receive passes replies to the callbacks of their requests until the stream
// ends.
func (l *Link) receive(stream transport.CommandsClient) error {
	for {
		batch, err := stream.Recv()
		if err != nil {
			return err
		}
		l.heard.Store(time.Now().UnixNano())
		first := l.batches.Add(1) == 1
		if l.noteBatch(first, batch.GetDraining()) {
			if first && !l.lost.IsZero() {
				l.cfg.Logger.Info("a peer is heard again", "member", l.cfg.Node, "address", l.cfg.Addr, "away", time.Since(l.lost).Round(time.Millisecond))
			}
			l.cfg.Changed()
		}
		for _, reply := range batch.GetItems() {
			if done := l.complete(reply.GetId()); done != nil {
				done(reply, Answered)
			}
			l.seen.Add(1)
		}
	}
}

// noteBatch updates the link's state from a batch, and reports whether it
// changed. The first batch of an abandoned stream does not bring the link up:
// requests would be queued without a stream.
func (l *Link) noteBatch(first, draining bool) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.open {
		return false
	}
	changed := first || draining && !l.draining
	if first {
		l.up, l.draining = true, false
	}
	l.draining = l.draining || draining
	return changed
}

// complete removes the request of a reply and returns its callback; nil if no
// such request was sent.
func (l *Link) complete(id uint64) Done {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.pending[id]
	if r == nil {
		return nil
	}
	delete(l.pending, id)
	l.onTrial = false
	if l.finishing && len(l.queue)+len(l.pending) == 0 {
		l.stop()
	}
	return r.done
}

// send writes batches until the stream ends.
func (l *Link) send(ctx context.Context, stream transport.CommandsClient) {
	beat := time.NewTicker(Heartbeat)
	defer beat.Stop()
	for {
		batch, more := l.batch()
		if err := stream.Send(batch); err != nil {
			return // Recv returns the reason
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

// batch moves at most one batch of requests from the queue to pending, and
// reports whether more wait. The caller writes the batch, so its requests
// count as sent.
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
		// The peer forgets a refusal once a batch reports that this node has acted
		// on it. It must not forget before it has the requests that were queued
		// earlier than that.
		batch.Seen = l.queue[0].msg.Seen
	}
	return batch, len(l.queue) > 0
}

func (l *Link) down() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open, l.up = false, false
}

func (l *Link) beginTrial() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.onTrial = true
}

// endTrialIfIdle ends the trial if no request is unanswered.
func (l *Link) endTrialIfIdle() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.queue)+len(l.pending) == 0 {
		l.onTrial = false
	}
}

// reportFates reports the fate of every request after the stream has ended, in
// the order of the Send calls. The link is down, so Send adds none.
func (l *Link) reportFates(clean bool) {
	l.mu.Lock()
	pending, queue := l.pending, l.queue
	l.pending, l.queue, l.queued = make(map[uint64]*request), nil, 0
	l.mu.Unlock()
	fate := Unknown
	if clean {
		fate = NotExecuted
	}
	for _, id := range slices.Sorted(maps.Keys(pending)) {
		pending[id].done(nil, fate)
	}
	for _, r := range queue {
		r.done(nil, NotExecuted)
	}
}

// signal sends on a channel that buffers one signal, unless one is pending.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
