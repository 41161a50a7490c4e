package transport

import (
	"context"
	"net/http"
	"net/url"

	"github.com/ganglion-es/ganglion/proto/peer"
)

// Peer is what a node does for other nodes and for operators. An implementation embeds
// [UnimplementedPeer].
type Peer interface {
	// Commands carries requests to a domain node and its replies. Requests of one lane
	// (session and stream) are executed in the order in which they are sent.
	Commands(CommandsServer) error
	// Feed sends the events that this node commits from now on. member is the id of the
	// subscriber, for the log.
	Feed(member string, to Sender[peer.FeedBatch]) error
	// Progress sends how far the segments of projections have come that this node works
	// on: all of them first, and then each that moves. It is a hint: later positions of a
	// segment replace earlier ones that were not sent, and positions may be lost.
	Progress(to Sender[peer.ProgressBatch]) error

	// Groups tells the coordinator of a consumer group everything that it must know of a
	// gateway's members, and answers with everything that they hold. It answers after
	// 250 ms if there is nothing new. A node that does not coordinate the group answers
	// FailedPrecondition.
	Groups(context.Context, *peer.GroupReport) (*peer.GroupAnswer, error)
	// Sessions counts and lists a gateway's sessions, and moves or closes them for an
	// operator. A node that is not a gateway answers FailedPrecondition.
	Sessions(context.Context, *peer.SessionsRequest) (*peer.SessionsReply, error)
	// FindSessions counts a gateway's sessions, and describes the first ones that match a
	// text. A node that is not a gateway answers FailedPrecondition.
	FindSessions(context.Context, *peer.FindSessionsRequest) (*peer.FindSessionsReply, error)
	// Projections reports what the node works on for projections, relays and intakes, to
	// an operator.
	Projections(context.Context, *peer.ProjectionsRequest) (*peer.ProjectionsReply, error)
	// Vitals reports the node's counters and its health, to a node that shows them to
	// operators.
	Vitals(context.Context, *peer.VitalsRequest) (*peer.VitalsReply, error)
	// Steps reports what the node did lately for a command, to a node that shows it to
	// operators. The node remembers steps for 10 s after Vitals or Steps.
	Steps(context.Context, *peer.StepsRequest) (*peer.StepsReply, error)
	// LogLevel changes the level of the node's log, for an operator.
	LogLevel(context.Context, *peer.LogLevelRequest) (*peer.LogLevelReply, error)
	// Drain makes the node leave the cluster, for an operator, and reports progress until
	// the node has left.
	Drain(*peer.DrainRequest, Sender[peer.DrainProgress]) error
	// Debug sends files about the state of the node to an operator: its pages, its newest
	// log lines and profiles. Secrets are left out.
	Debug(*peer.DebugRequest, Sender[peer.DebugPiece]) error
}

// The two ends of a stream of commands.
type (
	CommandsServer = Duplex[peer.Replies, peer.Requests]
	CommandsClient = Duplex[peer.Requests, peer.Replies]
)

// Register makes a server serve a peer. It must be called before Serve.
func Register(s *Server, p Peer) {
	handleStream(s, "commands", func(r *http.Request, st *stream) error {
		defer s.replace(r.URL.Query().Get("id"), st)()
		return p.Commands(typed[peer.Replies, peer.Requests, *peer.Replies, *peer.Requests]{st})
	})
	handleStream(s, "feed", func(r *http.Request, st *stream) error {
		go st.watch()
		return p.Feed(r.URL.Query().Get("member"), typed[peer.FeedBatch, peer.FeedBatch, *peer.FeedBatch, *peer.FeedBatch]{st})
	})
	handleStream(s, "progress", func(_ *http.Request, st *stream) error {
		go st.watch()
		return p.Progress(typed[peer.ProgressBatch, peer.ProgressBatch, *peer.ProgressBatch, *peer.ProgressBatch]{st})
	})
	handleCall(s, "groups", p.Groups)
	handleCall(s, "sessions", p.Sessions)
	handleCall(s, "find-sessions", p.FindSessions)
	handleCall(s, "projections", p.Projections)
	handleCall(s, "vitals", p.Vitals)
	handleCall(s, "steps", p.Steps)
	handleCall(s, "log-level", p.LogLevel)
	handleList(s, "drain", p.Drain)
	handleList(s, "debug", p.Debug)
}

// Commands opens a stream of commands to a domain node. The node first ends an earlier
// stream with the same id, so nothing that was sent on that one is begun after something
// that is sent on this one.
func (p *Pool) Commands(ctx context.Context, addr, id string) (CommandsClient, error) {
	st, err := p.open(ctx, addr, "commands", url.Values{"id": {id}})
	if err != nil {
		return nil, err
	}
	return typed[peer.Requests, peer.Replies, *peer.Requests, *peer.Replies]{st}, nil
}

// Feed opens a stream of committed events.
func (p *Pool) Feed(ctx context.Context, addr, member string) (Receiver[peer.FeedBatch], error) {
	st, err := p.open(ctx, addr, "feed", url.Values{"member": {member}})
	if err != nil {
		return nil, err
	}
	return typed[peer.FeedBatch, peer.FeedBatch, *peer.FeedBatch, *peer.FeedBatch]{st}, nil
}

// Progress opens a stream of the positions of projections.
func (p *Pool) Progress(ctx context.Context, addr string) (Receiver[peer.ProgressBatch], error) {
	st, err := p.open(ctx, addr, "progress", nil)
	if err != nil {
		return nil, err
	}
	return typed[peer.ProgressBatch, peer.ProgressBatch, *peer.ProgressBatch, *peer.ProgressBatch]{st}, nil
}

