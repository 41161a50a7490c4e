// Package node assembles a node: an engine that runs the aggregates that the node
// owns, a log in PostgreSQL or SQLite, and a gateway that delivers events to its
// WebSocket sessions.
//
// [Run] runs a node with an application's [aggregate.Catalog], [RunDev] a cluster of
// several nodes in one process. Package cli adds the command line.
//
// The log is the truth, and everything else is a cache of it. The ring decides
// which node runs an aggregate, which gives locality. The log accepts one writer
// per stream version, which gives safety. So a node may die at any moment, and no
// acknowledged event is lost or stored twice.
package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/engine"
	"github.com/ganglion-es/ganglion/gateway"
	"github.com/ganglion-es/ganglion/node/trust"
	"github.com/ganglion-es/ganglion/relay"
)

// Memories has the states of the projections in memory.
type Memories = engine.Memories

// Config configures a node.
type Config struct {
	// Catalog is the application. Required.
	Catalog *aggregate.Catalog

	// Name identifies the node. It must be unique in the cluster and the same
	// across restarts. Required.
	Name string

	// Domain makes the node run aggregates, Gateway makes it serve clients.
	//
	// Defaults to both if neither is set.
	Domain, Gateway bool

	// ProcessorsOnly makes the node run projections and nothing else: neither
	// aggregates nor clients. Domain nodes run projections too.
	ProcessorsOnly bool

	// Listen is HOST:PORT for clients. A node without the gateway role answers only
	// /healthz, /readyz, /metrics and /v1/cluster there.
	//
	// Defaults to 127.0.0.1:8080. Port 0 selects a free one.
	Listen string

	// AdminListen is HOST:PORT for profiles (/debug/pprof/) and the log level
	// (/log-level). It requires no authentication. :PORT listens on the loopback
	// interface.
	//
	// Defaults to none.
	AdminListen string

	// ConsoleListen is HOST:PORT for the console, under /_ganglion/. :PORT listens on the
	// loopback interface. Other addresses need PeerTLS: the console then has TLS with the
	// node's certificate. Users authenticate as clients do, and the claim ganglion_role of
	// their token says what they may do: viewer, reader or operator. A user who presents a
	// certificate of PeerTLS's authority is an operator. Without Auth, every user on the
	// loopback interface is an operator, and users elsewhere need such a certificate.
	//
	// Defaults to none. [RunDev] serves the console on Listen.
	ConsoleListen string

	// PeerListen is HOST:PORT for links from other nodes.
	//
	// Defaults to 127.0.0.1:9080. Port 0 selects a free one.
	PeerListen string

	// GossipListen is HOST:PORT for gossip, TCP and UDP.
	//
	// Defaults to 127.0.0.1:7946. Port 0 selects a free one.
	GossipListen string

	// Advertise is the host at which other nodes reach this one. route:HOST
	// selects the local address from which HOST is reached, for machines that have
	// several addresses and learn them at start.
	//
	// Defaults to the host of GossipListen, or to the machine's first private
	// address if GossipListen selects all interfaces.
	Advertise string

	// Join has gossip addresses of other nodes, HOST:PORT. Each attempt resolves host
	// names again and uses all their addresses.
	Join []string

	// Cluster is the cluster's name. Only nodes with the same name join.
	//
	// Defaults to "ganglion".
	Cluster string

	// Store is the log: a postgres:// URL, or the folder of an embedded log.
	// Required.
	Store string

	// StorePassword is the password for Store, if its URL has none.
	StorePassword string

	// StoreWait is how long a starting node waits for an unreachable database
	// before Run fails. In the meantime /readyz answers 503 with the reason. A
	// wrong password, a missing database or a newer schema fail immediately.
	//
	// Defaults to 5 minutes. If it is negative, the node does not wait.
	StoreWait time.Duration

	// Auth authenticates clients.
	//
	// Defaults to [gateway.Development], which trusts any client id; Run and RunDev
	// log a warning about that.
	Auth gateway.Authenticator

	// Handler answers requests on Listen outside the node's own paths, such as
	// the pages of an application. The node's are /v1/, /healthz, /readyz and
	// /metrics, and /_ganglion/ with [RunDev].
	//
	// Defaults to one that answers 404.
	Handler http.Handler

	// Origins are the hosts whose pages may connect, besides the node's own. With
	// [gateway.Development] the node answers only requests for these hosts, for
	// localhost and for IP addresses.
	Origins []string

	// Limits bound the resources that clients may use.
	Limits gateway.Limits

	// Heartbeat is the interval of heartbeats on a session, from 1 s to 1 h. The
	// welcome frame announces it. A session that is silent for three intervals is
	// closed.
	//
	// Defaults to 25 seconds.
	Heartbeat time.Duration

	// DrainWindow is the time over which a stopping node spreads the closing of its
	// sessions. The node takes less time for few sessions.
	//
	// Defaults to 5 seconds.
	DrainWindow time.Duration

	// GossipKeyFile has the keys of gossip: 32 bytes each, as hex or base64, one
	// per line, or a single key as raw bytes. The first encrypts, all decrypt. The
	// file may be replaced while the node runs; invalid keys change nothing.
	GossipKeyFile string

	// PeerTLS names the files with which nodes authenticate to each other.
	PeerTLS trust.PeerTLS

	// InsecurePeers allows gossip without keys and links without TLS on addresses
	// other than loopback.
	InsecurePeers bool

	// TailOnly disables pushed events, for tests. The node then reads all events from
	// the log: it gets them later, but misses none.
	TailOnly bool

	// Suspect is how long a link may be silent before the node tries another one. The
	// kernel's limit for unacknowledged data on links (TCP_USER_TIMEOUT) derives
	// from it.
	//
	// Defaults to 500 ms.
	Suspect time.Duration

	// Now is the wall clock. It dates events, and distinguishes this run of the
	// node from earlier ones. Deadlines and silences use the monotonic clock
	// instead.
	//
	// Defaults to time.Now.
	Now func() time.Time

	// Memories, if set, is called once before Ready, with the states of the node's
	// projections in memory, for Go code of the program to read.
	Memories func(Memories)

	// Clients, if set, is called once before Ready, with a maker of clients of the node
	// for Go code of the program, such as a worker or the handler of a web hook. They
	// need no URL and no token. It needs the gateway role. It must not block.
	Clients func(Clients)

	// Consumers are handlers of the program that are members of consumer groups in the
	// node itself, without a token or a URL. They need the gateway role. Run returns
	// after every call of a handler has returned.
	Consumers []Consumer

	// Relays publish the log's events to brokers, each on one domain node of the cluster
	// at a time. All domain nodes should have the same relays with the same settings: the
	// ring chooses among the ones that have a relay of the name. Other nodes ignore them.
	Relays []Relay

	// Intakes execute commands that arrive in queues of brokers, on nodes with the gateway
	// role; other nodes ignore them. The queue should let one consumer at a time consume,
	// so that one node executes its commands in order.
	Intakes []Intake

	// Ready is called once, with the URL for clients, when the node is ready.
	Ready func(url string)

	// Logger gets the node's log lines: at most 20 a minute with the same message.
	// Lines below Info are not limited.
	//
	// Defaults to one that discards everything.
	Logger *slog.Logger

	// LogLevel is the level that AdminListen changes. The Logger's handler must
	// use it.
	//
	// Defaults to a new one.
	LogLevel *slog.LevelVar

	// Tracing receives spans of commands: of the frame, the hop, the append and
	// the delivery. The caller shuts it down after Run.
	//
	// Defaults to none, which costs nothing.
	Tracing trace.TracerProvider

	trustsClients bool // a gateway whose Auth is the default
	devConsole    bool // serve the console on Listen
}

