package feed

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/router/cluster"
)

// errSilent ends a stream that was silent for giveUp.
var errSilent = fmt.Errorf("feed: nothing received for %v", giveUp)

// source is a publisher that this node reads: a peer's stream, or the node's own
// ring.
type source struct {
	member cluster.Member
	local  bool
	epoch  uint64 // loop.epoch when it was made
	cancel context.CancelFunc

	made      time.Time
	heard     atomic.Int64 // time of the last message, in nanoseconds after made; 0: none
	connected atomic.Bool
	bye       atomic.Bool
	foreign   atomic.Bool                             // its events are of another incarnation of the log
	drop      atomic.Pointer[context.CancelCauseFunc] // ends the open stream
}

// arrival is one batch of a source.
type arrival struct {
	src    *source
	log    string // the incarnation of runs, skip and head
	runs   []run
	skip   eventstore.Position // the last position that this node missed; 0: none
	head   eventstore.Position // of the publisher; 0: not in the batch
	bye    bool
	opened bool // the first of a stream
	ended  bool // the stream has ended
}

// concernsLog reports whether the arrival has positions of the log.
func (a *arrival) concernsLog() bool { return len(a.runs) > 0 || a.skip != 0 || a.head != 0 }

func (src *source) noteHeard() {
	src.heard.Store(max(1, int64(time.Since(src.made))))
}

// healthy reports whether all commits of the publisher can be expected to
// arrive.
func (src *source) healthy(now time.Time, silence time.Duration) bool {
	return src.bye.Load() || src.connected.Load() && !src.foreign.Load() &&
		(src.local || now.Sub(src.made)-time.Duration(src.heard.Load()) <= silence)
}

// refuse ends the open stream with err, because of a batch received on it.
func (src *source) refuse(err error) {
	if drop := src.drop.Load(); drop != nil {
		(*drop)(err)
	}
}

func (src *source) stats(now time.Time, silence time.Duration) StreamStats {
	st := StreamStats{
		Member:   src.member.ID,
		Healthy:  src.healthy(now, silence),
		Bye:      src.bye.Load(),
		SilentMS: -1,
	}
	if !src.local {
		st.Addr = src.member.PeerAddr
	}
	if heard := src.heard.Load(); heard > 0 {
		st.SilentMS = (now.Sub(src.made) - time.Duration(heard)).Milliseconds()
	}
	return st
}

// submit passes an arrival to Run's goroutine. While 32 arrivals are queued it
// blocks: then streams are not read, and the publishers' rings overrun.
func (s *Subscriber) submit(ctx context.Context, a arrival) bool {
	select {
	case s.arrivals <- a:
		return true
	case <-ctx.Done():
		return false
	}
}

// keepStream keeps a stream to the source open until ctx ends or the publisher
// sends BYE.
func (s *Subscriber) keepStream(ctx context.Context, src *source) {
	receive := s.receive
	if src.local {
		receive = s.receiveLocal
	}
	log := s.cfg.Logger.With("member", src.member.ID)
	wait := retryMin
	for {
		err := receive(ctx, src)
		opened := src.connected.Swap(false)
		if ctx.Err() != nil {
			return
		}
		if opened && !s.submit(ctx, arrival{src: src, ended: true}) {
			return
		}
		if src.bye.Load() {
			return
		}
		switch {
		case errors.Is(err, errRefused):
			wait = distrust
			log.Warn("a peer sent an invalid feed; the log is read instead", "err", err, "again_in", wait)
		case opened:
			wait = retryMin
			log.Info("a feed stream ended; the log is read until it is open again", "err", err)
		default:
			wait = min(2*wait, retryMax)
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
	}
}

// receive opens a stream and submits its batches until it ends.
func (s *Subscriber) receive(ctx context.Context, src *source) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	src.drop.Store(&cancel)
	watchdog := time.AfterFunc(giveUp, func() { cancel(errSilent) })
	defer watchdog.Stop()

	stream, err := s.cfg.Open(ctx, src.member.PeerAddr, s.cfg.Self)
	if err != nil {
		return err
	}
	for {
		b, err := stream.Recv()
		if err != nil {
			return cmp.Or(context.Cause(ctx), err)
		}
		// While submit blocks, the peer is not silent: this node is slow.
		watchdog.Stop()
		src.noteHeard()
		a := arrival{src: src, opened: !src.connected.Load()}
		bad := decode(b, &a)
		src.bye.Store(a.bye)
		src.connected.Store(true)
		s.counters.batches.Add(1)
		if !s.submit(ctx, a) {
			return context.Cause(ctx)
		}
		if bad != nil {
			s.counters.refused.Add(1)
			return bad
		}
		src.noteHeard()
		watchdog.Reset(giveUp)
	}
}

// receiveLocal is receive for the node's own ring.
func (s *Subscriber) receiveLocal(ctx context.Context, src *source) error {
	c := s.cfg.Local.subscribe()
	defer c.close()
	for {
		d := c.read()
		a := arrival{src: src, log: d.log, skip: d.skipTo, opened: !src.connected.Load(), bye: d.finished}
		for _, f := range d.frames {
			if f.commits == nil {
				a.skip = max(a.skip, f.to)
				continue
			}
			a.runs = append(a.runs, run{
				from: f.from, to: f.to, commits: f.commits, src: src,
				events: int(f.to - f.from + 1), bytes: f.bytes,
			})
		}
		if d.caughtUp {
			a.head = d.head
		}
		src.noteHeard()
		src.bye.Store(a.bye)
		src.connected.Store(true)
		if a.opened || a.bye || a.skip != 0 || len(a.runs) > 0 {
			s.counters.batches.Add(1)
			if !s.submit(ctx, a) {
				return ctx.Err()
			}
		}
		if a.bye {
			return nil
		}
		if d.caughtUp {
			select {
			case <-d.wake:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
}
