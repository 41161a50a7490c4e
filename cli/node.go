package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/ganglion-es/ganglion/gateway"
	"github.com/ganglion-es/ganglion/gateway/token"
	"github.com/ganglion-es/ganglion/node"
	"github.com/ganglion-es/ganglion/node/trust"
)

// limitFlags defines the flags of limits. 0 selects the gateway's default.
func limitFlags(f *pflag.FlagSet, l *gateway.Limits) {
	f.IntVar(&l.FrameBytes, "max-frame-bytes", 0, "bytes of a client's message or request body (default 98304)")
	f.IntVar(&l.HeaderBytes, "max-header-bytes", 0, "bytes of a request header (default 32768)")
	f.DurationVar(&l.HelloTimeout, "max-hello-time", 0, "time for a client to send its request header, and then its hello frame (default 10s)")
	f.IntVar(&l.Sessions, "max-sessions", 0, "sessions on this node (default 65536)")
	f.IntVar(&l.SessionsPerClient, "max-sessions-per-client", 0, "sessions of one client id on this node (default a 64th of --max-sessions, at least 64)")
	f.IntVar(&l.AnonymousSessions, "max-anonymous-sessions", 0, "anonymous sessions on this node; as many more can wait to send their hello frame (default a quarter of --max-sessions, at least 64)")
	f.IntVar(&l.Connections, "max-connections", 0, "HTTP connections to this node that are not sessions (default a quarter of --max-sessions, at least 64)")
	f.IntVar(&l.Subscriptions, "max-subscriptions", 0, "subscriptions of a session (default 1000)")
	f.IntVar(&l.LiveQueries, "max-live-queries", 0, "subscriptions to queries of a session, which are also subscriptions (default 50)")
	f.IntVar(&l.Queries, "max-queries", 0, "queries in progress on this node (default 1024)")
	f.IntVar(&l.OpenRequests, "max-open-requests", 0, "unanswered requests of a session, past which the node stops reading from it; also concurrent HTTP requests of a client (default 256)")
	f.IntVar(&l.OutboundBytes, "max-outbound-bytes", 0, "bytes in the send buffers of all clients together, past which the node closes the sessions with the fullest buffers (default 268435456)")
	f.IntVar(&l.CommandsPerSecond, "max-commands-per-second", 0, "commands per second of a session, or of a client id over HTTP (default unlimited)")
}

// peerTLSFlags defines the flags for the certificate with which nodes and operators
// authenticate to nodes.
func peerTLSFlags(f *pflag.FlagSet, t *trust.PeerTLS) {
	f.StringVar(&t.Cert, "peer-tls-cert", "", "`FILE` with the certificate to present to nodes (PEM)")
	f.StringVar(&t.Key, "peer-tls-key", "", "`FILE` with the private key of --peer-tls-cert (PEM)")
	f.StringVar(&t.CA, "peer-tls-ca", "", "`FILE` with the certificate authority of this cluster's nodes (PEM)")
}

const originsUsage = "`HOST` whose pages may connect, besides the node's own; in development mode the node also answers requests for this host"

type nodeCmd struct {
	node.Config
	Roles    []string
	Examples bool
	storeFlags
	authFlags
	tracingFlags
	ClockOffset string
	PrintConfig bool
}

func nodeCommand(p *program) *cobra.Command {
	var c nodeCmd
	cmd := &cobra.Command{
		Use:   "node",
		Short: "Run a node of a cluster",
		Long: `Run a node of a cluster.
Each flag can also be set by the environment variable shown with it, or under its name in the file of --config.`,
		Example: `  ganglion node --name n1 --store postgres://ganglion@db/ganglion --join n1:7946,n2:7946 --gossip-key-file gossip.key --peer-tls-cert n1.pem --peer-tls-key n1.key --peer-tls-ca ca.pem
  ganglion node --config /etc/ganglion/node.toml --print-config`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if c.PrintConfig {
				return errors.Join(printConfig(cmd.OutOrStdout(), cmd.Flags()), p.printRelays(cmd.OutOrStdout()))
			}
			return c.run(cmd.Context(), cmd.Root(), p)
		},
	}
	c.addTo(cmd, p)
	return cmd
}