// runsProjections reports whether the node runs projections.
func (c Config) runsProjections() bool { return c.Domain || c.ProcessorsOnly }

// ConfigError reports everything that is wrong with a Config. Other errors of Run
// are failures of the node.
type ConfigError struct {
	Err error // the problems, joined
}

func (e *ConfigError) Error() string { return "ganglion: " + e.Err.Error() }

// Unwrap returns the problems.
func (e *ConfigError) Unwrap() error { return e.Err }

func (c Config) withDefaults() (Config, error) {
	if !c.Domain && !c.Gateway && !c.ProcessorsOnly {
		c.Domain, c.Gateway = true, true
	}
	c.Listen = cmp.Or(c.Listen, "127.0.0.1:8080")
	c.PeerListen = cmp.Or(c.PeerListen, "127.0.0.1:9080")
	c.GossipListen = cmp.Or(c.GossipListen, "127.0.0.1:7946")
	c.Cluster = cmp.Or(c.Cluster, "ganglion")
	c.Heartbeat = cmp.Or(c.Heartbeat, 25*time.Second)
	c.DrainWindow = cmp.Or(c.DrainWindow, 5*time.Second)
	c.StoreWait = cmp.Or(c.StoreWait, 5*time.Minute)
	c.Logger = cmp.Or(c.Logger, slog.New(slog.DiscardHandler))
	if c.LogLevel == nil {
		c.LogLevel = new(slog.LevelVar)
	}
	if c.Auth == nil {
		c.Auth, c.trustsClients = gateway.Development(), c.Gateway
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Ready == nil {
		c.Ready = func(string) {}
	}
	limits, err := c.Limits.WithDefaults()
	c.Limits = limits
	if err := errors.Join(append(c.problems(), err)...); err != nil {
		return c, &ConfigError{err}
	}
	return c, nil
}

// problems returns everything that is wrong with a Config, apart from its limits. The
// Config must have its defaults.
func (c Config) problems() (errs []error) {
	problem := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if c.Catalog == nil {
		problem("Catalog is required")
	} else if err := c.Catalog.Err(); err != nil {
		errs = append(errs, err)
	}
	if c.Name == "" {
		problem("Name is required: it identifies the node")
	}
	if c.ProcessorsOnly && (c.Domain || c.Gateway) {
		problem("a node that runs only processors has no roles: leave out domain and gateway, or ProcessorsOnly")
	}
	if c.Store == "" {
		problem("Store is required: a postgres:// URL or a folder")
	}
	for _, a := range []struct{ name, addr string }{
		{"Listen (--listen)", c.Listen},
		{"PeerListen (--peer-listen)", c.PeerListen},
		{"GossipListen (--gossip-listen)", c.GossipListen},
		{"AdminListen (--admin-listen)", cmp.Or(c.AdminListen, ":0")},
		{"ConsoleListen (--console-listen)", cmp.Or(c.ConsoleListen, ":0")},
	} {
		if _, _, err := splitHostPort(a.addr); err != nil {
			problem("%s is %q, which is not an address: %w", a.name, a.addr, err)
		}
	}
	if c.ConsoleListen != "" && !isLoopback(adminAddr(c.ConsoleListen)) && !c.PeerTLS.IsSet() {
		problem("ConsoleListen (--console-listen) is %q: on addresses other than loopback the console has TLS with the node's certificate, so set PeerTLS (--peer-tls-cert, --peer-tls-key and --peer-tls-ca), "+
			"or use a loopback address and a proxy with TLS on this machine", c.ConsoleListen)
	}
	if c.Heartbeat < time.Second || c.Heartbeat > time.Hour {
		problem("the heartbeat is %v: it must be from 1s to 1h", c.Heartbeat)
	}
	if c.DrainWindow < 0 {
		problem("the drain window is %v: it must not be negative", c.DrainWindow)
	}
	c.consumerProblems(problem)
	if err := relay.Check(c.Relays); err != nil {
		problem("Relays ([[relay]] of the file): %w", err)
	}
	if err := relay.CheckIntakes(c.Intakes); err != nil {
		problem("Intakes ([[intake]] of the file): %w", err)
	}
	if c.Clients != nil && !c.Gateway {
		problem("Clients needs the gateway role, since its clients connect to the node's own gateway")
	}
	if c.GossipKeyFile == "" && !c.InsecurePeers && !isLoopback(c.GossipListen) {
		problem("gossip on %s would accept any host: set GossipKeyFile (--gossip-key-file), or InsecurePeers (--insecure-peers) if the network is trusted, "+
			"or a loopback address as GossipListen (--gossip-listen) if all nodes run on this machine", c.GossipListen)
	}
	if !c.PeerTLS.IsSet() && !c.InsecurePeers && !isLoopback(c.PeerListen) {
		problem("links on %s would accept any host: set PeerTLS (--peer-tls-cert, --peer-tls-key and --peer-tls-ca), "+
			"or InsecurePeers (--insecure-peers) if the network is trusted, "+
			"or a loopback address as PeerListen (--peer-listen) if all nodes run on this machine", c.PeerListen)
	}
	return errs
}

// Check reports everything that is wrong with a configuration and with the files
// that it names, as a [ConfigError]. It opens no port and no log.
func (c Config) Check() error {
	c, err := c.withDefaults()
	errs := []error{err}
	var wrong *ConfigError
	if errors.As(err, &wrong) {
		errs[0] = wrong.Err
	}
	_, tlsErr := c.PeerTLS.Load(c.Logger)
	_, gossipErr := trust.OpenGossipKeys(c.GossipKeyFile, c.Logger)
	errs = append(errs, tlsErr, gossipErr)
	if err := errors.Join(errs...); err != nil {
		return &ConfigError{err}
	}
	return nil
}

// warnOfTrust logs that clients need no authentication. It is called once per
// process, after everything else is known to be valid.
func (n *node) warnOfTrust() {
	if n.cfg.trustsClients {
		n.log.Warn(gateway.DevelopmentWarning)
	}
}

// version is set by builds without version control, such as builds of images:
// -ldflags "-X github.com/ganglion-es/ganglion/node.version=v1.2.3".
var version string

// Version returns the version of the running program, from its build information:
// a release's tag, or "devel" with the commit.
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

// Run runs a node until ctx ends, and then drains it: it sends sessions elsewhere,
// finishes commands in flight, and leaves the cluster. It returns when everything
// that it started has ended, and nil after a drain. Its error is a [ConfigError] if
// cfg is wrong.
func Run(ctx context.Context, cfg Config) error {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return err
	}
	n, err := newNode(ctx, cfg)
	if err != nil {
		return startError(ctx, err)
	}
	n.warnOfTrust()
	n.warnOfDescriptors()
	return n.run(ctx)
}

// startError returns the error of Run for a node that could not be made. It returns
// nil if ctx ended while the node waited for the database.
func startError(ctx context.Context, err error) error {
	var wrong *ConfigError
	switch {
	case errors.As(err, &wrong):
		return err
	case ctx.Err() != nil:
		return nil
	}
	return fmt.Errorf("ganglion: %w", err)
}
