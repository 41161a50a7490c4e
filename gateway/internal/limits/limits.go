// Package limits bounds the resources that clients use in a gateway. [Limits]
// has the bounds, and [Counters] counts how often each was reached. The other
// types enforce bounds on commands a second ([Bucket], [Buckets]), concurrent
// reads ([Places], [ClientPlaces]) and outbound bytes ([Budget]).
package limits

import (
	"cmp"
	"errors"
	"fmt"
	"time"

	"github.com/ganglion-es/ganglion/proto/frame"
)

// Limits bound the resources that clients use in a gateway. Each field says
// what happens past the limit, and Stats counts how often that happened.
type Limits struct {
	// FrameBytes bounds one WebSocket message of a client (past it: close
	// 1009) and one body of an HTTP request (too_large). A command's data has
	// at most 64 KiB, and its frame needs some more. The limit must be at least
	// 32 KiB: a hello has a token of up to 8 KiB and subscriptions of up to
	// 16 KB.
	//
	// Defaults to 96 KiB.
	FrameBytes int

	// HeaderBytes bounds the header of an HTTP request, including its first
	// line. The handshake of a WebSocket is an HTTP request, too. Past it the
	// request is refused with status 431. It must be at least 16 KiB.
	//
	// Defaults to 32 KiB.
	HeaderBytes int

	// HelloTimeout is how long a session may take to say hello. Past it the
	// session is closed with 4003.
	//
	// Defaults to 10 seconds.
	HelloTimeout time.Duration

	// Sessions bounds the sessions of the gateway that have said hello. Past
	// it an anonymous session is closed with 4101 to make room for one with a
	// client id. If no session is anonymous, new sessions are closed with 4101.
	//
	// Defaults to 65,536.
	Sessions int

	// SessionsPerClient bounds the sessions of one client id at the gateway.
	// A hello past it is refused with rate_limited, and the session closed with
	// 4101. Anonymous sessions are not counted.
	//
	// Defaults to a 64th of Sessions, at least 64.
	SessionsPerClient int

	// AnonymousSessions bounds the sessions of the gateway that said hello
	// without a client id. A hello past it is refused with rate_limited, and
	// the session closed with 4101. It also bounds the sessions that have not
	// said hello, which do not count towards Sessions. Past it the oldest of
	// them is closed with 4101.
	//
	// Defaults to a quarter of Sessions, at least 64.
	AnonymousSessions int

	// Connections bounds the HTTP connections of the node that do not belong to
	// a session. Past it the connection that has waited longest for a request
	// is closed, or, if none waits, the one with the oldest request. Anonymous
	// clients may have requests in progress on half of them.
	//
	// Defaults to a quarter of Sessions, at least 64.
	Connections int

	// Subscriptions bounds the subscriptions of a session. Past it subscribe is
	// refused with rate_limited.
	//
	// Defaults to 1,000.
	Subscriptions int

	// LiveQueries bounds the subscriptions to queries of a session, which count
	// towards Subscriptions, too. Past it subscribe is refused with rate_limited.
	//
	// Defaults to 50.
	LiveQueries int

	// Queries bounds the queries of the gateway that are in progress, and the
	// subscriptions to queries that have not begun. Past it they are refused with
	// busy.
	//
	// Defaults to 1,024.
	Queries int

	// OpenRequests bounds the requests of a session that are in progress or
	// whose reply is unwritten. Past it the gateway stops reading that socket.
	// The same number of HTTP requests of one client may be in progress; past
	// it they are refused with rate_limited. The same number of state reads of
	// one client may be in progress; past it they wait.
	//
	// Defaults to 256.
	OpenRequests int

	// OutboundBytes bounds the outbound buffers of all sockets together. Past
	// half of it, messages have 4 KiB instead of 32 KiB, and clients with a
	// full socket are not read from. Past it the sessions and HTTP responses
	// with the most bytes are closed (4100) until three quarters of it are
	// used, those of anonymous clients first.
	//
	// Defaults to 256 MiB.
	OutboundBytes int

	// CommandsPerSecond bounds the average rate of commands of a session. A
	// burst can have one second's worth of commands. Over HTTP it bounds the
	// commands of a client id. Past it a command is refused with rate_limited,
	// and so are those sent within after_ms, so that no command overtakes an
	// earlier one that was refused.
	//
	// Defaults to 0: not limited.
	CommandsPerSecond int
}

// The least values of FrameBytes and HeaderBytes. A token of up to 8 KiB must
// fit, and so must the subscriptions that client libraries put into hello.
const (
	minFrameBytes  = 32 << 10
	minHeaderBytes = 16 << 10
)

// WithDefaults returns the limits with each 0 replaced by its default, or an
// error that lists every invalid limit.
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
		{&l.LiveQueries, "LiveQueries", 50, 0},
		{&l.Queries, "Queries", 1024, 0},
		{&l.OpenRequests, "OpenRequests", 256, 0},
		{&l.OutboundBytes, "OutboundBytes", 256 << 20, 0},
		{&l.CommandsPerSecond, "CommandsPerSecond", 0, 0},
	} {
		*n.limit = cmp.Or(*n.limit, n.byDefault)
		switch {
		case *n.limit < 0:
			errs = append(errs, fmt.Errorf("gateway: %s is %d: it must not be negative", n.name, *n.limit))
		case *n.limit < n.least:
			errs = append(errs, fmt.Errorf("gateway: %s is %d: give at least %d, so that a token fits", n.name, *n.limit, n.least))
		}
	}
	if l.HelloTimeout < 0 {
		errs = append(errs, fmt.Errorf("gateway: HelloTimeout is %v: it must not be negative", l.HelloTimeout))
	}
	l.HelloTimeout = cmp.Or(l.HelloTimeout, 10*time.Second)
	return l, errors.Join(errs...)
}

// Welcome returns the limits that the welcome frame states.
func (l Limits) Welcome() frame.Limits {
	return frame.Limits{
		FrameBytes: l.FrameBytes, OpenRequests: l.OpenRequests, Subscriptions: l.Subscriptions, CommandsPerSecond: l.CommandsPerSecond,
	}
}
