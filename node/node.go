package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/engine"
	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/gateway"
	"github.com/ganglion-es/ganglion/node/contract"
	"github.com/ganglion-es/ganglion/proto"
	"github.com/ganglion-es/ganglion/proto/peer"
	"github.com/ganglion-es/ganglion/router"
	"github.com/ganglion-es/ganglion/router/cluster"
	"github.com/ganglion-es/ganglion/router/feed"
	"github.com/ganglion-es/ganglion/router/link"
	"github.com/ganglion-es/ganglion/router/ring"
)

const (
	// databasePatience is after how long without the database a node lets
	// others execute what it owns. A commit that was merely slow is not given up.
	databasePatience = 500 * time.Millisecond
	// domainReads is how many connections a node reads with that only executes
	// commands. Two load as much as a server with as many processors can give
	// (BenchmarkLoad of eventstore/postgres), and when the node is killed, the
	// server ends few just when the others need it.
	domainReads = 2
	// stopMost bounds how long peers may take to hear the last of a node.
	stopMost = time.Second
	// clientWrite bounds the answer to an HTTP request of a client, from the
	// end of the request's header on. The longest answer that is not written
	// piece by piece is that to a command, which may take 30 s.
	clientWrite = 2 * time.Minute
)

// node is one member of a cluster: the parts, and the order in which they
// start and stop.
type node struct {
	cfg Config
	log *slog.Logger

	client, peers net.Listener
	admin         net.Listener // nil without Config.AdminListen
	connections   *gateway.Connections
	tls           *peerFiles // nil without
	recent        *recentLines
	observer      *observer
	front         *front

	store     eventstore.Store
	publisher *feed.Publisher // nil without the domain role
	host      *engine.Host    // nil without the domain role
	cluster   *cluster.Cluster
	gossip    *gossipKeys // nil while gossip is open
	pool      *link.Pool
	router    *router.Router
	feed      *feed.Subscriber
	gateway   *gateway.Gateway // nil without the gateway role
	census    *census

	clockAhead atomic.Int64  // of the database's, in nanoseconds, when they were last compared
	clockTold  time.Duration // as announced; 0 while the two agree

	leaving leaving
	status  atomic.Pointer[status]
	judging sync.Mutex // held while the status changes
}

// peerServer answers other nodes: commands from the router, events from the
// publisher. It answers operators about the gateway's sessions, and has the
// node leave for them.
type peerServer struct {
	peer.UnimplementedPeerServer
	node      *node
	router    *router.Router
	publisher *feed.Publisher
	gateway   *gateway.Gateway
	moving    *sync.Mutex // held while sessions are moved
	log       *slog.Logger
}

func (s peerServer) Commands(stream grpc.BidiStreamingServer[peer.Requests, peer.Replies]) error {
	return s.router.Commands(stream)
}

func (s peerServer) Feed(req *peer.FeedRequest, stream grpc.ServerStreamingServer[peer.FeedBatch]) error {
	if s.publisher == nil {
		return s.UnimplementedPeerServer.Feed(req, stream)
	}
	return s.publisher.Feed(req, stream)
}

