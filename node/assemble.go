package node

import (
	"context"
	"log/slog"
	"time"

	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/engine"
	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/gateway"
	"github.com/ganglion-es/ganglion/node/contract"
	"github.com/ganglion-es/ganglion/node/internal/observe"
	"github.com/ganglion-es/ganglion/node/trust"
	"github.com/ganglion-es/ganglion/proto"
	"github.com/ganglion-es/ganglion/router"
	"github.com/ganglion-es/ganglion/router/cluster"
	"github.com/ganglion-es/ganglion/router/feed"
	"github.com/ganglion-es/ganglion/router/transport"
)

const (
	// databasePatience is how long a domain node without its database waits before
	// it passes its commands to other nodes. Even a slow commit takes less time.
	databasePatience = 500 * time.Millisecond
	// domainReads is the number of read connections of a node that only executes
	// commands. Two read as fast as a server with two processors can answer
	// (BenchmarkLoad of eventstore/postgres). When the node is killed, the server has
	// few connections to end at the moment when other nodes need it.
	domainReads = 2
)

// newNode opens the node's ports and its store, and makes all parts. It finds every
// mistake in a configuration, before the cluster knows of the node.
func newNode(ctx context.Context, cfg Config) (_ *node, err error) {
	recorded := record(cfg.Logger.Handler())
	n := &node{
		cfg: cfg, log: slog.New(limitLines(recorded)).With("node", cfg.Name), recent: recorded.recent,
		observer: observe.New(cfg.Name, cfg.Tracing), leaving: newLeaving(), handled: make(chan struct{}), taken: make(chan struct{}), connections: gateway.NewConnections(cfg.Limits.Connections),
	}
	n.own.init()
	n.status.Store(&status{state: cluster.Starting})
	defer func() {
		if err != nil {
			n.opened.close()
		}
	}()
	for _, step := range []func() error{
		n.openPorts, n.loadSecrets, func() error { return n.openStore(ctx) }, n.makeCluster, n.makeRouter, n.makeReadSide,
		func() error { return n.makeConsumers(ctx) }, n.makeGateway, n.makeConsole,
	} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	n.log.Info("starting", "version", Version(), "domain", cfg.Domain, "gateway", cfg.Gateway, "projections", cfg.runsProjections()) // last, so a failed start logs only its error
	return n, nil
}

// openPorts opens the listeners and starts to answer clients that the node is not
// ready.
func (n *node) openPorts() (err error) {
	if n.client, err = n.listen("clients", "Listen (--listen)", n.cfg.Listen); err != nil {
		return err
	}
	n.front = n.newFront()
	n.opened.add(n.front.close)
	if n.peers, err = n.listen("other nodes", "PeerListen (--peer-listen)", n.cfg.PeerListen); err != nil {
		return err
	}
	n.opened.add(func() { n.peers.Close() })
	if n.cfg.ConsoleListen != "" {
		if n.consolePort, err = n.listen("operators", "ConsoleListen (--console-listen)", adminAddr(n.cfg.ConsoleListen)); err != nil {
			return err
		}
		n.opened.add(func() { n.consolePort.Close() })
	}
	if n.cfg.AdminListen == "" {
		return nil
	}
	addr := adminAddr(n.cfg.AdminListen)
	if !isLoopback(addr) {
		n.log.Warn("profiles and the log level are open to every host that reaches the admin address", "address", addr)
	}
	if n.admin, err = n.listen("operators", "AdminListen (--admin-listen)", addr); err != nil {
		return err
	}
	n.opened.add(func() { n.admin.Close() })
	return nil
}

func (n *node) loadSecrets() (err error) {
	if n.tls, err = n.cfg.PeerTLS.Load(n.log); err != nil {
		return &ConfigError{err}
	}
	if n.gossip, err = trust.OpenGossipKeys(n.cfg.GossipKeyFile, n.log); err != nil {
		return &ConfigError{err}
	}
	return nil
}

