// Package node puts a node together: event-sourced aggregates that run on
// the node that owns them, a log in PostgreSQL or SQLite, and a gateway that
// delivers every event to the WebSocket sessions it holds.
//
// A program embeds Ganglion with its own aggregates by calling Run with its
// Catalog; cmd/ganglion is such a program for the ones that ship.
//
// The log is the truth and everything else is a cache of it. The ring decides
// which node runs an aggregate, which gives locality; the log accepts one
// writer per stream version, which gives safety. So a node may die at any
// moment without losing or doubling an event that was acknowledged.
package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/gateway"
)

// Config configures a node.
type Config struct {
	// Catalog is the application. Required.
	Catalog *aggregate.Catalog

	// Name identifies the node. It is unique in the cluster and stays the
	// same across restarts. Required.
	Name string

	// Domain makes the node run aggregates, Gateway makes it hold sessions.
	// Defaults to both when neither is set.
	Domain, Gateway bool

	// Listen is where clients connect, HOST:PORT. Domain nodes answer only
	// /healthz, /readyz and /v1/cluster there.
	//
	// Defaults to 127.0.0.1:8080. Port 0 takes a free one.
	Listen string

	// AdminListen is where operators find profiles (/debug/pprof/) and change
	// the level of log lines (/log-level). Whoever reaches it may do both; a
	// port without a host is one of the loopback interface.
	//
	// Defaults to none.
	AdminListen string

	// PeerListen is where other nodes' links connect.
	//
	// Defaults to 127.0.0.1:9080. Port 0 takes a free one.
	PeerListen string

	// GossipListen is where gossip arrives, over TCP and UDP.
	//
	// Defaults to 127.0.0.1:7946. Port 0 takes a free one.
	GossipListen string

	// Advertise is the host under which other nodes reach this one, or
	// route:HOST for the address from which this machine reaches HOST, where it
	// has several and only learns them when it starts.
	//
	// Defaults to the host of GossipListen, or to the machine's first private
	// address when that means all interfaces.
	Advertise string

	// Join has gossip addresses of other nodes, HOST:PORT. Names are resolved
	// anew at each attempt, to all their addresses.
	Join []string

	// Cluster is the cluster's name; nodes with another one are strangers.
	//
	// Defaults to "ganglion".
	Cluster string

	// Store is the log: a postgres:// URL, or the folder of an embedded one.
	// Required.
	Store string

	// StorePassword is the password for Store, if its URL has none.
	StorePassword string

	// StoreWait is how long a node that starts waits for a database that can't be
	// reached. Meanwhile it answers on Listen, not ready, and says why on /readyz;
	// then Run fails. A wrong password, a database that does not exist or a newer
	// schema fail immediately.
	//
	// Defaults to 5 minutes. If it is negative, the node does not wait.
	StoreWait time.Duration

	// Auth authenticates clients.
	//
	// Defaults to gateway.Development, which trusts any client id; Run and
	// RunDev warn of that.
	Auth gateway.Authenticator

	// Handler answers on Listen what is not the node's own: the pages of an
	// application, say. The node's are /v1/, /healthz, /readyz and /metrics.
	//
	// Defaults to one that answers 404.
	Handler http.Handler

	// Origins are the hosts whose pages may connect, besides the node's own.
	// With gateway.Development the node answers only requests for these, for
	// localhost and for IP addresses.
	Origins []string

	// Limits bound what clients may take of the node.
	Limits gateway.Limits

	// Heartbeat is the time between two heartbeats of a session, from 1 s to
	// 1 h. Clients are told it in welcome. A session that is silent for three
	// of them ends.
	//
	// Defaults to 25 seconds.
	Heartbeat time.Duration

	// DrainWindow is the time over which a node that stops parts with its
	// sessions, one after another; with few of them it takes less.
	//
	// Defaults to 5 seconds.
	DrainWindow time.Duration

	// GossipKeyFile has the keys that encrypt gossip: 32 bytes each, as hex or
	// base64, one on each line, or one alone as it is. The first encrypts what
	// this node says, each opens what it hears. The file may be replaced while
	// the node runs; keys that are not good change nothing.
	GossipKeyFile string

	// PeerTLS has the files of the certificate, key and authority with which
	// nodes prove themselves to each other.
	PeerTLS PeerTLS

	// InsecurePeers allows gossip without keys and links without TLS also on
	// other than loopback addresses, where they are refused otherwise.
	InsecurePeers bool

	// TailOnly switches pushed events off: the node learns of events only by
	// reading the log. For tests; delivery is then later, and as complete.
	TailOnly bool

	// Suspect is how long a link may be silent before the node tries another.
	// The kernel's bound for unacknowledged data on links (TCP_USER_TIMEOUT)
	// follows it.
	//
	// Defaults to 500 ms.
	Suspect time.Duration

	// Now is the wall clock: it dates events, and tells this run of the node
	// from earlier ones. Deadlines and silences are measured by the monotonic
	// clock, whatever this one does.
	//
	// Defaults to time.Now.
	Now func() time.Time

	// Ready is called once, when the node serves, with the URL for clients.
	Ready func(url string)

	// Logger gets the node's log: at most 20 lines of one message a minute,
	// and all that are below Info.
	//
	// Defaults to one that discards everything.
	Logger *slog.Logger

	// LogLevel is what AdminListen changes; the Logger's handler should heed
	// it. Defaults to one of its own.
	LogLevel *slog.LevelVar

	// Tracing takes spans of commands, from the frame over the hop to the
	// append and the delivery. Whoever makes it shuts it down, after Run.
	//
	// Defaults to none, which costs nothing.
	Tracing trace.TracerProvider

	trusting bool // Auth was left to its default, and matters
}

