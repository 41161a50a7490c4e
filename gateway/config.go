package gateway

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/proto"
	"github.com/ganglion-es/ganglion/proto/command"
)

// Router carries requests to the node that owns their aggregate.
// *router.Router satisfies it.
type Router interface {
	// Send hands in a command. Commands with the same Session and Stream are
	// executed in the order of the calls. Send never blocks; reply is called
	// exactly once, on any goroutine, perhaps before Send returns.
	Send(c command.Command, reply func(command.Outcome))
	// Get answers with an aggregate's public state. The error is a
	// *command.Failure.
	Get(ctx context.Context, g command.Get) (command.State, error)
}

// Config configures a Gateway.
type Config struct {
	// Node identifies this node to clients and in the log. Required.
	Node string

	// Version is that of the software, as shown in the welcome frame.
	//
	// Defaults to "devel".
	Version string

	// Catalog says what exists and who may do what. Required.
	Catalog Catalog

	// Schema is what the application's aggregates take and show, as a JSON
	// Schema, for /v1/schema. AsyncAPI describes the WebSocket protocol, with
	// the application's messages in it.
	//
	// Default to a schema that says nothing, and to proto.AsyncAPI.
	Schema   []byte
	AsyncAPI []byte

	// Store is where history is read. Required.
	Store eventstore.Store

	// Router is where commands go. Required.
	Router Router

	// Auth tells who a client is. Required; Development trusts everybody.
	Auth Authenticator

	// Origins are the hosts whose pages may connect from a browser, besides
	// the gateway's own: patterns of path.Match for a host, or for
	// scheme://host.
	Origins []string

	// Limits bound what clients may take of the gateway.
	Limits Limits

	// QueueBytes bounds what waits for a session's socket. Past it nothing is
	// read from the client, until it has taken its answers. Events do not
	// wait there: a full socket holds one message of them, of 32 KiB at most
	// (or QueueBytes, if that is less), and those that come after it are taken
	// from the window, or from the log if they are no longer there.
	//
	// Defaults to 256 KiB.
	QueueBytes int

	// SendBuffer is the kernel's send buffer for one socket, in bytes, so
	// that a slow client is noticed: Linux would let it grow to 4 MB.
	//
	// Defaults to 64 KiB.
	SendBuffer int

	// WindowEvents and WindowBytes bound the newest events that are kept
	// encoded, so that most catching up does not touch the store.
	//
	// Default to 65,536 events and 32 MiB.
	WindowEvents int
	WindowBytes  int

	// PageCommits is how many commits one read of the log asks for, and
	// PageReads how many such reads are under way at once.
	//
	// Default to 256 and 8.
	PageCommits int
	PageReads   int

	// Heartbeat is the time between two heartbeats. A session from which
	// nothing came for three of them ends.
	//
	// Defaults to 25 seconds.
	Heartbeat time.Duration

	// ReadGrace is how long a client may read nothing at all while something
	// waits for it, before it is closed with 4102.
	//
	// Defaults to 60 seconds.
	ReadGrace time.Duration

	// DrainWindow is the time over which a gateway that drains parts with its
	// sessions, one after another, so that others don't get them all at once.
	// Those that wait for their turn are served. With few sessions it takes
	// less.
	//
	// Defaults to 5 seconds.
	DrainWindow time.Duration

	// Logger defaults to one that discards everything.
	Logger *slog.Logger
}

func (c Config) withDefaults() (Config, error) {
	var errs []error
	require := func(ok bool, name string) {
		if !ok {
			errs = append(errs, fmt.Errorf("gateway: %s is required", name))
		}
	}
	require(c.Node != "", "Node")
	require(c.Catalog != nil, "Catalog")
	require(c.Store != nil, "Store")
	require(c.Router != nil, "Router")
	require(c.Auth != nil, "Auth")
	limits, err := c.Limits.WithDefaults()
	if err != nil {
		errs = append(errs, err)
	}
	c.Limits = limits
	positive := func(n *int, byDefault int, name string) {
		if *n < 0 {
			errs = append(errs, fmt.Errorf("gateway: %s is negative", name))
		}
		*n = cmp.Or(*n, byDefault)
	}
	positive(&c.QueueBytes, 256<<10, "QueueBytes")
	positive(&c.SendBuffer, 64<<10, "SendBuffer")
	positive(&c.WindowEvents, 65536, "WindowEvents")
	positive(&c.WindowBytes, 32<<20, "WindowBytes")
	positive(&c.PageCommits, 256, "PageCommits")
	positive(&c.PageReads, 8, "PageReads")
	lasting := func(d *time.Duration, byDefault time.Duration, name string) {
		if *d < 0 {
			errs = append(errs, fmt.Errorf("gateway: %s is negative", name))
		}
		*d = cmp.Or(*d, byDefault)
	}
	lasting(&c.Heartbeat, 25*time.Second, "Heartbeat")
	lasting(&c.ReadGrace, time.Minute, "ReadGrace")
	lasting(&c.DrainWindow, 5*time.Second, "DrainWindow")
	if c.Schema == nil {
		c.Schema = []byte("{}\n")
	}
	if c.AsyncAPI == nil {
		c.AsyncAPI = proto.AsyncAPI
	}
	for _, pattern := range c.Origins {
		if _, err := path.Match(pattern, ""); err != nil {
			errs = append(errs, fmt.Errorf("gateway: Origins has the malformed pattern %q", pattern))
		}
	}
	c.Version = cmp.Or(c.Version, "devel")
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c, errors.Join(errs...)
}
