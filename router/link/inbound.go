package link

import (
	"context"
	"errors"
	"io"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/ganglion-es/ganglion/proto/peer"
)

// InboundConfig configures an Inbound stream.
type InboundConfig struct {
	// Silence is how long this process may have said nothing before it takes
	// it that the peer has given the stream up. It is what peers have as
	// Config.Silence.
	//
	// Defaults to 500 ms.
	Silence time.Duration
	// Draining tells the peer from the start to send no requests.
	Draining bool
	// Go starts the goroutine that reads requests. It ends soon after Serve's
	// caller has returned to gRPC, and not before; whoever must wait for it
	// gives a function such as sync.WaitGroup's.
	//
	// Defaults to a go statement.
	Go func(func())
}

// Inbound is the receiving half of a peer's stream of requests. It is safe for
// concurrent use.
type Inbound struct {
	stream  peer.Peer_CommandsServer
	silence time.Duration
	wake    chan struct{} // something to send; buffers one
	room    chan struct{} // something was sent; buffers one
	start   func(func())

	mu       sync.Mutex
	spoke    time.Time // when the last batch had been passed to gRPC
	heard    uint64    // batches received
	draining bool
	closing  bool // end the stream once the queue is empty
	ended    bool // nothing can be sent any more
	queue    []*peer.Reply
	sizes    []int
	replies  uint64 // handed in so far
	open     int    // requests without a reply that has been passed to gRPC
}

// NewInbound wraps a stream; Serve serves it.
func NewInbound(stream peer.Peer_CommandsServer, cfg InboundConfig) *Inbound {
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
		spoke:    time.Now(),
		wake:     make(chan struct{}, 1),
		room:     make(chan struct{}, 1),
		start:    cfg.Go,
	}
}

// Reply hands in the reply to a request and returns which reply of the stream
// it is: 1, 2, 3, … Every request that was passed to handle gets exactly one.
// Reply never blocks; replies are sent in the order of the calls, and dropped
// once the stream has ended.
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

// Drain tells the peer to send no more requests; what it sends is still
// handled.
func (in *Inbound) Drain() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.draining = true
	signal(in.wake)
}

// Close ends the stream in good order: no further request is handled, and
// the stream ends when every reply has been sent. The peer takes it that what
// it has no reply to was not executed.
func (in *Inbound) Close() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.closing = true
	signal(in.wake)
	signal(in.room)
}

var (
	errPaused  = status.Error(codes.Aborted, "this node was paused, and its peer has given the stream up")
	errQuiet   = status.Error(codes.Aborted, "this node has not heard its peer for too long")
	errAborted = status.Error(codes.Unavailable, "this node is stopping")
	errClosed  = errors.New("link: the stream is closing")
)

// Serve calls handle with each request, in order, on one goroutine, and heard
// with the number of replies that the peer had acted on when it sent whatever
// is still to come, until the stream ends; a cancelled context breaks it. It is called once. When it returns,
// handle may still be running.
func (in *Inbound) Serve(ctx context.Context, handle func(*peer.Request), heard func(seen uint64)) error {
	defer func() {
		in.mu.Lock()
		defer in.mu.Unlock()
		in.ended = true
		in.queue, in.sizes = nil, nil
		signal(in.room)
	}()
	// gRPC ends Recv when the method returns, and not before.
	received := make(chan error, 1)
	in.start(func() { received <- in.receive(handle, heard) })

	beat := time.NewTicker(Heartbeat)
	defer beat.Stop()
	last, quiet := uint64(0), time.Duration(0)
	for {
		batch, more, end := in.batch()
		if end {
			return nil
		}
		if err := in.say(batch); err != nil {
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
				received = nil // what is open is still answered
				continue
			}
			if errors.Is(err, io.EOF) {
				return nil // the peer hung up; it waits for nothing
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

// batches returns how many were received.
func (in *Inbound) batches() uint64 {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.heard
}

// batch takes what fits into one batch out of the queue. It tells whether more
// is waiting, and whether the stream is at its end.
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

// say passes a batch to gRPC.
func (in *Inbound) say(batch *peer.Replies) error {
	if err := in.alive(); err != nil {
		return err
	}
	if err := in.stream.Send(batch); err != nil {
		return err
	}
	if err := in.alive(); err != nil {
		return err
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	in.spoke = time.Now()
	in.open -= len(batch.GetItems())
	signal(in.room)
	if in.closing {
		signal(in.wake)
	}
	return nil
}

// alive tells whether the peer can still believe in this stream.
func (in *Inbound) alive() error {
	in.mu.Lock()
	defer in.mu.Unlock()
	if time.Since(in.spoke) > in.silence {
		in.ended = true
		return errPaused
	}
	return nil
}

// receive handles requests until the stream ends.
func (in *Inbound) receive(handle func(*peer.Request), heard func(seen uint64)) error {
	for {
		asked := time.Now()
		batch, err := in.stream.Recv()
		if err != nil {
			return err
		}
		if err := in.alive(); err != nil {
			return err
		}
		if time.Since(asked) > in.silence {
			return errQuiet
		}
		in.mu.Lock()
		in.heard++
		in.mu.Unlock()
		for _, request := range batch.GetItems() {
			if err := in.admit(); err != nil {
				return err
			}
			handle(request)
		}
		heard(batch.GetSeen())
	}
}

// admit waits until there is room for one more request.
func (in *Inbound) admit() error {
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