func (n *node) openStore(ctx context.Context) (err error) {
	committed := eventstore.Committed(func(string, []eventstore.Commit) {})
	if n.cfg.Domain {
		n.publisher = feed.NewPublisher(feed.PublisherConfig{Logger: n.log})
		committed = n.publisher.Publish
	}
	patience, reads := databasePatience, 0
	if !n.cfg.Domain { // no other node can read the log for a gateway's sessions
		patience = 0
	}
	if !n.cfg.Gateway {
		reads = domainReads
	}
	n.store, err = OpenStore(ctx, StoreConfig{
		URL: n.cfg.Store, Password: n.cfg.StorePassword, Committed: committed, Warm: n.cfg.Domain, Patience: patience, ReadConns: reads,
		Wait: n.cfg.StoreWait, Waiting: n.front.waitFor, Logger: n.log,
	})
	if err != nil {
		return err
	}
	n.opened.add(func() { n.store.Close() })
	if err := engine.CheckProjections(n.cfg.Catalog, n.store.Rows()); err != nil {
		return &ConfigError{err}
	}
	if n.cfg.Domain {
		n.host, err = engine.New(engine.Config{Catalog: n.cfg.Catalog, Store: observe.Store{Store: n.store, Observer: n.observer}, Now: n.cfg.Now, Logger: n.log})
	}
	return err
}

func (n *node) makeCluster() error {
	bind, port, err := splitHostPort(n.cfg.GossipListen)
	if err != nil {
		return err
	}
	advertise, err := advertisedHost(n.cfg.Advertise)
	if err != nil {
		return err
	}
	n.cluster, err = cluster.New(cluster.Config{
		ID: n.cfg.Name, Cluster: n.cfg.Cluster, BindAddr: bind, BindPort: port, AdvertiseAddr: advertise,
		Join: n.cfg.Join, Keys: n.gossip.Current(), Logger: n.log,
		Self: cluster.Member{
			Domain: n.cfg.Domain, Gateway: n.cfg.Gateway, System: true,
			PeerAddr: n.peers.Addr().String(), HTTPAddr: n.client.Addr().String(),
			Boot: uint64(n.cfg.Now().UnixNano()), Version: Version(), Projections: n.projectionSet(),
		},
	})
	if err != nil {
		return err
	}
	n.opened.add(n.cluster.Close)
	return nil
}

func (n *node) makeRouter() (err error) {
	n.makeCensuses()
	n.pool = transport.NewPool(transport.PoolConfig{TLS: n.tls.Client(), Silence: n.cfg.Suspect, Logger: n.log})
	n.opened.add(n.pool.Close)
	var executor router.Executor
	if n.host != nil {
		executor = observe.Executor{Executor: n.host, Observer: n.observer}
	}
	n.router, err = router.New(router.Config{
		Self: n.cfg.Name, Executor: executor, View: n.cluster.View, Watch: n.cluster.Watch,
		Pool: n.pool, OnRing: n.ringChanged, Suspect: n.cfg.Suspect, Logger: n.log,
	})
	if err != nil {
		return err
	}
	n.feed, err = feed.NewSubscriber(feed.SubscriberConfig{
		Self: n.cfg.Name, Store: n.store, Watch: n.cluster.Watch, Open: n.pool.Feed, Local: n.publisher,
		Begin: n.beginDelivery, Deliver: n.deliver, Push: !n.cfg.TailOnly, Silence: n.cfg.Suspect, Logger: n.log,
	})
	return err
}

func (n *node) makeGateway() error {
	if !n.cfg.Gateway {
		return nil
	}
	schema, asyncAPI, page, err := documents(n.cfg.Catalog)
	if err != nil {
		return err
	}
	n.gateway, err = gateway.New(gateway.Config{
		Node: n.cfg.Name, Version: Version(), Catalog: n.cfg.Catalog, Schema: schema, AsyncAPI: asyncAPI, Docs: page,
		Store: n.store, Router: observe.Router{Router: n.router, Observer: n.observer}, Queries: n.readSide.queries, Groups: n.consumers.members,
		Auth: n.cfg.Auth, Origins: n.cfg.Origins, Limits: n.cfg.Limits, Heartbeat: n.cfg.Heartbeat, DrainWindow: n.cfg.DrainWindow, Logger: n.log,
	})
	if err != nil {
		return err
	}
	n.observer.Audience = n.gateway.Audience
	n.makeIntakes()
	return nil
}

// documents returns the JSON Schema, the AsyncAPI document and the page of an
// application.
func documents(c *aggregate.Catalog) (schema, asyncAPI, page []byte, err error) {
	doc, err := contract.Of(c)
	if err != nil {
		return nil, nil, nil, &ConfigError{err}
	}
	if schema, err = doc.JSON(); err != nil {
		return nil, nil, nil, err
	}
	asyncAPI, err = doc.AsyncAPI(proto.AsyncAPI)
	return schema, asyncAPI, doc.HTML(), err
}