// ConfigError reports everything that is wrong with a Config, so that a caller
// can tell a mistake of its own from a node that failed.
type ConfigError struct {
	Err error // the problems, joined
}

func (e *ConfigError) Error() string { return "ganglion: " + e.Err.Error() }

// Unwrap returns the problems.
func (e *ConfigError) Unwrap() error { return e.Err }

func (c Config) withDefaults() (Config, error) {
	var errs []error
	problem := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }

	switch {
	case c.Catalog == nil:
		problem("Catalog is required")
	default:
		if err := c.Catalog.Err(); err != nil {
			errs = append(errs, err)
		}
	}
	if c.Name == "" {
		problem("Name is required: it identifies the node")
	}
	if c.Store == "" {
		problem("Store is required: a postgres:// URL or a folder")
	}
	if !c.Domain && !c.Gateway {
		c.Domain, c.Gateway = true, true
	}
	for _, a := range []struct {
		field    *string
		name, or string
	}{
		{&c.Listen, "listen", "127.0.0.1:8080"},
		{&c.PeerListen, "peer-listen", "127.0.0.1:9080"},
		{&c.GossipListen, "gossip-listen", "127.0.0.1:7946"},
	} {
		if *a.field == "" {
			*a.field = a.or
		}
		if _, _, err := splitHostPort(*a.field); err != nil {
			problem("%s %q is no address: %w", a.name, *a.field, err)
		}
	}
	if c.AdminListen != "" {
		if _, _, err := splitHostPort(c.AdminListen); err != nil {
			problem("admin-listen %q is no address: %w", c.AdminListen, err)
		}
	}
	if c.LogLevel == nil {
		c.LogLevel = new(slog.LevelVar)
	}
	if c.Cluster == "" {
		c.Cluster = "ganglion"
	}
	limits, err := c.Limits.WithDefaults()
	if err != nil {
		errs = append(errs, err)
	}
	c.Limits = limits
	c.Heartbeat = cmp.Or(c.Heartbeat, 25*time.Second)
	if c.Heartbeat < time.Second || c.Heartbeat > time.Hour {
		problem("the heartbeat is %v: give 1s to 1h", c.Heartbeat)
	}
	if c.DrainWindow < 0 {
		problem("the drain window is %v: it can't be negative", c.DrainWindow)
	}
	c.DrainWindow = cmp.Or(c.DrainWindow, 5*time.Second)
	c.StoreWait = cmp.Or(c.StoreWait, 5*time.Minute)
	if c.GossipKeyFile == "" && !c.InsecurePeers && !isLoopback(c.GossipListen) {
		problem("gossip on %s would be open to strangers: give --gossip-key-file, or --insecure-peers if the network is trusted", c.GossipListen)
	}
	if !c.PeerTLS.set() && !c.InsecurePeers && !isLoopback(c.PeerListen) {
		problem("links on %s would be open to strangers: give --peer-tls-cert, --peer-tls-key and --peer-tls-ca, "+
			"or --insecure-peers if the network is trusted", c.PeerListen)
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Auth == nil {
		c.Auth, c.trusting = gateway.Development(), c.Gateway
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Ready == nil {
		c.Ready = func(string) {}
	}
	if err := errors.Join(errs...); err != nil {
		return c, &ConfigError{err}
	}
	return c, nil
}

// Check reports everything that is wrong with a configuration and with the
// files that it names, as a ConfigError. It opens no port and no log.
func (c Config) Check() error {
	c, err := c.withDefaults()
	errs := []error{err}
	var wrong *ConfigError
	if errors.As(err, &wrong) {
		errs[0] = wrong.Err
	}
	if _, err := c.PeerTLS.load(c.Logger); err != nil {
		errs = append(errs, err)
	}
	if c.GossipKeyFile != "" {
		_, err := readGossipKeys(c.GossipKeyFile)
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return &ConfigError{err}
	}
	return nil
}

// warnOfTrust says loudly that nobody has to prove who they are. It is said
// once a process, when everything else is known to be right.
func (n *node) warnOfTrust() {
	if n.cfg.trusting {
		n.log.Warn(gateway.DevelopmentWarning)
	}
}

// version is set by builds that have no version control to ask, such as those
// of images: -ldflags "-X github.com/ganglion-es/ganglion/node.version=v1.2.3".
var version string

// Version is the version of the program that is running, from its build
// information: a release's tag, or "devel" with the commit.
func Version() string {
	if version != "" {
		return version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	version := "devel"
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision" && len(s.Value) >= 12:
			version += "-" + s.Value[:12]
		case s.Key == "vcs.modified" && s.Value == "true":
			version += "+dirty"
		}
	}
	return version
}

// Run runs a node until ctx ends, and then drains it: sessions are told to
// move, commands in flight are finished, the cluster is told. It returns once
// everything it started has ended, nil after an orderly drain.
func Run(ctx context.Context, cfg Config) error {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return err
	}
	n, err := newNode(ctx, cfg)
	if err != nil && ctx.Err() != nil {
		return nil // stopped while it waited for the database
	}
	if err != nil {
		return fmt.Errorf("ganglion: %w", err)
	}
	n.warnOfTrust()
	n.warnOfDescriptors()
	return n.run(ctx)
}

func isLoopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}
