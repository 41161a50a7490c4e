package check

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/ganglion-es/ganglion/eventstore"
)

// The names of the promises in anomalies.
const (
	Dense        = "positions are dense"
	Contiguous   = "versions are contiguous"
	Once         = "keys are unique"
	Kept         = "acknowledged commands are stored as replied"
	NotStored    = "rejected commands are not stored"
	Ours         = "events are those of commands"
	Linearizable = "commands and strong reads are linearizable"
	Real         = "reads show a state that existed"
	ReadYours    = "a client reads its writes"
	Lanes        = "pipelined commands keep their order"
	Ordered      = "subscriptions are ordered"
	Exact        = "subscriptions give each event as it is stored"
	Complete     = "subscriptions are complete"
	Promptly     = "the checker ends"
)

const (
	// perPromise bounds the reported anomalies of one promise.
	perPromise = 20
	// patience bounds the search for an order of the operations on one aggregate. With
	// at most 100 operations it needs less than a millisecond.
	patience = 10 * time.Second
)

// Result is the result of Run.
type Result struct {
	Anomalies []Anomaly
	// Commands, Reads and Events count what was checked. Ordered counts the commands
	// and reads for which an order was searched, on Aggregates aggregates.
	Commands, Reads, Events, Ordered, Aggregates int
	// Answers and Snapshots count answers to queries, and batches of live queries.
	Answers, Snapshots int
	// Tenures counts those of members of the consumer group, Deliveries the events that
	// they were sent.
	Tenures, Deliveries int
	// Receipts counts commands of the process manager receipts.
	Receipts int
	// Ends counts auctions that end during the run, WokenUp the ones that ended by
	// themselves. LatestEnd is how long after its closing time the last of them did.
	Ends, WokenUp int
	LatestEnd     time.Duration
	// FoundDone and FoundNotDone count commands with an unknown outcome that are, or
	// are not, in the log.
	FoundDone, FoundNotDone int
}

// checker collects the anomalies of one history.
type checker struct {
	h Result

	mu     sync.Mutex
	counts map[string]int

	history History
	commits map[string]*eventstore.Commit // by stream and key
	events  []Seen                        // of the log, in order
	streams map[string][]Seen             // events by stream
	states  map[string][]State            // by stream, after 0, 1, 2, … events

	// streamsThatEnd are those of auctions that end during the run: what their owner
	// decides depends on its clock, so the model of order does not have them.
	streamsThatEnd map[string]bool
}

func newChecker(h History) *checker {
	return &checker{
		history: h, counts: map[string]int{},
		commits: make(map[string]*eventstore.Commit, len(h.Log)), streams: map[string][]Seen{}, states: map[string][]State{},
		streamsThatEnd: map[string]bool{},
	}
}

// Run checks a history.
func Run(h History) Result { return run(h, true) }

// run checks a history, without the search for an order unless isOrdered is set.
func run(h History, isOrdered bool) Result {
	c := newChecker(h)
	c.log()
	c.ends()
	c.commands()
	c.reads()
	c.lanes()
	if isOrdered {
		c.order()
	}
	for i := range h.Subscriptions {
		c.subscription(&h.Subscriptions[i])
	}
	c.rows()
	c.outbids()
	c.receipts()
	c.group()
	c.h.Commands, c.h.Reads, c.h.Events = len(h.Commands), len(h.Reads), len(c.events)
	return c.h
}

func (c *checker) found(promise, format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.counts[promise]++; c.counts[promise] <= perPromise {
		c.h.Anomalies = append(c.h.Anomalies, Anomaly{promise, fmt.Sprintf(format, args...)})
	}
}

func id(stream, key string) string { return stream + " " + key }

