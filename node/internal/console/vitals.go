package console

import "time"

// State is the cluster as one node sees it.
type State struct {
	// State is that of the node, Problem why it does not serve.
	State   string `json:"state"`
	Problem string `json:"problem,omitempty"`
	// Log is the incarnation of the log, Head the position of the last event that the
	// node has received.
	Log  string `json:"log"`
	Head uint64 `json:"head"`
	// Ring is the signature of the ring, Partitions their number, and Owners the
	// number of members in the ring.
	Ring       string   `json:"ring"`
	Partitions int      `json:"partitions"`
	Owners     int      `json:"owners"`
	Members    []Member `json:"members"`
	// Lost are members that disappeared in the last hour without an announcement, and
	// that are not back.
	Lost []Lost `json:"lost"`
}

// Member is a member of the cluster.
type Member struct {
	ID         string   `json:"id"`
	State      string   `json:"state"` // "starting", "ready", "not-ready" or "draining"
	Problem    string   `json:"problem,omitempty"`
	Roles      []string `json:"roles"`
	Version    string   `json:"version"`
	AgeSeconds int64    `json:"age_seconds"`
	Peer       string   `json:"peer"`
	HTTP       string   `json:"http"`
	Partitions int      `json:"partitions"`
	ClockMS    int64    `json:"clock_ms"` // ahead of the database's clock
	Ring       string   `json:"ring"`     // the signature that it announced
}

// Lost is a member that disappeared.
type Lost struct {
	ID      string `json:"id"`
	Seconds int64  `json:"seconds"` // since the node noticed it
}

// Vitals are the figures of one node: counters since its start, and its present state.
type Vitals struct {
	Commands, Delivered uint64
	// Answered has the number of commands that were answered, by how long that took:
	// up to each of Bounds, in seconds, and last those above all of them.
	Answered       []uint64
	Bounds         []float64
	Sessions, Full int
	Position       uint64
	LagEvents      uint64
	Lag            time.Duration
	Blocked        int
	Stopped        int
	CPU            time.Duration
	MemoryBytes    uint64
	StoreUp        bool
	// CertificateExpires is the zero time without a certificate.
	CertificateExpires time.Time
	// Relays are those on which the node works and that publish nothing, Intakes all that
	// it serves.
	Relays  []WaitingRelay
	Intakes []Intake
}

// A WaitingRelay publishes nothing.
type WaitingRelay struct {
	Relay  string
	Reason string        // that of ganglion_relay_waiting
	Lag    time.Duration // for which the broker has lacked the newest event
}

// An Intake takes commands from the queue of a broker.
type Intake struct {
	Intake string
	Away   time.Duration // for which it has lacked a connection, 0 with one
}
