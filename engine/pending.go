package engine

import "github.com/ganglion-es/ganglion/proto/command"

// pending counts and bounds the work of a host. Host.mu guards it.
type pending struct {
	maxRequests, maxBytes int

	requests int // commands and gets that wait or are in progress
	bytes    int // of those commands
	workers  int
	draining bool
	closed   bool
	idle     chan struct{} // made by drain, closed once no worker is left
}

// refusal returns the failure for a new request of size bytes, or nil if the bounds
// leave room for it. A host without requests always has room. A get has 0 bytes.
func (p *pending) refusal(size int) *command.Failure {
	switch {
	case p.draining, p.closed:
		return leaving()
	case p.requests == 0:
		return nil
	case p.requests >= p.maxRequests, size > 0 && p.bytes+size > p.maxBytes:
		return command.Busy("this node's queue of requests is full")
	}
	return nil
}

func (p *pending) add(requests, bytes int) {
	p.requests += requests
	p.bytes += bytes
}

func (p *pending) workerStarted() { p.workers++ }

func (p *pending) workerEnded() {
	p.workers--
	p.signalIdle()
}

// drain refuses requests from now on, and returns a channel that is closed once
// no worker is left.
func (p *pending) drain() <-chan struct{} {
	p.draining = true
	if p.idle == nil {
		p.idle = make(chan struct{})
		p.signalIdle()
	}
	return p.idle
}

func (p *pending) signalIdle() {
	if p.workers > 0 || p.idle == nil {
		return
	}
	select {
	case <-p.idle:
	default:
		close(p.idle)
	}
}