// newNode takes the node's ports and opens its store. Whatever can be wrong
// with a configuration is found here, before the node is announced to anyone.
func newNode(ctx context.Context, cfg Config) (_ *node, err error) {
	recorded := record(cfg.Logger.Handler())
	n := &node{
		cfg: cfg, log: slog.New(limitLines(recorded)).With("node", cfg.Name), recent: recorded.recent,
		observer: newObserver(cfg.Name, cfg.Tracing), leaving: newLeaving(), connections: gateway.NewConnections(cfg.Limits.Connections),
	}
	n.status.Store(&status{state: cluster.Starting})
	var undo []func()
	defer func() {
		if err != nil {
			for i := len(undo) - 1; i >= 0; i-- {
				undo[i]()
			}
		}
	}()

	if n.client, err = listen("clients", "--listen", cfg.Listen); err != nil {
		return nil, err
	}
	n.client = accepting{n.client, n.log, "clients"}
	n.front = n.newFront()
	undo = append(undo, n.front.close)
	if n.peers, err = listen("other nodes", "--peer-listen", cfg.PeerListen); err != nil {
		return nil, err
	}
	n.peers = accepting{n.peers, n.log, "other nodes"}
	undo = append(undo, func() { n.peers.Close() })
	if n.admin, err = cfg.listenAdmin(n.log); err != nil {
		return nil, err
	}
	if n.admin != nil {
		n.admin = accepting{n.admin, n.log, "operators"}
		undo = append(undo, func() { n.admin.Close() })
	}
	if n.tls, err = cfg.PeerTLS.load(n.log); err != nil {
		return nil, &ConfigError{err}
	}

	committed := eventstore.Committed(func(string, []eventstore.Commit) {})
	if cfg.Domain {
		n.publisher = feed.NewPublisher(feed.PublisherConfig{Logger: n.log})
		committed = n.publisher.Publish
	}
	patience, reads := databasePatience, 0
	if !cfg.Domain { // what it can't read nobody else reads for it
		patience = 0
	}
	if !cfg.Gateway {
		reads = domainReads
	}
	if n.store, err = OpenStore(ctx, StoreConfig{
		URL: cfg.Store, Password: cfg.StorePassword, Committed: committed, Warm: cfg.Domain, Patience: patience, ReadConns: reads,
		Wait: cfg.StoreWait, Waiting: n.front.waitFor, Logger: n.log,
	}); err != nil {
		return nil, err
	}
	undo = append(undo, func() { n.store.Close() })

	if cfg.Domain {
		if n.host, err = engine.New(engine.Config{Catalog: cfg.Catalog, Store: observedStore{n.store, n.observer}, Now: cfg.Now, Logger: n.log}); err != nil {
			return nil, err
		}
	}

	if n.cluster, err = n.newCluster(); err != nil {
		return nil, err
	}
	n.census = &census{self: cfg.Name, tls: n.tls.client()}
	n.pool = link.NewPool(link.PoolConfig{TLS: n.tls.client(), Silence: cfg.Suspect, Logger: n.log})
	var executor router.Executor
	if n.host != nil {
		executor = observedExecutor{n.host, n.observer}
	}
	n.router, err = router.New(router.Config{
		Self: cfg.Name, Executor: executor, View: n.cluster.View, Watch: n.cluster.Watch,
		Pool: n.pool, OnRing: n.ringChanged, Suspect: cfg.Suspect, Logger: n.log,
	})
	if err != nil {
		return nil, err
	}
	n.feed, err = feed.NewSubscriber(feed.SubscriberConfig{
		Self: cfg.Name, Store: n.store, Watch: n.cluster.Watch, Conn: n.pool.Conn, Local: n.publisher,
		Begin: n.begin, Deliver: n.deliver, Push: !cfg.TailOnly, Silence: cfg.Suspect, Logger: n.log,
	})
	if err != nil {
		return nil, err
	}
	if cfg.Gateway {
		var schema, asyncAPI []byte
		if schema, asyncAPI, err = documents(cfg.Catalog); err != nil {
			return nil, err
		}
		n.gateway, err = gateway.New(gateway.Config{
			Node: cfg.Name, Version: Version(), Catalog: cfg.Catalog, Schema: schema, AsyncAPI: asyncAPI, Store: n.store, Router: observedRouter{n.router, n.observer},
			Auth: cfg.Auth, Origins: cfg.Origins, Limits: cfg.Limits, Heartbeat: cfg.Heartbeat, DrainWindow: cfg.DrainWindow, Logger: n.log,
		})
		if err != nil {
			return nil, err
		}
	}
	// Not before: a start that fails is one line.
	n.log.Info("starting", "version", Version(), "domain", cfg.Domain, "gateway", cfg.Gateway)
	return n, nil
}

// documents describe an application to its clients.
func documents(c *aggregate.Catalog) (schema, asyncAPI []byte, err error) {
	doc, err := contract.Of(c)
	if err != nil {
		return nil, nil, &ConfigError{err}
	}
	if schema, err = doc.JSON(); err != nil {
		return nil, nil, err
	}
	asyncAPI, err = doc.AsyncAPI(proto.AsyncAPI)
	return schema, asyncAPI, err
}