// Client makes calls to one peer.
type Client struct {
	pool *Pool
	addr string
}

// Peer returns a Client for an address (host:port). It opens no connection.
func (p *Pool) Peer(addr string) Client { return Client{p, addr} }

// Groups calls [Peer.Groups] of a peer.
func (c Client) Groups(ctx context.Context, m *peer.GroupReport) (*peer.GroupAnswer, error) {
	return call[peer.GroupReport, peer.GroupAnswer](ctx, c.pool, c.addr, "groups", m)
}

// Sessions calls [Peer.Sessions] of a peer.
func (c Client) Sessions(ctx context.Context, m *peer.SessionsRequest) (*peer.SessionsReply, error) {
	return call[peer.SessionsRequest, peer.SessionsReply](ctx, c.pool, c.addr, "sessions", m)
}

// FindSessions calls [Peer.FindSessions] of a peer.
func (c Client) FindSessions(ctx context.Context, m *peer.FindSessionsRequest) (*peer.FindSessionsReply, error) {
	return call[peer.FindSessionsRequest, peer.FindSessionsReply](ctx, c.pool, c.addr, "find-sessions", m)
}

// Projections calls [Peer.Projections] of a peer.
func (c Client) Projections(ctx context.Context, m *peer.ProjectionsRequest) (*peer.ProjectionsReply, error) {
	return call[peer.ProjectionsRequest, peer.ProjectionsReply](ctx, c.pool, c.addr, "projections", m)
}

// Vitals calls [Peer.Vitals] of a peer.
func (c Client) Vitals(ctx context.Context, m *peer.VitalsRequest) (*peer.VitalsReply, error) {
	return call[peer.VitalsRequest, peer.VitalsReply](ctx, c.pool, c.addr, "vitals", m)
}

// Steps calls [Peer.Steps] of a peer.
func (c Client) Steps(ctx context.Context, m *peer.StepsRequest) (*peer.StepsReply, error) {
	return call[peer.StepsRequest, peer.StepsReply](ctx, c.pool, c.addr, "steps", m)
}

// LogLevel calls [Peer.LogLevel] of a peer.
func (c Client) LogLevel(ctx context.Context, m *peer.LogLevelRequest) (*peer.LogLevelReply, error) {
	return call[peer.LogLevelRequest, peer.LogLevelReply](ctx, c.pool, c.addr, "log-level", m)
}

// Drain calls [Peer.Drain] of a peer.
func (c Client) Drain(ctx context.Context, m *peer.DrainRequest) (Receiver[peer.DrainProgress], error) {
	return callList[peer.DrainRequest, peer.DrainProgress](ctx, c.pool, c.addr, "drain", m)
}

// Debug calls [Peer.Debug] of a peer.
func (c Client) Debug(ctx context.Context, m *peer.DebugRequest) (Receiver[peer.DebugPiece], error) {
	return callList[peer.DebugRequest, peer.DebugPiece](ctx, c.pool, c.addr, "debug", m)
}

// UnimplementedPeer answers everything with Unimplemented.
type UnimplementedPeer struct{}

// Commands implements [Peer].
func (UnimplementedPeer) Commands(CommandsServer) error { return unimplemented("commands") }

// Feed implements [Peer].
func (UnimplementedPeer) Feed(string, Sender[peer.FeedBatch]) error { return unimplemented("a feed") }

// Progress implements [Peer].
func (UnimplementedPeer) Progress(Sender[peer.ProgressBatch]) error { return unimplemented("progress") }

// Groups implements [Peer].
func (UnimplementedPeer) Groups(context.Context, *peer.GroupReport) (*peer.GroupAnswer, error) {
	return nil, unimplemented("consumer groups")
}

// Sessions implements [Peer].
func (UnimplementedPeer) Sessions(context.Context, *peer.SessionsRequest) (*peer.SessionsReply, error) {
	return nil, unimplemented("sessions")
}

// FindSessions implements [Peer].
func (UnimplementedPeer) FindSessions(context.Context, *peer.FindSessionsRequest) (*peer.FindSessionsReply, error) {
	return nil, unimplemented("sessions")
}

// Projections implements [Peer].
func (UnimplementedPeer) Projections(context.Context, *peer.ProjectionsRequest) (*peer.ProjectionsReply, error) {
	return nil, unimplemented("projections")
}

// Vitals implements [Peer].
func (UnimplementedPeer) Vitals(context.Context, *peer.VitalsRequest) (*peer.VitalsReply, error) {
	return nil, unimplemented("vitals")
}

// Steps implements [Peer].
func (UnimplementedPeer) Steps(context.Context, *peer.StepsRequest) (*peer.StepsReply, error) {
	return nil, unimplemented("steps")
}

// LogLevel implements [Peer].
func (UnimplementedPeer) LogLevel(context.Context, *peer.LogLevelRequest) (*peer.LogLevelReply, error) {
	return nil, unimplemented("the log level")
}

// Drain implements [Peer].
func (UnimplementedPeer) Drain(*peer.DrainRequest, Sender[peer.DrainProgress]) error {
	return unimplemented("drains")
}

// Debug implements [Peer].
func (UnimplementedPeer) Debug(*peer.DebugRequest, Sender[peer.DebugPiece]) error {
	return unimplemented("diagnostics")
}
