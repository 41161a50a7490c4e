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

	"github.com/alecthomas/kong"

	"github.com/ganglion-es/ganglion"
	"github.com/ganglion-es/ganglion/domain"
	"github.com/ganglion-es/ganglion/examples"
	"github.com/ganglion-es/ganglion/gateway"
	"github.com/ganglion-es/ganglion/gateway/token"
)

type devCmd struct {
	Listen string `help:"Address for clients; node i listens on the port plus i." default:"127.0.0.1:8080" env:"GANGLION_LISTEN" placeholder:"HOST:PORT"`
	Data   string `help:"Folder of the embedded store." default:"./ganglion-data" env:"GANGLION_DATA" placeholder:"DIR"`
	Nodes  int    `help:"How many nodes to run in this process." default:"1" env:"GANGLION_NODES"`

	TailOnly bool `hidden:"" env:"GANGLION_TAIL_ONLY"`
}

// Help is what --help says beside the flags.
func (devCmd) Help() string {
	return `  ganglion dev
  ganglion dev --nodes 3 --data /tmp/try`
}

func (c devCmd) Run(ctx context.Context, log *slog.Logger) error {
	if c.Nodes < 1 || c.Nodes > 100 {
		return usagef("--nodes is %d: ask for 1 to 100", c.Nodes)
	}
	var urls []string
	return ganglion.RunDev(ctx, ganglion.Config{
		Catalog: &domain.Catalog, Listen: c.Listen, Store: c.Data, Handler: examples.Handler(), TailOnly: c.TailOnly, Logger: log,
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

// limitFlags are gateway.Limits, which says what each is. What is not given
// has its default there.
type limitFlags struct {
	MaxFrameBytes        int           `help:"Bytes of one message of a client, and of a request's body; 98304 by default." env:"GANGLION_MAX_FRAME_BYTES" placeholder:"N"`
	MaxHeaderBytes       int           `help:"Bytes of a request's header; 32768 by default." env:"GANGLION_MAX_HEADER_BYTES" placeholder:"N"`
	MaxHelloTime         time.Duration `help:"How long a client may take for its request's header, and to say hello; 10s by default." env:"GANGLION_MAX_HELLO_TIME" placeholder:"DURATION"`
	MaxSessions          int           `help:"Sessions on this node; 65536 by default." env:"GANGLION_MAX_SESSIONS" placeholder:"N"`
	MaxSessionsPerClient int           `help:"Sessions of one client id on this node; not limited by default." env:"GANGLION_MAX_SESSIONS_PER_CLIENT" placeholder:"N"`
	MaxSubscriptions     int           `help:"Subscriptions of a session; 1000 by default." env:"GANGLION_MAX_SUBSCRIPTIONS" placeholder:"N"`
	MaxOpenRequests      int           `help:"Unanswered requests of a session, past which it is not read; 256 by default." env:"GANGLION_MAX_OPEN_REQUESTS" placeholder:"N"`
	MaxOutboundBytes     int           `help:"Bytes that wait for all clients of this node together, past which it takes no new ones; 268435456 by default." env:"GANGLION_MAX_OUTBOUND_BYTES" placeholder:"N"`
	MaxCommandsPerSecond int           `help:"Commands of a session, or over HTTP of a client id; not limited by default." env:"GANGLION_MAX_COMMANDS_PER_SECOND" placeholder:"N"`
}

func (f limitFlags) limits() gateway.Limits {
	return gateway.Limits{
		FrameBytes: f.MaxFrameBytes, HeaderBytes: f.MaxHeaderBytes, HelloTimeout: f.MaxHelloTime,
		Sessions: f.MaxSessions, SessionsPerClient: f.MaxSessionsPerClient, Subscriptions: f.MaxSubscriptions,
		OpenRequests: f.MaxOpenRequests, OutboundBytes: f.MaxOutboundBytes, CommandsPerSecond: f.MaxCommandsPerSecond,
	}
}

// peerTLSFlags are what nodes prove themselves to each other with, and
// operators to nodes.
type peerTLSFlags struct {
	PeerTLSCert string `name:"peer-tls-cert" help:"This node's certificate for links (PEM)." env:"GANGLION_PEER_TLS_CERT" placeholder:"FILE"`
	PeerTLSKey  string `name:"peer-tls-key" help:"Its key (PEM)." env:"GANGLION_PEER_TLS_KEY" placeholder:"FILE"`
	PeerTLSCA   string `name:"peer-tls-ca" help:"The authority whose certificates are nodes of this cluster (PEM)." env:"GANGLION_PEER_TLS_CA" placeholder:"FILE"`
}

func (f peerTLSFlags) peerTLS() ganglion.PeerTLS {
	return ganglion.PeerTLS{Cert: f.PeerTLSCert, Key: f.PeerTLSKey, CA: f.PeerTLSCA}
}

type nodeCmd struct {
	Name         string   `help:"Unique in the cluster and the same across restarts; the host's name if not given." env:"GANGLION_NAME"`
	Roles        []string `help:"What the node does: domain, gateway or both." enum:"domain,gateway" default:"domain,gateway" env:"GANGLION_ROLES"`
	Listen       string   `help:"Address for clients." default:":8080" env:"GANGLION_LISTEN" placeholder:"HOST:PORT"`
	PeerListen   string   `help:"Address for links from other nodes." default:":9080" env:"GANGLION_PEER_LISTEN" placeholder:"HOST:PORT"`
	GossipListen string   `help:"Address for gossip, TCP and UDP." default:":7946" env:"GANGLION_GOSSIP_LISTEN" placeholder:"HOST:PORT"`
	Advertise    string   `help:"Host under which other nodes reach this one, if it is not the first private address; route:HOST for the address from which HOST is reached." env:"GANGLION_ADVERTISE" placeholder:"HOST"`
	Join         []string `help:"Gossip addresses of other nodes; a name stands for all its addresses." env:"GANGLION_JOIN" placeholder:"HOST:PORT"`
	Cluster      string   `help:"The cluster's name; nodes with another one are strangers." default:"ganglion" env:"GANGLION_CLUSTER"`

	storeFlags

	authFlags
	Origins  []string `help:"Hosts whose pages may connect, besides the node's own." env:"GANGLION_ORIGINS" placeholder:"HOST"`
	Examples bool     `help:"Serve the example pages, such as /examples/auction/." env:"GANGLION_EXAMPLES"`

	limitFlags
	DrainWindow time.Duration `help:"How long a node that stops takes to part with its sessions, one after another." default:"5s" env:"GANGLION_DRAIN_WINDOW" placeholder:"DURATION"`

	GossipKeyFile string `help:"File with the 32-byte keys of gossip, hex or base64, one on each line; the first encrypts. Read again when it changes." env:"GANGLION_GOSSIP_KEY_FILE" placeholder:"FILE"`

	peerTLSFlags
	InsecurePeers bool `help:"Allow gossip without keys and links without TLS on other than loopback addresses." env:"GANGLION_INSECURE_PEERS"`

	AdminListen string `help:"Address for profiles (/debug/pprof/) and the level of log lines (/log-level); :PORT is one of this machine alone. Off if not given." env:"GANGLION_ADMIN_LISTEN" placeholder:"HOST:PORT"`
	tracingFlags

	TailOnly bool          `hidden:"" env:"GANGLION_TAIL_ONLY"`
	Suspect  time.Duration `hidden:"" env:"GANGLION_SUSPECT"`

	ClockOffset string `name:"clock-offset-file" hidden:"" env:"GANGLION_CLOCK_OFFSET_FILE"`

	PrintConfig bool `help:"Print the configuration that holds, and where each value comes from, and exit."`
}

// Help is what --help says beside the flags.
func (nodeCmd) Help() string {
	return `Flags are also read from the environment, as GANGLION_…, and from the file that --config names.

  ganglion node --name n1 --store postgres://ganglion@db/ganglion --join n1:7946,n2:7946 --gossip-key-file gossip.key --peer-tls-cert n1.pem --peer-tls-key n1.key --peer-tls-ca ca.pem
  ganglion node --config /etc/ganglion/node.toml --print-config`
}

func (c nodeCmd) Run(ctx context.Context, call *kong.Context, log *slog.Logger, level *slog.LevelVar) error {
	if c.PrintConfig {
		return printConfig(os.Stdout, call)
	}
	warnOfMisspelled(call, log)
	config, tokens, err := c.config(ctx, log)
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
			return ganglion.Run(ctx, config)
		}
		return runWith(ctx, func(ctx context.Context) error { return ganglion.Run(ctx, config) }, tokens.Run)
	})
}