func (n *node) newCluster() (*cluster.Cluster, error) {
	bind, port, err := splitHostPort(n.cfg.GossipListen)
	if err != nil {
		return nil, err
	}
	var keys [][]byte
	if n.cfg.GossipKeyFile != "" {
		if keys, err = readGossipKeys(n.cfg.GossipKeyFile); err != nil {
			return nil, &ConfigError{err}
		}
	}
	advertise, err := advertised(n.cfg.Advertise)
	if err != nil {
		return nil, err
	}
	c, err := cluster.New(cluster.Config{
		ID: n.cfg.Name, Cluster: n.cfg.Cluster, BindAddr: bind, BindPort: port, AdvertiseAddr: advertise,
		Join: n.cfg.Join, Keys: keys, Logger: n.log,
		Self: cluster.Member{
			Domain: n.cfg.Domain, Gateway: n.cfg.Gateway,
			PeerAddr: n.peers.Addr().String(), HTTPAddr: n.client.Addr().String(),
			Boot: uint64(n.cfg.Now().UnixNano()), Version: Version(),
		},
	})
	if err == nil && keys != nil {
		n.gossip = &gossipKeys{file: n.cfg.GossipKeyFile, set: c.SetKeys, log: n.log}
		n.gossip.current.Store(&keys)
	}
	return c, err
}

// advertised is the host that Config.Advertise stands for.
func advertised(host string) (string, error) {
	toward, ok := strings.CutPrefix(host, "route:")
	if !ok {
		return host, nil
	}
	// Connecting a UDP socket sends nothing; it only asks the routing table.
	// Any port will do.
	conn, err := net.Dial("udp", net.JoinHostPort(toward, "9"))
	if err != nil {
		return "", fmt.Errorf("--advertise %s: this machine has no way to %s: %w", host, toward, err)
	}
	defer conn.Close()
	return conn.LocalAddr().(*net.UDPAddr).IP.String(), nil
}

// run starts everything, serves until ctx ends or an operator has the node
// leave, drains, and returns when everything has ended. After an operator's
// drain that waits for the end of ctx, so that whatever restarts processes
// does not bring the node back.
func (n *node) run(ctx context.Context) error {
	defer n.store.Close()
	defer n.pool.Close()
	n.front.answerWith(n.handler())
	asked, begin := context.WithCancel(ctx) // to leave
	defer begin()
	n.leaving.begin = begin

	// The parts outlive ctx: its end begins the drain. The doors outlive the
	// parts, to say that the node has left.
	all, closeDoors := context.WithCancel(context.WithoutCancel(ctx))
	defer closeDoors()
	group, doors := errgroup.WithContext(all)
	parts, stop := context.WithCancel(doors)
	defer stop()
	var inner sync.WaitGroup // the parts
	part := func(name string, run func(context.Context) error) {
		inner.Add(1)
		group.Go(func() error {
			defer inner.Done()
			return failedPart(name, run(parts))
		})
	}
	door := func(name string, run func(context.Context) error) {
		group.Go(func() error { return failedPart(name, run(doors)) })
	}

	gossip, leave := context.WithCancel(parts)
	defer leave()
	left := make(chan struct{})
	part("cluster", func(context.Context) error { defer close(left); return n.cluster.Run(gossip) })
	if n.gossip != nil {
		part("gossip keys", n.gossip.watch)
	}
	if n.tls != nil {
		part("certificates", n.tls.watch)
	}
	part("router", n.router.Run)
	part("feed", n.feed.Run)
	part("log", n.watchLog)
	part("sight", n.watchSight)
	part("stored forms", n.reportStoredForms)
	part("clock", n.watchClock)
	part("peers", n.servePeers)
	door("clients", n.front.serve)
	if n.admin != nil {
		door("admin", n.serveAdmin)
	}
	if n.host != nil {
		part("host", n.host.Run)
	}
	if n.gateway != nil {
		part("gateway", n.gateway.Run)
	}

	started := make(chan struct{})
	part("start", func(parts context.Context) error { defer close(started); return n.becomeReady(parts, asked) })

	select {
	case <-asked.Done():
		<-started // or the node could call itself ready while it drains
		n.drain(parts)
		leave()
		<-left
		close(n.leaving.left)
		stop()
		inner.Wait()
		n.wait(ctx, doors)
	case <-parts.Done(): // a part failed: errgroup has its error
	}
	closeDoors()
	err := group.Wait()
	if err == nil {
		n.log.Info("stopped")
	}
	return err
}

