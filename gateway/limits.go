package gateway

import (
	"cmp"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/ganglion-es/ganglion/proto/command"
	"github.com/ganglion-es/ganglion/proto/frame"
	"golang.org/x/time/rate"
)

// Limits bound what clients may take of a gateway. Each has a stated answer,
// and Stats counts how often it was given.
type Limits struct {
	// FrameBytes bounds one WebSocket message of a client (past it: close
	// 1009), and one body of an HTTP request (too_large). A command's data is
	// at most 64 KiB, and its frame needs some room besides. At least 32 KiB:
	// a hello has a token of up to 8 KiB and subscriptions of up to 16 KB.
	//
	// Defaults to 96 KiB.
	FrameBytes int

	// HeaderBytes bounds the header of an HTTP request, that of a WebSocket's
	// handshake included, with its first line. Past it the answer is status
	// 431. At least 16 KiB.
	//
	// Defaults to 32 KiB.
	HeaderBytes int

	// HelloTimeout is how long a session may take to say hello. Past it: close
	// 4003.
	//
	// Defaults to 10 seconds.
	HelloTimeout time.Duration

	// Sessions bounds the sessions of the gateway that have said hello. Past
	// it an anonymous session is closed with 4101 to make room for one with a
	// client id. If there is none, new sessions are closed with 4101.
	//
	// Defaults to 65,536.
	Sessions int

	// SessionsPerClient bounds the sessions of one client id at the gateway.
	// A hello past it is refused with rate_limited, and the session closed with
	// 4101. It does not concern anonymous sessions.
	//
	// Defaults to a 64th of Sessions, at least 64.
	SessionsPerClient int

	// AnonymousSessions bounds the anonymous sessions of the gateway: those
	// that said hello without a client id. A hello past it is refused with
	// rate_limited, and the session closed with 4101. As many sessions, beside
	// Sessions, may not have said hello yet. Past that the oldest of them is
	// closed with 4101.
	//
	// Defaults to a quarter of Sessions, at least 64.
	AnonymousSessions int

	// Connections bounds the HTTP connections of the node that are no session.
	// Past it the connection that has waited longest for a request is closed,
	// or else the one with the oldest request. Anonymous clients may have
	// requests in progress on half of them.
	//
	// Defaults to a quarter of Sessions, at least 64.
	Connections int

	// Subscriptions bounds the subscriptions of a session. Past it a
	// subscribe is refused with rate_limited.
	//
	// Defaults to 1,000.
	Subscriptions int

	// OpenRequests bounds the requests of a session that are under way or
	// whose answer was not yet written. Past it the gateway stops reading
	// that socket. As many HTTP requests of one client may be in progress;
	// past it they are refused with rate_limited. As many reads of states may
	// be under way for one client; past it they wait.
	//
	// Defaults to 256.
	OpenRequests int

	// OutboundBytes bounds what waits for all sockets together. From half of it
	// on full sockets get messages of 4 KiB instead of 32, and nothing is read
	// from their clients. Past it the sessions and HTTP responses with the most
	// bytes are closed (4100) until three quarters are left, those of anonymous
	// clients first.
	//
	// Defaults to 256 MiB.
	OutboundBytes int

	// CommandsPerSecond bounds the commands of a session, in the long run: a
	// second's worth may come at once. Over HTTP it bounds those of a client
	// id. Past it a command is refused with rate_limited, and so are all that
	// follow for after_ms, so that of commands that were sent one after
	// another none overtakes one that was refused.
	//
	// Defaults to 0: not limited.
	CommandsPerSecond int
}

// The least that the bounds on frames and headers can be: a token has up to
// 8 KiB and must fit, and beside it in hello the subscriptions that client
// libraries put there.
const (
	minFrameBytes  = 32 << 10
	minHeaderBytes = 16 << 10
)

// WithDefaults returns the limits with those filled in that were left at 0, or
// everything that is wrong with them.
func (l Limits) WithDefaults() (Limits, error) {
	var errs []error
	for _, n := range []struct {
		limit            *int
		name             string
		byDefault, least int
	}{
		{&l.FrameBytes, "FrameBytes", 96 << 10, minFrameBytes},
		{&l.HeaderBytes, "HeaderBytes", 32 << 10, minHeaderBytes},
		{&l.Sessions, "Sessions", 1 << 16, 0},
		{&l.SessionsPerClient, "SessionsPerClient", max(64, cmp.Or(l.Sessions, 1<<16)/64), 0},
		{&l.AnonymousSessions, "AnonymousSessions", max(64, cmp.Or(l.Sessions, 1<<16)/4), 0},
		{&l.Connections, "Connections", max(64, cmp.Or(l.Sessions, 1<<16)/4), 0},
		{&l.Subscriptions, "Subscriptions", 1000, 0},
		{&l.OpenRequests, "OpenRequests", 256, 0},
		{&l.OutboundBytes, "OutboundBytes", 256 << 20, 0},
		{&l.CommandsPerSecond, "CommandsPerSecond", 0, 0},
	} {
		*n.limit = cmp.Or(*n.limit, n.byDefault)
		switch {
		case *n.limit < 0:
			errs = append(errs, fmt.Errorf("gateway: %s is negative", n.name))
		case *n.limit < n.least:
			errs = append(errs, fmt.Errorf("gateway: %s is %d: give at least %d, so that a token fits", n.name, *n.limit, n.least))
		}
	}
	if l.HelloTimeout < 0 {
		errs = append(errs, errors.New("gateway: HelloTimeout is negative"))
	}
	l.HelloTimeout = cmp.Or(l.HelloTimeout, 10*time.Second)
	return l, errors.Join(errs...)
}

