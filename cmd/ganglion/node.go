package main

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

	"github.com/ganglion-es/ganglion/domain"
	"github.com/ganglion-es/ganglion/examples"
	"github.com/ganglion-es/ganglion/gateway"
	"github.com/ganglion-es/ganglion/gateway/token"
	"github.com/ganglion-es/ganglion/node"
)

type devCmd struct {
	Listen, Data string
	Origins      []string
	Nodes        int
	TailOnly     bool
}

func devCommand(l *logging) *cobra.Command {
	var c devCmd
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Run a cluster in one process on an embedded store, to try things out.",
		Long: `Run a cluster in one process on an embedded store, to try things out.

A client may be anybody: it says hello with a client id, or sends the token dev:ID.
Claims follow the id as a JSON object, for access rules that look at them:

  {"op":"hello","id":"1","token":"dev:cook {\"role\":\"kitchen\"}"}
  curl -H 'Authorization: Bearer dev:cook {"role":"kitchen"}' …

The node answers only as localhost, as an IP address, and as the hosts in --origins,
so that no page on the Internet can reach it under a name of its own.`,
		Example: `  ganglion dev
  ganglion dev --nodes 3 --data /tmp/try`,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.run(cmd.Context(), l.logger()) },
	}
	f := cmd.Flags()
	f.StringVar(&c.Listen, "listen", "127.0.0.1:8080", "`HOST:PORT` for clients; node i listens on the port plus i.")
	f.StringVar(&c.Data, "data", "./ganglion-data", "`DIR` of the embedded store.")
	f.StringSliceVar(&c.Origins, "origins", nil, originsUsage)
	f.IntVar(&c.Nodes, "nodes", 1, "How many nodes to run in this process.")
	f.BoolVar(&c.TailOnly, "tail-only", false, "")
	hide(f, "tail-only")
	fromEnvironment(f)
	return cmd
}

func (c devCmd) run(ctx context.Context, log *slog.Logger) error {
	if c.Nodes < 1 || c.Nodes > 100 {
		return usagef("--nodes is %d: ask for 1 to 100", c.Nodes)
	}
	var urls []string
	return node.RunDev(ctx, node.Config{
		Catalog: &domain.Catalog, Listen: c.Listen, Origins: c.Origins, Store: c.Data, Handler: examples.Handler(), TailOnly: c.TailOnly, Logger: log,
		Ready: func(url string) {
			fmt.Println("ganglion: ready", url)
			if urls = append(urls, url); len(urls) == c.Nodes {
				printNextSteps(urls)
			}
		},
	}, c.Nodes)
}

// printNextSteps says what to paste into another terminal.
func printNextSteps(urls []string) {
	first, last := urls[0], urls[len(urls)-1]
	ws := func(url string) string { return "ws" + strings.TrimPrefix(url, "http") + "/v1/ws" }
	fmt.Printf(`
A live auction, for two browsers or more: %s/examples/auction/

From a second terminal:

  npx -y wscat -c %s -s ganglion.v1
    {"op":"hello","id":"1","client":"ada"}
    {"op":"command","id":"2","aggregate":"auction/42","command":"open","data":{"item":"a lamp","reserve":1000,"closes_at":"2099-01-01T00:00:00Z"}}

and watch it arrive in a third:

  npx -y wscat -c %s -s ganglion.v1
    {"op":"hello","id":"1","client":"bob"}
    {"op":"subscribe","id":"2","stream":"auction/42","after":0}

or without WebSocket:

  curl -s %s/v1/commands -H 'Authorization: Bearer dev:bob' \
    -d '{"id":"1","aggregate":"auction/42","command":"bid","data":{"amount":1500}}'
  curl -s %s/v1/aggregates/auction/42 -H 'Authorization: Bearer dev:bob'

Stop with Ctrl-C.
`, first, ws(first), ws(last), first, last)
}