// log checks the log, and computes the states of all streams.
func (c *checker) log() {
	last := eventstore.Position(0)
	for i := range c.history.Log {
		commit := &c.history.Log[i]
		stream := commit.Stream.String()
		if commit.First() != last+1 {
			c.found(Dense, "position %d follows %d", commit.First(), last)
		}
		last = commit.Position
		states := c.states[stream]
		if states == nil {
			states = []State{{}}
		}
		if got, want := commit.FirstVersion(), eventstore.Version(len(states)); got != want {
			c.found(Contiguous, "%s: version %d follows %d, at position %d", stream, got, want-1, commit.Position)
		}
		if other, ok := c.commits[id(stream, commit.Key)]; ok {
			c.found(Once, "%s: the log has key %s at positions %d and %d", stream, commit.Key, other.Position, commit.Position)
		}
		c.commits[id(stream, commit.Key)] = commit
		if isOfSystem(commit) && !isWakeUp(commit) {
			for range commit.Events {
				states = append(states, states[len(states)-1])
			}
			c.states[stream] = states
			continue
		}
		for j, e := range commit.Events {
			amount, seller, err := ParseEvent(e.Data)
			if err != nil {
				c.found(Ours, "%s at position %d: %v", stream, commit.Position, err)
			}
			states = append(states, states[len(states)-1].apply(e.Type, amount, seller))
			seen := Seen{uint64(commit.First()) + uint64(j), uint64(commit.FirstVersion()) + uint64(j), stream, commit.Key, e.Type, amount}
			c.events, c.streams[stream] = append(c.events, seen), append(c.streams[stream], seen)
		}
		c.states[stream] = states
	}
}

// commands compares the replies with the log.
func (c *checker) commands() {
	sent := make(map[string]bool, len(c.history.Commands))
	for i := range c.history.Commands {
		cmd := &c.history.Commands[i]
		sent[id(cmd.Stream, cmd.Key)] = true
		commit, stored := c.commits[id(cmd.Stream, cmd.Key)]
		switch cmd.Outcome {
		case Done:
			if !stored {
				c.found(Kept, "%s: %s was acknowledged at version %d, but is not in the log", cmd.Stream, cmd.Key, cmd.Version)
				continue
			}
			if uint64(commit.Version) != cmd.Version || uint64(commit.Position) != cmd.Position {
				c.found(Kept, "%s: %s was acknowledged at version %d, position %d, but is at %d, %d",
					cmd.Stream, cmd.Key, cmd.Version, cmd.Position, commit.Version, commit.Position)
			}
		case Rejected, Conflict:
			if stored {
				c.found(NotStored, "%s: the reply to %s was %s, but the log has it at version %d", cmd.Stream, cmd.Key, cmp.Or(cmd.Reason, "conflict"), commit.Version)
			}
			continue
		case Unknown:
			if !stored {
				c.h.FoundNotDone++
				continue
			}
			c.h.FoundDone++
		}
		if len(commit.Events) != 1 {
			c.found(Ours, "%s: %s stored %d events", cmd.Stream, cmd.Key, len(commit.Events))
			continue
		}
		amount, _, _ := ParseEvent(commit.Events[0].Data)
		if commit.Events[0].Type == "closed" {
			amount = 0 // the command has none, and ends checks it
		}
		if commit.Events[0].Type != cmd.event() || amount != cmd.Amount {
			c.found(Ours, "%s: %s was %s %d, but is stored as %s %s", cmd.Stream, cmd.Key, cmd.Name, cmd.Amount, commit.Events[0].Type, commit.Events[0].Data)
		}
	}
	for _, commit := range c.history.Log {
		if !isOfSystem(&commit) && !sent[id(commit.Stream.String(), commit.Key)] {
			c.found(Ours, "%v: no client sent the command at position %d with key %s", commit.Stream, commit.Position, commit.Key)
		}
	}
}

// reads checks that each read shows the state at its version, and at least the
// version that its client knew.
func (c *checker) reads() {
	for _, r := range c.history.Reads {
		states := c.states[r.Stream]
		if states == nil {
			states = []State{{}}
		}
		switch {
		case r.Version >= uint64(len(states)):
			c.found(Real, "%s: a read showed version %d, but the stream ends at %d", r.Stream, r.Version, len(states)-1)
			continue
		case r.State != states[r.Version]:
			c.found(Real, "%s: a read showed %+v at version %d, want %+v", r.Stream, r.State, r.Version, states[r.Version])
		}
		if r.Version < r.Known {
			c.found(ReadYours, "%s: %s asked for version %d at position %d, but read version %d", r.Stream, r.Client, r.Known, r.AtLeast, r.Version)
		}
	}
}

