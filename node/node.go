package node

import (
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ganglion-es/ganglion/engine"
	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/gateway"
	"github.com/ganglion-es/ganglion/node/internal/console"
	"github.com/ganglion-es/ganglion/node/internal/observe"
	"github.com/ganglion-es/ganglion/node/trust"
	"github.com/ganglion-es/ganglion/router"
	"github.com/ganglion-es/ganglion/router/cluster"
	"github.com/ganglion-es/ganglion/router/feed"
	"github.com/ganglion-es/ganglion/router/transport"
)

// node is one member of a cluster. assemble.go makes its parts, run.go starts and
// stops them, health.go decides whether they serve.
type node struct {
	cfg Config
	log *slog.Logger

	client, peers net.Listener
	admin         net.Listener // nil without Config.AdminListen
	consolePort   net.Listener // nil without Config.ConsoleListen
	connections   *gateway.Connections
	tls           *trust.PeerCredentials // nil without Config.PeerTLS
	gossip        *trust.GossipKeys      // nil without Config.GossipKeyFile
	recent        *recentLines
	observer      *observe.Observer
	front         *front
	opened        closers // everything that must be closed if the node is never run

	store     Store
	publisher *feed.Publisher // nil without the domain role
	host      *engine.Host    // nil without the domain role
	cluster   *cluster.Cluster
	pool      *transport.Pool
	router    *router.Router
	feed      *feed.Subscriber
	readSide  readSide
	consumers consumers
	gateway   *gateway.Gateway        // nil without the gateway role
	intakes   intakes                 // none without the gateway role
	sessions  *census[int]            // of the other gateways
	working   *census[ProjectionWork] // of the other members
	console   *console.Console        // nil if the node serves none
	moves     ringMoves

	size           atomic.Pointer[eventstore.Size] // of the log, nil before it was read
	clockAhead     atomic.Int64                    // of the database's clock, in nanoseconds, at the last comparison
	clockAnnounced time.Duration                   // to the cluster; 0 while the clocks agree

	leaving  leaving
	own      inProcess     // for the program's own clients
	handled  chan struct{} // closed when the handlers of Config.Consumers have ended
	taken    chan struct{} // closed when the intakes have ended
	status   atomic.Pointer[status]
	updating sync.Mutex // held while the status changes
	moving   sync.Mutex // held while an operator moves sessions

	verifying sync.Mutex // held while the log is checked for an operator
}

// closers close what was opened, in reverse order.
type closers []func()

func (c *closers) add(f func()) { *c = append(*c, f) }

func (c closers) close() {
	for i := len(c) - 1; i >= 0; i-- {
		c[i]()
	}
}
