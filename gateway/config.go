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
	"github.com/ganglion-es/ganglion/proto/ask"
	"github.com/ganglion-es/ganglion/proto/command"
	"github.com/ganglion-es/ganglion/proto/group"
)

// Router carries requests to the node that owns their aggregate.
// *router.Router satisfies it.
type Router interface {
	// Send sends a command to its owner. Commands with the same Session and
	// Stream are executed in the order of the calls. Send never blocks. It
	// calls reply exactly once, on any goroutine, perhaps before it returns.
	Send(c command.Command, reply func(command.Outcome))
	// Get returns an aggregate's public state. The error is a
	// *command.Failure.
	Get(ctx context.Context, g command.Get) (command.State, error)
}

// Config configures a Gateway.
type Config struct {
	// Node identifies this node to clients and in log lines. Required.
	Node string

	// Version is the software's version in the welcome frame.
	//
	// Defaults to "devel".
	Version string

	// Catalog has the application's types and access rules. Required.
	Catalog Catalog

	// Schema is the JSON Schema of the application's commands, states and
	// events, for /v1/schema. AsyncAPI describes the WebSocket protocol,
	// including the application's messages. Docs is the same as a page in HTML,
	// for /v1/docs.
	//
	// Default to an empty schema, to proto.AsyncAPI, and to no page.
	Schema   []byte
	AsyncAPI []byte
	Docs     []byte

	// Store is the log that history is read from. Required.
	Store eventstore.Store

	// Router executes commands and reads states. Required.
	Router Router

	// Queries answers questions. Without it, the gateway refuses them as
	// unsupported.
	Queries ask.Queries

	// Groups coordinates consumer groups. Without it, the gateway refuses them as
	// unsupported.
	Groups group.Groups

	// Auth identifies clients. Required; [Development] trusts every client.
	Auth Authenticator

	// Origins are the hosts whose pages may connect from a browser, besides
	// the gateway's own: patterns of path.Match for a host, or for
	// scheme://host.
	Origins []string

	// Limits bound the resources that clients use.
	Limits Limits

	// QueueBytes bounds the pending replies of a session. Past it the gateway
	// does not read from the client until the client has read replies. Events
	// are not queued. While the socket is full, the session holds at most one
	// message of events, of at most 32 KiB (or QueueBytes, if that is less).
	// Later events come from the window, or from the log if the window has
	// dropped them.
	//
	// Defaults to 256 KiB.
	QueueBytes int

	// SendBuffer is the kernel's send buffer for one socket, in bytes. It is
	// bounded so that the gateway notices a slow client: Linux would let it
	// grow to 4 MB.
	//
	// Defaults to 64 KiB.
	SendBuffer int

	// WindowEvents and WindowBytes bound the window, which has the newest
	// events. Most clients that catch up need no older events.
	//
	// Default to 65,536 events and 32 MiB.
	WindowEvents int
	WindowBytes  int

	// PageCommits is how many commits one read of the log asks for, and
	// PageReads the number of concurrent reads.
	//
	// Default to 256 and 8.
	PageCommits int
	PageReads   int

	// Heartbeat is the time between two heartbeats. A session whose client
	// sends nothing for three of them ends.
	//
	// Defaults to 25 seconds.
	Heartbeat time.Duration

	// ReadGrace is how long a client with pending frames may read nothing. Then
	// its session is closed with 4102.
	//
	// Defaults to 60 seconds.
	ReadGrace time.Duration

	// DrainWindow is the time over which a draining gateway ends its sessions,
	// one after another, so that their clients do not reconnect together. A
	// session is served until its turn. Few sessions are drained in less time.
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
			errs = append(errs, fmt.Errorf("gateway: %s is %d: it must not be negative", name, *n))
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
			errs = append(errs, fmt.Errorf("gateway: %s is %v: it must not be negative", name, *d))
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
			errs = append(errs, fmt.Errorf("gateway: Origins has the malformed pattern %q: use the syntax of path.Match", pattern))
		}
	}
	c.Version = cmp.Or(c.Version, "devel")
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c, errors.Join(errs...)
}