// lanes checks the order of commands of one client to one stream. A command that
// succeeded at its first attempt must follow all earlier commands that did too, and
// all earlier commands of its own burst, no matter how often they were sent.
func (c *checker) lanes() {
	lanes := map[[2]string][]Command{}
	for _, cmd := range c.history.Commands {
		if cmd.Outcome == Done {
			k := [2]string{cmd.Client, cmd.Stream}
			lanes[k] = append(lanes[k], cmd)
		}
	}
	for k, all := range lanes {
		slices.SortFunc(all, func(a, b Command) int { return cmp.Compare(a.Lane, b.Lane) })
		var before, burst Command // the last of either kind in the log
		for _, cmd := range all {
			if cmd.Burst != burst.Burst {
				burst = Command{}
			}
			for _, first := range []Command{before, burst} {
				if cmd.Attempts == 1 && first.Version >= cmd.Version {
					c.found(Lanes, "%s: %s sent %s (attempts: %d) before %s, but they are at versions %d and %d",
						k[1], k[0], first.Key, first.Attempts, cmd.Key, first.Version, cmd.Version)
					break
				}
			}
			if cmd.Attempts == 1 {
				before = cmd
			}
			if cmd.Version >= burst.Version {
				burst = cmd
			}
		}
	}
}

// operation is a command or a strong read in the search for an order.
type operation struct {
	command *Command
	read    *Read
}

// versioned is a state with its version.
type versioned struct {
	State
	version uint64
}

var model = porcupine.Model{
	Init: func() any { return versioned{} },
	Step: func(state, input, _ any) (bool, any) {
		s, op := state.(versioned), input.(operation)
		if r := op.read; r != nil {
			return r.Version == s.version && r.State == s.State, s
		}
		c := op.command
		if c.Expect != nil && *c.Expect != s.version {
			return c.Outcome == Conflict && c.Version == s.version, s
		}
		next, reason := s.decide(*c)
		if reason != "" {
			return c.Outcome == Rejected && c.Reason == reason, s
		}
		return c.Outcome == Done && c.Version == s.version+1, versioned{next, s.version + 1}
	},
	Equal: func(a, b any) bool { return a.(versioned) == b.(versioned) },
	DescribeOperation: func(input, _ any) string {
		op := input.(operation)
		if op.read != nil {
			return fmt.Sprintf("read version %d: %+v", op.read.Version, op.read.State)
		}
		return fmt.Sprintf("%s %s %d: %d %s at version %d", op.command.Key, op.command.Name, op.command.Amount, op.command.Outcome, op.command.Reason, op.command.Version)
	},
}

// order searches, for each aggregate, for an order of its commands and strong reads
// that explains every reply. An operation that ended before another began must come
// first. The log resolves unknown outcomes: such a command either was never
// executed, or took effect at its version in the log, at any time after it was
// sent.
func (c *checker) order() {
	byStream := map[string][]porcupine.Operation{}
	add := func(stream string, op operation, call, ret int64) {
		if c.streamsThatEnd[stream] {
			return
		}
		byStream[stream] = append(byStream[stream], porcupine.Operation{Input: op, Call: call, Return: ret})
	}
	for i := range c.history.Commands {
		cmd := c.history.Commands[i]
		if cmd.Outcome == Unknown {
			commit, stored := c.commits[id(cmd.Stream, cmd.Key)]
			if !stored {
				continue
			}
			cmd.Outcome, cmd.Version, cmd.Return = Done, uint64(commit.Version), math.MaxInt64
		}
		add(cmd.Stream, operation{command: &cmd}, cmd.Call, cmd.Return)
	}
	for i := range c.history.Reads {
		if r := &c.history.Reads[i]; r.Strong {
			add(r.Stream, operation{read: r}, r.Call, r.Return)
		}
	}
	c.h.Aggregates = len(byStream)
	var work sync.WaitGroup
	turns := make(chan struct{}, runtime.GOMAXPROCS(0))
	for _, stream := range slices.Sorted(maps.Keys(byStream)) {
		ops := byStream[stream]
		c.h.Ordered += len(ops)
		turns <- struct{}{}
		work.Go(func() {
			defer func() { <-turns }()
			switch porcupine.CheckOperationsTimeout(model, ops, patience) {
			case porcupine.Illegal:
				c.found(Linearizable, "%s: no order of its %d operations explains them:%s", stream, len(ops), describe(ops))
			case porcupine.Unknown:
				c.found(Promptly, "%s: no order of its %d operations was found within %v", stream, len(ops), patience)
			}
		})
	}
	work.Wait()
}

