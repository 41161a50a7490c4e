// The messages of calls, in JSON.

package peer

// LogLevelRequest asks for another level of the log.
type LogLevelRequest struct {
	Level string `json:"level,omitempty"` // debug, info, warn or error
}

// LogLevelReply has the level before.
type LogLevelReply struct {
	Before string `json:"before,omitempty"` // the level before
}

// DebugRequest asks for diagnostics.
type DebugRequest struct {
	// Profile asks for one file alone, a profile of the process: cpu.pb.gz, heap.pb.gz or
	// goroutines.txt. Members that do not know this field send all files but cpu.pb.gz.
	Profile string `json:"profile,omitempty"`
	Seconds uint32 `json:"seconds,omitempty"` // the length of cpu.pb.gz, 1 to 60
}

// DebugPiece is a part of a file. The pieces of one file follow each other.
type DebugPiece struct {
	File string `json:"file,omitempty"` // name, without a folder
	Data []byte `json:"data,omitempty"`
}

// DrainRequest asks a node to leave the cluster.
type DrainRequest struct {
	// Shutdown also ends the process, once the node has left.
	Shutdown bool `json:"shutdown,omitempty"`
}

// DrainProgress is what a draining node still has.
type DrainProgress struct {
	Sessions uint32 `json:"sessions,omitempty"` // open
	Commands uint32 `json:"commands,omitempty"` // in flight
	Left     bool   `json:"left,omitempty"`     // the node has left; no message follows
}

// SessionsRequest moves or closes sessions of a gateway.
type SessionsRequest struct {
	// Move is a number of sessions. The gateway picks that many at random and asks
	// them to connect to another gateway. It replies when it has asked all.
	Move uint32 `json:"move,omitempty"`
	// KickSession closes the session with that id, KickClient all sessions of
	// that client. The clients do not reconnect.
	KickSession string `json:"kick_session,omitempty"`
	KickClient  string `json:"kick_client,omitempty"`
	// Slow is the largest number of sessions with a full socket to list.
	Slow uint32 `json:"slow,omitempty"`
	// RevokeClient revokes the tokens of that client in the gateway's file of
	// revocations.
	RevokeClient string `json:"revoke_client,omitempty"`
}

// SessionsReply counts the sessions of a gateway, and lists slow ones.
type SessionsReply struct {
	Open    uint32     `json:"open,omitempty"`
	Full    uint32     `json:"full,omitempty"`  // sessions whose socket is full
	Asked   uint32     `json:"asked,omitempty"` // sessions that were asked to move, or were kicked
	Slow    []*Session `json:"slow,omitempty"`
	Revoked bool       `json:"revoked,omitempty"` // the tokens of RevokeClient are revoked
}

// Session is a session with a full socket.
type Session struct {
	Id            string `json:"id,omitempty"`
	Client        string `json:"client,omitempty"`
	Subscriptions uint32 `json:"subscriptions,omitempty"`
	WaitingBytes  uint64 `json:"waiting_bytes,omitempty"` // not written to its socket
	Behind        uint64 `json:"behind,omitempty"`        // positions between the head and its last subscription
}

// FindSessionsRequest asks for sessions.
type FindSessionsRequest struct {
	Text string `json:"text,omitempty"` // in the session's id or the client id; empty matches all
	Most uint32 `json:"most,omitempty"` // to describe
}

// FindSessionsReply counts the sessions of a gateway, and describes some.
type FindSessionsReply struct {
	Open     uint32                `json:"open,omitempty"`
	Full     uint32                `json:"full,omitempty"` // sessions whose socket is full
	Matching uint32                `json:"matching,omitempty"`
	Sessions []*SessionDescription `json:"sessions,omitempty"`
}

// SessionDescription describes a session.
type SessionDescription struct {
	Id            string          `json:"id,omitempty"`
	Client        string          `json:"client,omitempty"`
	Protocol      string          `json:"protocol,omitempty"`
	Opened        int64           `json:"opened,omitempty"`        // Unix time in seconds
	WaitingBytes  uint64          `json:"waiting_bytes,omitempty"` // not written to its socket
	Full          bool            `json:"full,omitempty"`          // its socket is full
	Subscriptions uint32          `json:"subscriptions,omitempty"`
	Topics        []*SessionTopic `json:"topics,omitempty"` // of the first subscriptions, sorted by name
}

// SessionTopic is what a subscription follows.
type SessionTopic struct {
	Name   string `json:"name,omitempty"`   // TYPE/ID, TYPE/*, "query NAME" or "group NAME"
	Behind uint64 `json:"behind,omitempty"` // positions from its cursor to the head
}

// VitalsRequest asks for the figures of a node.
type VitalsRequest struct{}

