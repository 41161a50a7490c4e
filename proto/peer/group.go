package peer

// GroupReport replaces the gateway's earlier reports.
type GroupReport struct {
	Group    string          `json:"group,omitempty"`
	Gateway  string          `json:"gateway,omitempty"` // id of the node
	Boot     string          `json:"boot,omitempty"`    // unique to this run of the gateway
	Number   uint64          `json:"number,omitempty"`  // raised with each report
	Sessions []*GroupSession `json:"sessions,omitempty"`
	Seen     uint64          `json:"seen,omitempty"` // digest of the last answer
}

// GroupSession is a session that consumes.
type GroupSession struct {
	Id      string         `json:"id,omitempty"` // unique
	Client  string         `json:"client,omitempty"`
	Member  string         `json:"member,omitempty"` // unique within group and client
	Closed  bool           `json:"closed,omitempty"` // it has ended
	Tenures []*GroupTenure `json:"tenures,omitempty"`
	Known   bool           `json:"known,omitempty"` // a coordinator has answered for it before
}

// GroupTenure says something about a segment that a session holds.
type GroupTenure struct {
	Segment  string `json:"segment,omitempty"`
	Epoch    uint64 `json:"epoch,omitempty"`
	First    uint64 `json:"first,omitempty"`    // the first event that was sent and is not acknowledged, 0 if none
	Last     uint64 `json:"last,omitempty"`     // the last one that was sent
	Released bool   `json:"released,omitempty"` // the session gives the revoking segment back
}

// GroupAnswer has everything that the members of a gateway hold.
type GroupAnswer struct {
	AgeUs    int64        `json:"age_us,omitempty"` // since the coordinator confirmed that it is the coordinator
	Digest   uint64       `json:"digest,omitempty"` // of everything but age and positions
	Sessions []*GroupHeld `json:"sessions,omitempty"`
}

// GroupHeld is what a session holds.
type GroupHeld struct {
	Session  string          `json:"session,omitempty"`
	Replaced bool            `json:"replaced,omitempty"` // by a newer session of the member
	Holdings []*GroupHolding `json:"holdings,omitempty"`
}

// GroupHolding is a segment that a session holds.
type GroupHolding struct {
	Segment  string `json:"segment,omitempty"` // a number, or "~" and a stream
	Epoch    uint64 `json:"epoch,omitempty"`
	Segments uint32 `json:"segments,omitempty"` // of the group
	Position uint64 `json:"position,omitempty"` // up to which the segment is acknowledged
	Log      string `json:"log,omitempty"`
	Window   uint32 `json:"window,omitempty"` // 0: the member's own
	Revoking bool   `json:"revoking,omitempty"`
	Halt     string `json:"halt,omitempty"`     // why nothing may be sent, "" if it may
	Sequence string `json:"sequence,omitempty"` // under retry
}