func (c *nodeCmd) addTo(cmd *cobra.Command, p *program) {
	f := cmd.Flags()
	f.StringVar(&c.Name, "name", "", "node name, unique in the cluster and stable across restarts (default the host name)")
	f.StringSliceVar(&c.Roles, "roles", []string{"domain", "gateway"}, "roles of the node: domain runs aggregates, gateway serves clients")
	f.BoolVar(&c.ProcessorsOnly, "processors-only", false, "run projections only, neither aggregates nor clients: for building new projections before a rolling upgrade; --roles does not apply")
	f.StringVar(&c.Listen, "listen", ":8080", "`HOST:PORT` for clients")
	f.StringVar(&c.PeerListen, "peer-listen", ":9080", "`HOST:PORT` for links from other nodes")
	f.StringVar(&c.GossipListen, "gossip-listen", ":7946", "`HOST:PORT` for gossip, TCP and UDP")
	f.StringVar(&c.Advertise, "advertise", "", "`HOST` at which other nodes reach this one; route:HOST selects the local address of the route to HOST (default the first private address)")
	f.StringSliceVar(&c.Join, "join", nil, "gossip `HOST:PORT` of other nodes; a host name stands for all its addresses")
	f.StringVar(&c.Cluster, "cluster", "ganglion", "cluster name; only nodes with the same name join")
	c.storeFlags.addTo(f)
	f.DurationVar(&c.StoreWait, "store-wait", 5*time.Minute, "how long a starting node waits, not ready, for an unreachable database; then it exits; 0 does not wait")
	c.authFlags.addTo(cmd, p.options.Auth)
	f.StringSliceVar(&c.Origins, "origins", nil, originsUsage)
	if p.options.Examples {
		f.BoolVar(&c.Examples, "examples", false, "serve the example pages, such as /examples/auction/")
	}
	limitFlags(f, &c.Limits)
	f.DurationVar(&c.Heartbeat, "heartbeat", 25*time.Second, "interval of heartbeats on a session, 1s to 1h; a session that is silent for three of them is closed")
	f.DurationVar(&c.DrainWindow, "drain-window", 5*time.Second, "time over which a stopping node spreads the closing of its sessions")
	f.StringVar(&c.GossipKeyFile, "gossip-key-file", "", "`FILE` with 32-byte gossip keys in hex or base64, one per line; the first encrypts, all decrypt; read again when it changes")
	peerTLSFlags(f, &c.PeerTLS)
	f.BoolVar(&c.InsecurePeers, "insecure-peers", false, "allow gossip without keys and links without TLS on addresses other than loopback")
	f.StringVar(&c.AdminListen, "admin-listen", "", "`HOST:PORT` for profiles (/debug/pprof/) and the log level (/log-level); :PORT listens on loopback only (default off)")
	f.StringVar(&c.ConsoleListen, "console-listen", "", "`HOST:PORT` for the console (/_ganglion/); :PORT listens on loopback; other addresses have TLS with the certificate of --peer-tls-cert (default off)")
	c.tracingFlags.addTo(f)
	f.BoolVar(&c.TailOnly, "tail-only", false, "")
	f.DurationVar(&c.Suspect, "suspect", 0, "")
	f.StringVar(&c.ClockOffset, "clock-offset-file", "", "")
	hide(f, "tail-only", "suspect", "clock-offset-file")
	fromEnvironment(f)
	f.BoolVar(&c.PrintConfig, "print-config", false, "print the effective configuration with the source of each value, and exit")
	oneOf(cmd, "roles", "domain", "gateway")
}