// failedPart says which part of a node failed.
func failedPart(name string, err error) error {
	if err == nil || errors.Is(err, context.Canceled) {
		return nil
	}
	return fmt.Errorf("ganglion: %s: %w", name, err)
}

// becomeReady announces the node once the log answers and one join round over
// all seeds has ended, well or not. It need not find anyone: the log fences,
// so that being alone is safe, and waiting for a seed would keep a cluster
// whose nodes all start at once from ever starting.
func (n *node) becomeReady(parts, asked context.Context) error {
	for _, signal := range []<-chan struct{}{n.cluster.Joined(), n.feed.Started()} {
		select {
		case <-signal:
		case <-asked.Done():
			return nil
		case <-parts.Done():
			return nil
		}
	}
	n.cluster.SetState(cluster.Ready)
	n.setState(cluster.Ready)
	url := "http://" + urlHost(n.client.Addr())
	n.log.Info("ready", "url", url, "domain", n.cfg.Domain, "gateway", n.cfg.Gateway)
	n.cfg.Ready(url)
	return nil
}

// begin is told where live delivery begins, at first and after the log went
// back.
func (n *node) begin(watermark eventstore.Position) {
	if n.gateway != nil {
		n.gateway.Begin(watermark)
	}
}

// deliver takes committed events from the feed, in order.
func (n *node) deliver(commits []eventstore.Commit) {
	if n.host != nil {
		n.host.Observe(commits)
	}
	if n.gateway != nil {
		n.observer.delivering(commits, n.cfg.Now(), n.gateway.Deliver)
	}
}

// ringChanged gives up the aggregates that another node owns now.
func (n *node) ringChanged(r *ring.Ring) {
	n.cluster.SetRing(r.Signature())
	if n.host != nil {
		n.host.Keep(func(s eventstore.StreamID) bool {
			owner, ok := r.Owner(s)
			return !ok || owner == n.cfg.Name
		})
	}
}

// ready says why the node does not serve, nil if it does.
func (n *node) ready() error {
	switch s := n.status.Load(); {
	case n.leaving.done():
		return errDrained
	case s.state != cluster.Ready:
		return errors.New(s.state.String())
	case s.problem() != nil:
		return s.problem()
	case n.gateway != nil:
		return n.gateway.Refusing()
	default:
		return nil
	}
}

func (n *node) servePeers(ctx context.Context) error {
	server := link.NewServer(link.ServerConfig{TLS: n.tls.server(), Silence: n.cfg.Suspect})
	peer.RegisterPeerServer(server, peerServer{node: n, router: n.router, publisher: n.publisher, gateway: n.gateway, moving: new(sync.Mutex), log: n.log})
	return serveUntil(ctx, func() error { return server.Serve(n.peers) }, func() {
		// After a drain the streams end by themselves, once the last events
		// and the goodbye are through.
		hard := time.AfterFunc(stopMost, server.Stop)
		defer hard.Stop()
		server.GracefulStop()
	})
}

// serveUntil runs serve until ctx ends and returns once it has ended.
func serveUntil(ctx context.Context, serve func() error, stop func()) error {
	done := make(chan error, 1)
	go func() { done <- serve() }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		stop()
		<-done
		return nil
	}
}

func splitHostPort(addr string) (string, int, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return "", 0, errors.New("write HOST:PORT or :PORT")
	}
	p, err := strconv.Atoi(port)
	if err != nil || p < 0 || p > maxPort {
		return "", 0, fmt.Errorf("the port %q is not a number from 0 to %d", port, maxPort)
	}
	return host, p, nil
}

const maxPort = 1<<16 - 1

// listen takes an address. A taken one is the first mistake that most people
// make, so that it says what to do.
func listen(whom, flag, addr string) (net.Listener, error) {
	l, err := net.Listen("tcp", addr)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("can't listen for %s on %s: address already in use: stop what runs there, or choose another with %s", whom, addr, flag)
	}
	if err != nil {
		return nil, fmt.Errorf("can't listen for %s: %w", whom, err)
	}
	return l, nil
}

// urlHost is an address that a person on this machine can open.
func urlHost(addr net.Addr) string {
	h, port, _ := net.SplitHostPort(addr.String())
	if ip := net.ParseIP(h); ip != nil && ip.IsUnspecified() {
		h = "127.0.0.1"
	}
	return net.JoinHostPort(h, port)
}