// config is the node that the flags ask for, with what verifies tokens, nil
// for --auth dev.
func (c nodeCmd) config(ctx context.Context, log *slog.Logger) (ganglion.Config, *token.Authenticator, error) {
	config := ganglion.Config{
		Catalog: &domain.Catalog, Name: c.Name,
		Listen: c.Listen, AdminListen: c.AdminListen, PeerListen: c.PeerListen, GossipListen: c.GossipListen, Advertise: c.Advertise,
		Join: c.Join, Cluster: c.Cluster, Store: c.Store, Origins: c.Origins, Limits: c.limits(), DrainWindow: c.DrainWindow,
		PeerTLS:       c.peerTLS(),
		GossipKeyFile: c.GossipKeyFile, InsecurePeers: c.InsecurePeers, TailOnly: c.TailOnly, Suspect: c.Suspect, Now: c.clock, Logger: log,
		Ready: func(url string) { fmt.Println("ganglion: ready", url) },
	}
	for _, role := range c.Roles {
		config.Domain = config.Domain || role == "domain"
		config.Gateway = config.Gateway || role == "gateway"
	}
	if c.Examples {
		config.Handler = examples.Handler()
	}
	var err error
	if config.Name == "" {
		if config.Name, err = os.Hostname(); err != nil {
			return config, nil, usagef("the host has no name: give --name")
		}
	}
	if config.StorePassword, err = c.password(); err != nil {
		return config, nil, err
	}
	tokens, err := c.authenticator(ctx, log)
	if err != nil {
		return config, nil, err
	}
	if tokens != nil {
		config.Auth = tokens
	}
	return config, tokens, nil
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

type healthcheckCmd struct {
	Listen string `help:"The node's address for clients." default:":8080" env:"GANGLION_LISTEN" placeholder:"HOST:PORT"`
}

// Help is what --help says beside the flags.
func (healthcheckCmd) Help() string {
	return `Ends with 0 if it does.

  ganglion healthcheck --listen :8080`
}

func (c healthcheckCmd) Run(ctx context.Context) error {
	host, port, err := net.SplitHostPort(c.Listen)
	if err != nil {
		return usagef("--listen %q is no address: write HOST:PORT or :PORT", c.Listen)
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