// limitFlags set limits. What is not given has its default in the gateway.
func limitFlags(f *pflag.FlagSet, l *gateway.Limits) {
	f.IntVar(&l.FrameBytes, "max-frame-bytes", 0, "Bytes of one message of a client, and of a request's body; 98304 by default.")
	f.IntVar(&l.HeaderBytes, "max-header-bytes", 0, "Bytes of a request's header; 32768 by default.")
	f.DurationVar(&l.HelloTimeout, "max-hello-time", 0, "How long a client may take for its request's header, and to say hello; 10s by default.")
	f.IntVar(&l.Sessions, "max-sessions", 0, "Sessions on this node; 65536 by default.")
	f.IntVar(&l.SessionsPerClient, "max-sessions-per-client", 0, "Sessions of one client id on this node; a 64th of --max-sessions by default, at least 64.")
	f.IntVar(&l.AnonymousSessions, "max-anonymous-sessions", 0, "Sessions without a client id on this node, and beside them as many that have not said hello; a quarter of --max-sessions by default, at least 64.")
	f.IntVar(&l.Connections, "max-connections", 0, "HTTP connections to this node that are no session; a quarter of --max-sessions by default, at least 64.")
	f.IntVar(&l.Subscriptions, "max-subscriptions", 0, "Subscriptions of a session; 1000 by default.")
	f.IntVar(&l.OpenRequests, "max-open-requests", 0, "Unanswered requests of a session, past which it is not read, and HTTP requests of a client in progress; 256 by default.")
	f.IntVar(&l.OutboundBytes, "max-outbound-bytes", 0, "Bytes that wait for all clients of this node together, past which it closes the sessions that most of them wait for; 268435456 by default.")
	f.IntVar(&l.CommandsPerSecond, "max-commands-per-second", 0, "Commands of a session, or over HTTP of a client id; not limited by default.")
}

// peerTLSFlags set what nodes prove themselves to each other with, and
// operators to nodes.
func peerTLSFlags(f *pflag.FlagSet, t *node.PeerTLS) {
	f.StringVar(&t.Cert, "peer-tls-cert", "", "`FILE` with this node's certificate for links (PEM).")
	f.StringVar(&t.Key, "peer-tls-key", "", "`FILE` with its key (PEM).")
	f.StringVar(&t.CA, "peer-tls-ca", "", "`FILE` with the authority whose certificates are nodes of this cluster (PEM).")
}

const originsUsage = "Each `HOST` whose pages may connect, besides the node's own; in development mode also the hosts that the node answers as."

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

func nodeCommand(l *logging) *cobra.Command {
	var c nodeCmd
	cmd := &cobra.Command{
		Use:   "node",
		Short: "Run a member of a cluster.",
		Long:  "Flags are also read from the environment, as GANGLION_…, and from the file that --config names.",
		Example: `  ganglion node --name n1 --store postgres://ganglion@db/ganglion --join n1:7946,n2:7946 --gossip-key-file gossip.key --peer-tls-cert n1.pem --peer-tls-key n1.key --peer-tls-ca ca.pem
  ganglion node --config /etc/ganglion/node.toml --print-config`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if c.PrintConfig {
				return printConfig(cmd.OutOrStdout(), cmd.Flags())
			}
			return c.run(cmd.Context(), cmd.Root(), l.logger(), &l.current)
		},
	}
	c.addTo(cmd)
	return cmd
}

func (c *nodeCmd) addTo(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&c.Name, "name", "", "Unique in the cluster and the same across restarts; the host's name if not given.")
	f.StringSliceVar(&c.Roles, "roles", []string{"domain", "gateway"}, "What the node does: domain, gateway or both.")
	f.StringVar(&c.Listen, "listen", ":8080", "`HOST:PORT` for clients.")
	f.StringVar(&c.PeerListen, "peer-listen", ":9080", "`HOST:PORT` for links from other nodes.")
	f.StringVar(&c.GossipListen, "gossip-listen", ":7946", "`HOST:PORT` for gossip, TCP and UDP.")
	f.StringVar(&c.Advertise, "advertise", "", "`HOST` under which other nodes reach this one, if it is not the first private address; route:HOST for the address from which HOST is reached.")
	f.StringSliceVar(&c.Join, "join", nil, "`HOST:PORT` of other nodes' gossip; a name stands for all its addresses.")
	f.StringVar(&c.Cluster, "cluster", "ganglion", "The cluster's name; nodes with another one are strangers.")
	c.storeFlags.addTo(f)
	f.DurationVar(&c.StoreWait, "store-wait", 5*time.Minute, "How long a node that starts waits for a database that can't be reached, not ready, before it exits; 0 does not wait.")
	c.authFlags.addTo(cmd)
	f.StringSliceVar(&c.Origins, "origins", nil, originsUsage)
	f.BoolVar(&c.Examples, "examples", false, "Serve the example pages, such as /examples/auction/.")
	limitFlags(f, &c.Limits)
	f.DurationVar(&c.Heartbeat, "heartbeat", 25*time.Second, "Time between two heartbeats of a session, 1s to 1h; clients are told it, and a session that is silent for three ends.")
	f.DurationVar(&c.DrainWindow, "drain-window", 5*time.Second, "How long a node that stops takes to part with its sessions, one after another.")
	f.StringVar(&c.GossipKeyFile, "gossip-key-file", "", "`FILE` with the 32-byte keys of gossip, hex or base64, one on each line; the first encrypts. Read again when it changes.")
	peerTLSFlags(f, &c.PeerTLS)
	f.BoolVar(&c.InsecurePeers, "insecure-peers", false, "Allow gossip without keys and links without TLS on other than loopback addresses.")
	f.StringVar(&c.AdminListen, "admin-listen", "", "`HOST:PORT` for profiles (/debug/pprof/) and the level of log lines (/log-level); :PORT is one of this machine alone. Off if not given.")
	c.tracingFlags.addTo(f)
	f.BoolVar(&c.TailOnly, "tail-only", false, "")
	f.DurationVar(&c.Suspect, "suspect", 0, "")
	f.StringVar(&c.ClockOffset, "clock-offset-file", "", "")
	hide(f, "tail-only", "suspect", "clock-offset-file")
	fromEnvironment(f)
	f.BoolVar(&c.PrintConfig, "print-config", false, "Print the configuration that holds, and where each value comes from, and exit.")
	oneOf(cmd, "roles", "domain", "gateway")
}

