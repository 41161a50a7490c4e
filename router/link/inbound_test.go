package link

import (
	"context"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ganglion-es/ganglion/proto/peer"
	"github.com/ganglion-es/ganglion/router/transport"
)

// pipe is an inbound stream in memory. A synctest bubble cannot use sockets.
type pipe struct {
	ctx context.Context
	in  chan *peer.Requests
	out chan *peer.Replies
}

func (p *pipe) Context() context.Context { return p.ctx }

func (p *pipe) Recv() (*peer.Requests, error) {
	select {
	case batch, ok := <-p.in:
		if !ok {
			return nil, io.EOF
		}
		return batch, nil
	case <-p.ctx.Done():
		return nil, p.ctx.Err()
	}
}

func (p *pipe) Send(batch *peer.Replies) error {
	select {
	case p.out <- batch:
		return nil
	case <-p.ctx.Done():
		return p.ctx.Err()
	}
}

// serve runs an Inbound on a pipe and collects the requests that it handles.
func serve(t *testing.T) (p *pipe, in *Inbound, handled chan *peer.Request, ended chan error) {
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	p = newPipe(ctx)
	in = NewInbound(p, InboundConfig{})
	handled, ended = make(chan *peer.Request, 100), make(chan error, 1)
	go func() {
		ended <- in.Serve(ctx, func(r *peer.Request) { handled <- r }, func(uint64) {})
		cancel() // as the server does when the method returns
	}()
	return p, in, handled, ended
}

func TestThawedNodeBeginsNoOldRequest(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p, _, handled, ended := serve(t)
		<-p.out
		p.in <- &peer.Requests{Items: []*peer.Request{get("new")}}
		if r := <-handled; r.GetGet().GetId() != "new" {
			t.Errorf("handled %v", r)
		}
		// This node sends nothing for 600 ms: its peer has abandoned the stream.
		time.Sleep(600 * time.Millisecond)
		p.in <- &peer.Requests{Items: []*peer.Request{get("old")}}
		<-p.out
		if err := <-ended; transport.CodeOf(err) != transport.Aborted {
			t.Errorf("the stream ended with %v, want the code Aborted", err)
		}
		synctest.Wait()
		if len(handled) != 0 {
			t.Errorf("handled %v after the pause", <-handled)
		}
	})
}

func TestInboundStreamOfSilentPeerIsAbandoned(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p, _, handled, ended := serve(t)
		start, beats := time.Now(), 0
		for {
			select {
			case <-p.out:
				beats++
				continue
			case err := <-ended:
				if took := time.Since(start); transport.CodeOf(err) != transport.Aborted || took < DefaultSilence || took > DefaultSilence+2*Heartbeat {
					t.Errorf("ended after %v with %v", took, err)
				}
			}
			break
		}
		if beats < 5 || len(handled) != 0 {
			t.Errorf("%d heartbeats, want one every 100 ms", beats)
		}
	})
}

func TestClosedStreamAnswersAcceptedRequests(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p, in, handled, ended := serve(t)
		p.in <- &peer.Requests{Items: []*peer.Request{{Id: 1}, {Id: 2}}}
		<-handled
		<-handled
		in.Drain()
		for !(<-p.out).GetDraining() {
		}
		in.Close()
		p.in <- &peer.Requests{Items: []*peer.Request{{Id: 3}}} // too late
		synctest.Wait()
		if n := in.Reply(&peer.Reply{Id: 2}, 10); n != 1 {
			t.Errorf("the first reply has number %d", n)
		}
		in.Reply(&peer.Reply{Id: 1}, 10)
		var got []uint64
		for {
			select {
			case batch := <-p.out:
				for _, reply := range batch.GetItems() {
					got = append(got, reply.GetId())
				}
				continue
			case err := <-ended:
				if err != nil {
					t.Errorf("ended with %v, want a clean end", err)
				}
			}
			break
		}
		if len(got) != 2 || got[0] != 2 || got[1] != 1 || len(handled) != 0 {
			t.Errorf("replies to %v, want 2 and 1; %d requests handled too late", got, len(handled))
		}
	})
}

func TestStreamWithTooManyUnansweredIsNotRead(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		p := newPipe(ctx)
		in := NewInbound(p, InboundConfig{Silence: time.Hour})
		var handled int
		ended := make(chan error, 1)
		go func() { ended <- in.Serve(ctx, func(*peer.Request) { handled++ }, func(uint64) {}) }()
		go func() {
			for {
				select {
				case <-p.out:
				case <-ctx.Done():
					return
				}
			}
		}()
		batch := &peer.Requests{Items: make([]*peer.Request, maxUnanswered+10)}
		p.in <- batch
		synctest.Wait()
		if handled != maxUnanswered {
			t.Errorf("handled %d requests, want %d", handled, maxUnanswered)
		}
		for range 10 {
			in.Reply(&peer.Reply{}, 2)
		}
		time.Sleep(Heartbeat)
		synctest.Wait()
		if handled != maxUnanswered+10 {
			t.Errorf("handled %d requests, want all, now that ten were answered", handled)
		}
		cancel()
		<-ended
	})
}