func (c nodeCmd) run(ctx context.Context, root *cobra.Command, p *program) error {
	log := node.Record(p.logger())
	config, tokens, err := c.configure(ctx, p, log)
	log = log.With("node", config.Name) // the node adds it to config.Logger itself
	warnOfMisspelled(root, log)
	if err != nil {
		return err
	}
	provider, err := c.provider(ctx, p.options.Name, config.Name, log)
	if err != nil {
		return err
	}
	if provider != nil {
		config.Tracing = provider
	}
	config.LogLevel = &p.current
	return runTraced(ctx, provider, func(ctx context.Context) error {
		if tokens == nil {
			return node.Run(ctx, config)
		}
		return runWith(ctx, func(ctx context.Context) error { return node.Run(ctx, config) }, tokens.Run)
	})
}

// configure returns the node's configuration and the verifier of tokens, which is
// nil without --auth jwt. The error lists everything that is wrong with the flags.
func (c nodeCmd) configure(ctx context.Context, p *program, log *slog.Logger) (node.Config, *token.Authenticator, error) {
	config := c.Config
	config.Catalog, config.Store, config.Now, config.Logger = p.catalog, c.storeFlags.Store, c.clock, log
	config.Ready, config.Memories = p.printReady, p.options.Memories
	if config.StoreWait == 0 {
		config.StoreWait = -1 // 0 selects the default
	}
	for _, role := range c.Roles {
		if c.ProcessorsOnly {
			break
		}
		config.Domain = config.Domain || role == "domain"
		config.Gateway = config.Gateway || role == "gateway"
	}
	if config.Gateway {
		config.Consumers, config.Clients = p.options.Consumers, p.options.Clients
	}
	if c.Examples || !p.options.Examples {
		config.Handler = p.options.Pages
	}
	var errs []error
	var err error
	if config.Name == "" {
		if config.Name, err = os.Hostname(); err != nil {
			errs = append(errs, usagef("the host has no name: set --name"))
		}
	}
	if config.Relays, err = p.relays(); err != nil {
		errs = append(errs, err)
	}
	if config.Intakes, err = p.intakes(); err != nil {
		errs = append(errs, err)
	}
	if config.StorePassword, err = c.password(); err != nil {
		errs = append(errs, err)
	}
	tokens, err := c.authenticator(ctx, log.With("node", config.Name))
	if err != nil {
		errs = append(errs, err)
	}
	switch {
	case tokens != nil:
		config.Auth = tokens
	case c.authFlags.Auth == ownAuth:
		config.Auth = p.options.Auth
	}
	return config, tokens, errors.Join(errs...)
}

// clock returns the time of the wall clock, shifted by the duration in the file of
// --clock-offset-file. Fault tests use it, since they cannot set the system clock
// for one process alone.
func (c nodeCmd) clock() time.Time {
	now := time.Now()
	if c.ClockOffset == "" {
		return now
	}
	text, _ := os.ReadFile(c.ClockOffset)                            // a missing file means no shift
	offset, _ := time.ParseDuration(strings.TrimSpace(string(text))) // so does a partly written one
	return now.Add(offset).Round(0)
}

func readSecret(file string) ([]byte, error) {
	raw, err := os.ReadFile(file)
	var path *fs.PathError
	if errors.As(err, &path) {
		return nil, usagef("can't read %s: %w", file, path.Err)
	}
	return raw, err
}

func healthcheckCommand() *cobra.Command {
	var listen string
	cmd := &cobra.Command{
		Use:     "healthcheck",
		Short:   "Check whether the node on this machine is ready, for containers",
		Long:    "Check whether the node on this machine is ready, for containers. The exit status is 0 if it is.",
		Example: `  ganglion healthcheck --listen :8080`,
		RunE:    func(cmd *cobra.Command, _ []string) error { return checkHealth(cmd.Context(), listen) },
	}
	f := cmd.Flags()
	f.StringVar(&listen, "listen", ":8080", "the node's `HOST:PORT` for clients")
	fromEnvironment(f)
	return cmd
}

func checkHealth(ctx context.Context, listen string) error {
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return usagef("--listen %q is not an address: write HOST:PORT or :PORT", listen)
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	resp, err := get(ctx, "http://"+net.JoinHostPort(host, port), "/readyz")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("not ready: %s", firstLine(resp.Body))
	}
	return nil
}