func (c nodeCmd) run(ctx context.Context, root *cobra.Command, log *slog.Logger, level *slog.LevelVar) error {
	log = node.Record(log)
	config, tokens, err := c.configure(ctx, log)
	log = log.With("node", config.Name) // the node itself adds it to config.Logger
	warnOfMisspelled(root, log)
	if err != nil {
		return err
	}
	provider, err := c.provider(ctx, config.Name, log)
	if err != nil {
		return err
	}
	if provider != nil {
		config.Tracing = provider
	}
	config.LogLevel = level
	return runTraced(ctx, provider, func(ctx context.Context) error {
		if tokens == nil {
			return node.Run(ctx, config)
		}
		return runWith(ctx, func(ctx context.Context) error { return node.Run(ctx, config) }, tokens.Run)
	})
}

// configure returns the node that the flags ask for, with what verifies tokens, nil
// for --auth dev. The error has everything that is wrong with the flags.
func (c nodeCmd) configure(ctx context.Context, log *slog.Logger) (node.Config, *token.Authenticator, error) {
	config := c.Config
	config.Catalog, config.Store, config.Now, config.Logger = &domain.Catalog, c.storeFlags.Store, c.clock, log
	config.Ready = func(url string) { fmt.Println("ganglion: ready", url) }
	if config.StoreWait == 0 {
		config.StoreWait = -1 // 0 stands for the default there
	}
	for _, role := range c.Roles {
		config.Domain = config.Domain || role == "domain"
		config.Gateway = config.Gateway || role == "gateway"
	}
	if c.Examples {
		config.Handler = examples.Handler()
	}
	var errs []error
	var err error
	if config.Name == "" {
		if config.Name, err = os.Hostname(); err != nil {
			errs = append(errs, usagef("the host has no name: give --name"))
		}
	}
	if config.StorePassword, err = c.password(); err != nil {
		errs = append(errs, err)
	}
	tokens, err := c.authenticator(ctx, log.With("node", config.Name))
	if err != nil {
		errs = append(errs, err)
	}
	if tokens != nil {
		config.Auth = tokens
	}
	return config, tokens, errors.Join(errs...)
}

// clock is the wall clock. For fault tests, which can't set the clock of one
// process alone, it is off by the duration that a file holds at the moment.
func (c nodeCmd) clock() time.Time {
	now := time.Now()
	if c.ClockOffset == "" {
		return now
	}
	text, _ := os.ReadFile(c.ClockOffset)                            // missing: not off
	offset, _ := time.ParseDuration(strings.TrimSpace(string(text))) // half written: the same
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
		Short:   "Ask the node on this machine whether it serves; for containers.",
		Long:    "Ask the node on this machine whether it serves; for containers. Ends with 0 if it does.",
		Example: `  ganglion healthcheck --listen :8080`,
		RunE:    func(cmd *cobra.Command, _ []string) error { return checkHealth(cmd.Context(), listen) },
	}
	f := cmd.Flags()
	f.StringVar(&listen, "listen", ":8080", "The node's `HOST:PORT` for clients.")
	fromEnvironment(f)
	return cmd
}

func checkHealth(ctx context.Context, listen string) error {
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return usagef("--listen %q is no address: write HOST:PORT or :PORT", listen)
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