// describe lists the operations, and the length of the longest partial order.
func describe(ops []porcupine.Operation) string {
	slices.SortFunc(ops, func(a, b porcupine.Operation) int { return cmp.Compare(a.Call, b.Call) })
	_, info := porcupine.CheckOperationsVerbose(model, ops, time.Second)
	longest := 0
	for _, partition := range info.PartialLinearizations() {
		for _, l := range partition {
			longest = max(longest, len(l))
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, " only %d fit", longest)
	for _, op := range ops {
		fmt.Fprintf(&b, "\n    %9.3f to %9.3f ms  %s", float64(op.Call)/1e6, float64(op.Return)/1e6, model.DescribeOperation(op.Input, nil))
	}
	return b.String()
}

// subscription checks the deliveries of a subscription.
func (c *checker) subscription(s *Subscription) {
	due := c.due(s)
	at := 0 // index in due
	marks := s.Marks
	var last Seen
	versions := map[string]uint64{}
	for i, e := range s.Seen {
		marks = c.marked(s, marks, i, due, at)
		if i > 0 && e.Position <= last.Position {
			c.found(Ordered, "%s: position %d follows %d", s.Name, e.Position, last.Position)
			return
		}
		if v, ok := versions[e.Stream]; ok && e.Version != v+1 {
			c.found(Ordered, "%s: version %d of %s follows %d", s.Name, e.Version, e.Stream, v)
		}
		last, versions[e.Stream] = e, e.Version
		for at < len(due) && due[at].Position < e.Position {
			c.found(Complete, "%s: position %d (%s, version %d) is missing before %d", s.Name, due[at].Position, due[at].Stream, due[at].Version, e.Position)
			at++
		}
		if at == len(due) || due[at] != e {
			c.found(Exact, "%s: %+v was delivered, but the log differs", s.Name, e)
			continue
		}
		at++
	}
	c.marked(s, marks, len(s.Seen), due, at)
	if s.Complete && at < len(due) {
		c.found(Complete, "%s: the last %d events are missing, from position %d (%s, version %d)", s.Name, len(due)-at, due[at].Position, due[at].Stream, due[at].Version)
	}
	if s.State == nil {
		return
	}
	if states := c.states[s.Stream]; s.StateVersion >= uint64(max(1, len(states))) {
		c.found(Real, "%s: its state had version %d, but the stream ends at %d", s.Name, s.StateVersion, len(states)-1)
	} else if len(states) > 0 && *s.State != states[s.StateVersion] {
		c.found(Real, "%s: its state was %+v at version %d, want %+v", s.Name, *s.State, s.StateVersion, states[s.StateVersion])
	}
}

// marked checks the cursors received after the given number of events: every event
// up to such a cursor must have been delivered.
func (c *checker) marked(s *Subscription, marks []Mark, seen int, due []Seen, at int) []Mark {
	for len(marks) > 0 && marks[0].After <= seen {
		if at < len(due) && due[at].Position <= marks[0].Cursor {
			c.found(Complete, "%s: cursor %d arrived before the event at position %d", s.Name, marks[0].Cursor, due[at].Position)
		}
		marks = marks[1:]
	}
	return marks
}

// due returns the events that a subscription must deliver, in order.
func (c *checker) due(s *Subscription) []Seen {
	all := c.events
	if s.Stream != "" {
		all = c.streams[s.Stream]
	}
	first := s.BeginVersion
	if s.Last > 0 && len(s.Seen) > 0 {
		// Events stored between the request and the end of history are delivered
		// too, so there may be more than Last, but never fewer.
		first = s.Seen[0].Version - 1
		if want := uint64(max(0, int(s.Live)-s.Last)); first > want {
			c.found(Complete, "%s: of the last %d events up to version %d the first delivered is %d", s.Name, s.Last, s.Live, first+1)
		}
	}
	var due []Seen
	for _, e := range all {
		switch {
		case e.Position <= s.Begin, s.Stream != "" && e.Version <= first:
		case s.Category != "" && !strings.HasPrefix(e.Stream, s.Category+"/"):
		default:
			due = append(due, e)
		}
	}
	return due
}