// VitalsReply has counters since the start of the node, and figures of this moment.
type VitalsReply struct {
	Commands  uint64 `json:"commands,omitempty"`  // that the gateway has received from clients
	Delivered uint64 `json:"delivered,omitempty"` // event frames written to sockets
	// Answered has the commands that the gateway has answered, by how long that took:
	// up to each of Bounds, in seconds and ascending, and last those above all of them.
	Answered []uint64  `json:"answered,omitempty"`
	Bounds   []float64 `json:"bounds,omitempty"`
	Sessions uint32    `json:"sessions,omitempty"` // open
	Full     uint32    `json:"full,omitempty"`     // sessions whose socket is full
	Position uint64    `json:"position,omitempty"` // of the last event that the node has received
	// The next ones are of the segments of projections and wake-ups that the node works
	// on.
	LagEvents          uint64          `json:"lag_events,omitempty"`   // the largest number of events that one is behind
	LagSeconds         float64         `json:"lag_seconds,omitempty"`  // the longest time for which one has not shown the newest event
	Blocked            uint32          `json:"blocked,omitempty"`      // rows and aggregates that wait for an operator
	Stopped            uint32          `json:"stopped,omitempty"`      // segments that do not follow the log
	CpuSeconds         float64         `json:"cpu_seconds,omitempty"`  // of the process
	MemoryBytes        uint64          `json:"memory_bytes,omitempty"` // that Go's runtime has from the system
	StoreUp            bool            `json:"store_up,omitempty"`
	CertificateExpires int64           `json:"certificate_expires,omitempty"` // Unix time of the peers' certificate, 0 without one
	Relays             []*WaitingRelay `json:"relays,omitempty"`              // that the node works on, and that publish nothing
	Intakes            []*VitalIntake  `json:"intakes,omitempty"`             // that the node serves
}

// WaitingRelay is a relay that publishes nothing.
type WaitingRelay struct {
	Relay      string  `json:"relay,omitempty"`
	Reason     string  `json:"reason,omitempty"`      // that of ganglion_relay_waiting
	LagSeconds float64 `json:"lag_seconds,omitempty"` // for how long the broker has lacked the newest event
}

// VitalIntake is the connection of an intake.
type VitalIntake struct {
	Intake      string  `json:"intake,omitempty"`
	AwaySeconds float64 `json:"away_seconds,omitempty"` // for how long it has lacked a connection, 0 with one
}

// StepsRequest asks what a node did for a command.
type StepsRequest struct {
	// Type, Id and Key name a command.
	Type string `json:"type,omitempty"`
	Id   string `json:"id,omitempty"`
	Key  string `json:"key,omitempty"`
}

// StepsReply has what a node did for a command.
type StepsReply struct {
	Steps     []*Step     `json:"steps,omitempty"`     // at most 64
	Followers []*Follower `json:"followers,omitempty"` // projections and process managers that the node works on
}

// Step is a part of the way of a command.
type Step struct {
	Kind          string `json:"kind,omitempty"`          // "command", "execute", "append" or "deliver"
	Command       string `json:"command,omitempty"`       // its name, if the node saw it
	Position      uint64 `json:"position,omitempty"`      // of the command's last event, 0 if unknown
	Began         int64  `json:"began,omitempty"`         // Unix time in microseconds, by the node's clock
	Took          int64  `json:"took,omitempty"`          // microseconds
	Outcome       string `json:"outcome,omitempty"`       // a failure's code, "replayed", or ""
	Attempt       uint32 `json:"attempt,omitempty"`       // the number of nodes that the command was sent to
	Subscriptions uint32 `json:"subscriptions,omitempty"` // live ones that got the events
}

// Follower is a build of a projection or of a process manager.
type Follower struct {
	Name     string `json:"name,omitempty"`
	Segments uint32 `json:"segments,omitempty"` // on which the node works
	Lowest   uint64 `json:"lowest,omitempty"`   // the position that all of them have reached
}

// ProjectionsRequest asks what a node works on for projections.
type ProjectionsRequest struct{}

// ProjectionsReply has what a node works on for projections.
type ProjectionsReply struct {
	// Segments are the ones on which the node works, at most 4,096.
	Segments []*WorkedSegment `json:"segments,omitempty"`
	// Memories are the projections in the node's memory.
	Memories []*MemoryProjection `json:"memories,omitempty"`
	// Intakes are the queues from which the node takes commands.
	Intakes []*ServedIntake `json:"intakes,omitempty"`
}

// ServedIntake has counters since the start of the node.
type ServedIntake struct {
	Intake     string            `json:"intake,omitempty"`
	Queue      string            `json:"queue,omitempty"`
	State      string            `json:"state,omitempty"`      // stopped, away, waiting or working
	Since      int64             `json:"since,omitempty"`      // when the state began, Unix time in milliseconds
	Problem    string            `json:"problem,omitempty"`    // the last error of a connection, "" if there was none
	ProblemAt  int64             `json:"problem_at,omitempty"` // its time, Unix time in milliseconds
	Unfinished uint32            `json:"unfinished,omitempty"` // messages that were taken and not finished
	Commands   map[string]uint64 `json:"commands,omitempty"`   // finished messages, by their outcome
	Retries    uint64            `json:"retries,omitempty"`    // commands that were sent again
}

// WorkedSegment is a segment of a build that a node works on.
type WorkedSegment struct {
	Projection string `json:"projection,omitempty"`
	Build      int64  `json:"build,omitempty"`
	Segment    uint32 `json:"segment,omitempty"`
	Position   uint64 `json:"position,omitempty"` // up to which its rows show the log
	Stopped    string `json:"stopped,omitempty"`  // why it does not follow the log, "" if it does
}

// MemoryProjection is a projection in the memory of a node.
type MemoryProjection struct {
	Projection string `json:"projection,omitempty"`
	Position   uint64 `json:"position,omitempty"` // up to which its state shows the log
	Current    bool   `json:"current,omitempty"`  // the state can be read
	Stopped    bool   `json:"stopped,omitempty"`  // an event cannot be folded
}