// welcome returns what a client is told of them.
func (l Limits) welcome() frame.Limits {
	return frame.Limits{
		FrameBytes: l.FrameBytes, OpenRequests: l.OpenRequests, Subscriptions: l.Subscriptions, CommandsPerSecond: l.CommandsPerSecond,
	}
}

// limit names one of the Limits.
type limit int

const (
	limitFrameBytes limit = iota
	limitHeaderBytes
	limitHelloTimeout
	limitSessions
	limitSessionsPerClient
	limitAnonymousSessions
	limitSubscriptions
	limitOpenRequests
	limitOutboundBytes
	limitCommandsPerSecond
	limitReads
	limitRenewals
	limits
)

var limitNames = [limits]string{
	limitFrameBytes: "frame_bytes", limitHeaderBytes: "header_bytes", limitHelloTimeout: "hello_timeout",
	limitSessions: "sessions", limitSessionsPerClient: "sessions_per_client", limitSubscriptions: "subscriptions",
	limitAnonymousSessions: "anonymous_sessions", limitReads: "reads", limitRenewals: "renewals",
	limitOpenRequests: "open_requests", limitOutboundBytes: "outbound_bytes", limitCommandsPerSecond: "commands_per_second",
}

// reached counts that a limit said no.
func (g *Gateway) reached(l limit) { g.stats.limited[l].Add(1) }

// How often a session may renew its token: a token is expensive to check.
const (
	renewalsInARow = 10
	renewalEvery   = time.Second
)

// mayRenew reports whether the session may renew its token now.
func (s *session) mayRenew() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.auths == nil {
		s.auths = rate.NewLimiter(rate.Every(renewalEvery), renewalsInARow)
	}
	return s.auths.Allow()
}

// tooFast refuses a command that came too soon.
func (g *Gateway) tooFast(after time.Duration) *command.Failure {
	g.reached(limitCommandsPerSecond)
	return &command.Failure{
		Code: command.RateLimited, Retry: command.RetryLater, After: after,
		Message: fmt.Sprintf("more than %d commands a second are not allowed: go on after after_ms", g.cfg.Limits.CommandsPerSecond),
	}
}

// bucket holds a second's worth of commands, and fills as fast as they may
// come. A nil bucket never runs empty. It is not safe for concurrent use.
type bucket struct {
	tokens *rate.Limiter
	shut   time.Time // nothing is taken until then
}

// shutFor is how long a bucket that ran empty stays shut. It is longer than
// most round trips, so that whatever a client had sent by the time it learns of
// the refusal is refused as well, and its commands keep their order.
const shutFor = 500 * time.Millisecond

func newBucket(perSecond int) *bucket {
	if perSecond == 0 {
		return nil
	}
	return &bucket{tokens: rate.NewLimiter(rate.Limit(perSecond), perSecond)}
}

// take takes one command's worth out. If that is not to be had it returns
// after what time it may be.
func (b *bucket) take(now time.Time) (after time.Duration) {
	if b == nil {
		return 0
	}
	if now.Before(b.shut) {
		return b.shut.Sub(now)
	}
	if b.tokens.AllowN(now, 1) {
		return 0
	}
	b.shut = now.Add(shutFor)
	return shutFor
}

// full tells whether the bucket is as good as new.
func (b *bucket) full(now time.Time) bool {
	return !now.Before(b.shut) && b.tokens.TokensAt(now) >= float64(b.tokens.Burst())
}

// buckets has one for each client that sends commands over HTTP, where there
// are no sessions. Those that are full again are forgotten, so that it has no
// more than the clients of about a second.
type buckets struct {
	perSecond int

	mu       sync.Mutex
	byClient map[string]*bucket
	sweepAt  int // how many there are when it is time to forget
}

// sweepLeast is how many buckets are not worth the trouble of forgetting.
const sweepLeast = 1024

func (b *buckets) take(client string, now time.Time) (after time.Duration) {
	if b.perSecond == 0 {
		return 0
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	one := b.byClient[client]
	if one == nil {
		if len(b.byClient) >= max(b.sweepAt, sweepLeast) {
			for client, idle := range b.byClient {
				if idle.full(now) {
					delete(b.byClient, client)
				}
			}
			b.sweepAt = 2 * len(b.byClient)
		}
		one = newBucket(b.perSecond)
		b.byClient[client] = one
	}
	return one.take(now)
}
