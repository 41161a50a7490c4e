package link

import (
	"context"
	"errors"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/ganglion-es/ganglion/proto/peer"
	"github.com/ganglion-es/ganglion/router/transport"
)

// InboundConfig configures an Inbound stream.
type InboundConfig struct {
	// Silence is how long this process may send nothing before it assumes that
	// the peer has abandoned the stream. It must equal Config.Silence of peers.
	//
	// Defaults to 500 ms.
	Silence time.Duration
	// Draining asks the peer from the start to send no requests.
	Draining bool
	// Go starts the goroutine that reads requests. The goroutine ends only after
	// the stream has ended. To wait for it, set Go to the
	// method of that name of a sync.WaitGroup.
	//
	// Defaults to a go statement.
	Go func(func())
}

// Inbound is the receiving half of a peer's stream of requests. It is safe for
// concurrent use.
type Inbound struct {
	stream  transport.CommandsServer
	silence time.Duration
	wake    chan struct{} // something to send; buffers one
	room    chan struct{} // something was sent; buffers one
	start   func(func())

	mu       sync.Mutex
	sent     time.Time // when the last batch was written
	heard    uint64    // batches received
	draining bool
	closing  bool // end the stream once the queue is empty
	ended    bool // no reply can be sent any more
	queue    []*peer.Reply
	sizes    []int
	replies  uint64 // calls of Reply
	open     int    // requests whose reply was not written yet
}

// NewInbound wraps a stream; Serve serves it.
func NewInbound(stream transport.CommandsServer, cfg InboundConfig) *Inbound {
	if cfg.Silence == 0 {
		cfg.Silence = DefaultSilence
	}
	if cfg.Go == nil {
		cfg.Go = func(f func()) { go f() }
	}
	return &Inbound{
		stream:   stream,
		silence:  cfg.Silence,
		draining: cfg.Draining,
		sent:     time.Now(),
		wake:     make(chan struct{}, 1),
		room:     make(chan struct{}, 1),
		start:    cfg.Go,
	}
}

// Reply queues the reply to a request and returns its number among the replies
// of the stream: 1, 2, 3, … Every request that was passed to handle needs exactly
// one. Reply does not block. Replies are sent in the order of the calls, and
// dropped once the stream has ended.
func (in *Inbound) Reply(reply *peer.Reply, size int) uint64 {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.replies++
	if in.ended {
		return in.replies
	}
	in.queue = append(in.queue, reply)
	in.sizes = append(in.sizes, size)
	if len(in.queue) == 1 {
		signal(in.wake)
	}
	return in.replies
}

// Drain asks the peer to send no more requests. Requests that it still sends are
// handled.
func (in *Inbound) Drain() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.draining = true
	signal(in.wake)
}

// Close ends the stream cleanly: no further request is handled, and the stream
// ends when every reply has been sent. Then the peer knows that a request without
// a reply was not executed.
func (in *Inbound) Close() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.closing = true
	signal(in.wake)
	signal(in.room)
}

var (
	errPaused  = transport.Errorf(transport.Aborted, "this node was paused for so long that its peer has abandoned the stream")
	errQuiet   = transport.Errorf(transport.Aborted, "this node received nothing from its peer for too long")
	errAborted = transport.Errorf(transport.Unavailable, "this node is stopping")
	errClosed  = errors.New("link: the stream is closing")
)

// Serve serves the stream until it ends. If ctx ends, Serve breaks the stream.
// One goroutine calls handle with each request, in order, and acted after each
// batch. The argument of acted is a number of replies: the peer had acted on all
// of them before it sent any request of a later batch. When Serve returns, handle
// may still be running. Serve can be called once.
func (in *Inbound) Serve(ctx context.Context, handle func(*peer.Request), acted func(seen uint64)) error {
	defer func() {
		in.mu.Lock()
		defer in.mu.Unlock()
		in.ended = true
		in.queue, in.sizes = nil, nil
		signal(in.room)
	}()
	// Recv ends when the handler of the stream returns, and not before.
	received := make(chan error, 1)
	in.start(func() { received <- in.receive(handle, acted) })

	beat := time.NewTicker(Heartbeat)
	defer beat.Stop()
	last, quiet := uint64(0), time.Duration(0)
	for {
		batch, more, end := in.batch()
		if end {
			return nil
		}
		if err := in.send(batch); err != nil {
			return err
		}
		if more {
			continue
		}
		select {
		case <-ctx.Done():
			return errAborted
		case err := <-received:
			if errors.Is(err, errClosed) {
				received = nil // open requests are still answered
				continue
			}
			if errors.Is(err, io.EOF) {
				return nil // the peer ended the stream, and expects no more replies
			}
			return err
		case <-in.wake:
		case <-beat.C:
			if n := in.batches(); n != last {
				last, quiet = n, 0
			} else if quiet += Heartbeat; quiet > in.silence {
				return errQuiet
			}
		}
	}
}

// batches returns how many batches were received.
func (in *Inbound) batches() uint64 {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.heard
}

// batch removes at most one batch of replies from the queue. It reports whether
// more wait, and whether the stream must end.
func (in *Inbound) batch() (batch *peer.Replies, more, end bool) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.closing && in.open == 0 {
		return nil, false, true
	}
	n, size := 0, 0
	for n < len(in.queue) && n < batchMessages {
		if size += in.sizes[n]; size > batchBytes && n > 0 {
			break
		}
		n++
	}
	batch = &peer.Replies{Items: slices.Clone(in.queue[:n]), Draining: in.draining}
	in.queue = slices.Delete(in.queue, 0, n)
	in.sizes = slices.Delete(in.sizes, 0, n)
	return batch, len(in.queue) > 0, false
}

// send writes a batch.
func (in *Inbound) send(batch *peer.Replies) error {
	if err := in.checkPause(); err != nil {
		return err
	}
	if err := in.stream.Send(batch); err != nil {
		return err
	}
	if err := in.checkPause(); err != nil {
		return err
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	in.sent = time.Now()
	in.open -= len(batch.GetItems())
	signal(in.room)
	if in.closing {
		signal(in.wake)
	}
	return nil
}

// checkPause returns an error if this process has sent nothing for so long that
// the peer has abandoned the stream.
func (in *Inbound) checkPause() error {
	in.mu.Lock()
	defer in.mu.Unlock()
	if time.Since(in.sent) > in.silence {
		in.ended = true
		return errPaused
	}
	return nil
}

// receive handles requests until the stream ends.
func (in *Inbound) receive(handle func(*peer.Request), acted func(seen uint64)) error {
	for {
		start := time.Now()
		batch, err := in.stream.Recv()
		if err != nil {
			return err
		}
		if err := in.checkPause(); err != nil {
			return err
		}
		if time.Since(start) > in.silence {
			return errQuiet
		}
		in.mu.Lock()
		in.heard++
		in.mu.Unlock()
		for _, request := range batch.GetItems() {
			if err := in.waitRoom(); err != nil {
				return err
			}
			handle(request)
		}
		acted(batch.GetSeen())
	}
}

// waitRoom waits until the stream may have one more unanswered request.
func (in *Inbound) waitRoom() error {
	for {
		in.mu.Lock()
		switch {
		case in.ended || in.closing:
			in.mu.Unlock()
			return errClosed
		case in.open < maxUnanswered:
			in.open++
			in.mu.Unlock()
			return nil
		}
		in.mu.Unlock()
		select {
		case <-in.room:
		case <-in.stream.Context().Done():
			return in.stream.Context().Err()
		}
	}
}
