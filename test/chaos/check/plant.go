package check

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"

	"github.com/ganglion-es/ganglion/eventstore"
)

// Plant breaks one promise in a history.
type Plant struct {
	Name string
	// Breaks lists promises. Run must find at least one of them broken.
	Breaks []string
	// Do plants the fault. It reports whether that was possible in the history.
	Do func(h *History, r *rand.Rand) bool
}

// Clone copies the parts of a history that a plant changes.
func (h History) Clone() History {
	c := History{
		Window: h.Window,
		Log:    slices.Clone(h.Log), Commands: slices.Clone(h.Commands),
		Reads: slices.Clone(h.Reads), Subscriptions: slices.Clone(h.Subscriptions),
		Answers: slices.Clone(h.Answers), Lives: slices.Clone(h.Lives),
		Group: h.Group.clone(), StoredAt: maps.Clone(h.StoredAt), HasEnds: h.HasEnds, Past: h.Past,
	}
	for i := range c.Subscriptions {
		c.Subscriptions[i].Seen = slices.Clone(c.Subscriptions[i].Seen)
	}
	return c
}

// Plants has at least one fault for every promise. Run must find each.
var Plants = slices.Concat(logPlants, rowPlants, outbidPlants, receiptPlants, wakePlants, groupPlants)

var logPlants = []Plant{
	{"an event is lost from the log", []string{Dense}, func(h *History, r *rand.Rand) bool {
		if len(h.Log) < 3 {
			return false
		}
		i := 1 + r.IntN(len(h.Log)-2)
		h.Log = slices.Delete(h.Log, i, i+1)
		return true
	}},
	{"an acknowledged event is lost at the end of the log", []string{Kept}, func(h *History, _ *rand.Rand) bool {
		i := len(h.Log) - 1
		for i > 0 && isOfSystem(&h.Log[i]) {
			i--
		}
		last := h.Log[i]
		h.Log = h.Log[:i]
		return slices.ContainsFunc(h.Commands, func(c Command) bool { return c.Key == last.Key && c.Outcome == Done })
	}},
	{"a command is executed twice", []string{Once}, func(h *History, r *rand.Rand) bool {
		return h.insert(r, func(c eventstore.Commit) eventstore.Commit { return c })
	}},
	{"a command is executed twice under another key", []string{Ours, EndOnce, ReceiptOnce}, func(h *History, r *rand.Rand) bool {
		return h.insert(r, func(c eventstore.Commit) eventstore.Commit { c.Key += "-again"; return c })
	}},
	{"a version is skipped", []string{Contiguous}, func(h *History, _ *rand.Rand) bool {
		h.Log[len(h.Log)-1].Version++
		return true
	}},
	{"a reply names another version", []string{Kept}, func(h *History, r *rand.Rand) bool {
		return onCommand(h, r, func(c *Command) bool { c.Version++; return c.Outcome == Done })
	}},
	{"an event differs from its command", []string{Ours}, func(h *History, r *rand.Rand) bool {
		return onCommand(h, r, func(c *Command) bool { c.Amount += 3; return c.Outcome == Done })
	}},
	{"a rejected command is stored", []string{NotStored}, func(h *History, r *rand.Rand) bool {
		return onCommand(h, r, func(c *Command) bool {
			done := c.Outcome == Done
			c.Outcome, c.Reason = Rejected, "too_low"
			return done
		})
	}},
	{"an acceptable command is rejected", []string{Linearizable}, func(h *History, _ *rand.Rand) bool {
		// The first operation opens an auction and gets "already open".
		c := Command{Client: "planted", Stream: "auction/planted", Key: "planted", Name: "open", Amount: 1, Call: 1, Return: 2, Outcome: Rejected, Reason: "already_open", Attempts: 1}
		h.Commands = append(h.Commands, c)
		return true
	}},
	{"a strong read is stale", []string{Linearizable}, func(h *History, _ *rand.Rand) bool {
		// The read starts after a command was acknowledged, but shows the state before.
		states := h.states()
		for _, c := range h.Commands {
			if c.Outcome == Done && c.Version > 1 && c.Name == "add" { // the operations of auctions that end have no order
				h.Reads = append(h.Reads, Read{
					Client: "planted", Stream: c.Stream, Strong: true, Call: c.Return + 1, Return: c.Return + 2,
					Version: c.Version - 1, State: states[c.Stream][c.Version-1],
				})
				return true
			}
		}
		return false
	}},
	{"two commands take effect in reversed order", []string{Linearizable}, func(h *History, _ *rand.Rand) bool {
		// One ends before the other starts, and has the later version.
		byPlace := map[string]int{}
		for i, c := range h.Commands {
			if c.Outcome == Done && c.Expect == nil {
				byPlace[fmt.Sprint(c.Stream, " ", c.Version)] = i
			}
		}
		for i := range h.Commands {
			a := &h.Commands[i]
			j, ok := byPlace[fmt.Sprint(a.Stream, " ", a.Version+1)]
			if !ok || a.Outcome != Done || a.Expect != nil || a.Name != "add" {
				continue
			}
			if b := &h.Commands[j]; a.Return < b.Call {
				a.Call, b.Call = b.Call, a.Call
				a.Return, b.Return = b.Return, a.Return
				return true
			}
		}
		return false
	}},
	{"a read mixes two states", []string{Real}, func(h *History, r *rand.Rand) bool {
		if len(h.Reads) == 0 {
			return false
		}
		h.Reads[r.IntN(len(h.Reads))].State.Value += 7
		return true
	}},
	{"a client does not read its write", []string{ReadYours}, func(h *History, _ *rand.Rand) bool {
		states := h.states()
		for i := range h.Reads {
			if read := &h.Reads[i]; !read.Strong && read.Known > 0 {
				read.Version = read.Known - 1
				read.State = states[read.Stream][read.Version]
				return true
			}
		}
		return false
	}},
	{"pipelined commands are reordered", []string{Lanes}, func(h *History, _ *rand.Rand) bool {
		type lane struct{ client, stream string }
		last := map[lane]int{}
		for i := range h.Commands {
			c := &h.Commands[i]
			if c.Outcome != Done || c.Attempts != 1 {
				continue
			}
			k := lane{c.Client, c.Stream}
			if j, ok := last[k]; ok {
				h.Commands[j].Lane, c.Lane = c.Lane, h.Commands[j].Lane
				return true
			}
			last[k] = i
		}
		return false
	}},
	{"a command overtakes a repeated one", []string{Lanes}, func(h *History, r *rand.Rand) bool {
		return onCommand(h, r, func(c *Command) bool {
			if c.Outcome != Done || c.Attempts != 1 {
				return false
			}
			for i := range h.Commands {
				later := &h.Commands[i]
				if later.Outcome == Done && later.Client == c.Client && later.Stream == c.Stream && later.Version > c.Version {
					for i := range h.Commands {
						h.Commands[i].Lane *= 2 // leaves a number between any two
					}
					c.Lane *= 2
					later.Burst, later.Lane, later.Attempts = c.Burst, c.Lane-1, 2
					return true
				}
			}
			return false
		})
	}},
	{"a delivery is lost", []string{Complete, Ordered}, func(h *History, r *rand.Rand) bool {
		return onSeen(h, r, func(s *Subscription, i int) { s.Seen = slices.Delete(s.Seen, i, i+1) })
	}},
	{"the last delivery is lost", []string{Complete}, func(h *History, _ *rand.Rand) bool {
		for i := range h.Subscriptions {
			if s := &h.Subscriptions[i]; s.Complete && len(s.Seen) > 0 {
				s.Seen = s.Seen[:len(s.Seen)-1]
				return true
			}
		}
		return false
	}},
	{"a delivery is doubled", []string{Ordered}, func(h *History, r *rand.Rand) bool {
		return onSeen(h, r, func(s *Subscription, i int) { s.Seen = slices.Insert(s.Seen, i, s.Seen[i]) })
	}},
	{"deliveries are reordered", []string{Ordered}, func(h *History, r *rand.Rand) bool {
		return onSeen(h, r, func(s *Subscription, i int) { s.Seen[i], s.Seen[i+1] = s.Seen[i+1], s.Seen[i] })
	}},
	{"a delivery is of another subscription", []string{Exact, Ordered}, func(h *History, r *rand.Rand) bool {
		return onSeen(h, r, func(s *Subscription, i int) { s.Seen[i].Stream = "counter/stranger" })
	}},
	{"a delivery has other data", []string{Exact}, func(h *History, r *rand.Rand) bool {
		return onSeen(h, r, func(s *Subscription, i int) { s.Seen[i].Amount++ })
	}},
	{"a cursor arrives before an event", []string{Complete}, func(h *History, _ *rand.Rand) bool {
		for i := range h.Subscriptions {
			if s := &h.Subscriptions[i]; len(s.Seen) > 2 {
				s.Marks = []Mark{{After: 1, Cursor: s.Seen[1].Position}}
				return true
			}
		}
		return false
	}},
	{"a subscription begins with a wrong state", []string{Real}, func(h *History, _ *rand.Rand) bool {
		for i := range h.Subscriptions {
			if s := &h.Subscriptions[i]; s.State != nil {
				wrong := *s.State
				wrong.Value++
				s.State = &wrong
				return true
			}
		}
		return false
	}},
}

// insert appends a changed copy of a random commit to the log.
func (h *History) insert(r *rand.Rand, change func(eventstore.Commit) eventstore.Commit) bool {
	if len(h.Log) == 0 {
		return false
	}
	c := change(h.Log[r.IntN(len(h.Log))])
	head := h.Log[len(h.Log)-1]
	c.Position = head.Position + eventstore.Position(len(c.Events))
	c.Version = eventstore.Version(len(h.states()[c.Stream.String()])-1) + eventstore.Version(len(c.Events))
	h.Log = append(h.Log, c)
	return true
}

func (h *History) states() map[string][]State {
	c := newChecker(*h)
	c.log()
	return c.states
}

// onCommand applies do to random commands until it returns true.
func onCommand(h *History, r *rand.Rand, do func(*Command) bool) bool {
	for _, i := range r.Perm(len(h.Commands)) {
		c := h.Commands[i]
		if do(&c) {
			h.Commands[i] = c
			return true
		}
	}
	return false
}

// onSeen applies do to a delivery in the middle of a random subscription.
func onSeen(h *History, r *rand.Rand, do func(s *Subscription, i int)) bool {
	for _, i := range r.Perm(len(h.Subscriptions)) {
		if s := &h.Subscriptions[i]; len(s.Seen) >= 3 {
			do(s, 1+r.IntN(len(s.Seen)-2))
			return true
		}
	}
	return false
}

// SelfCheck plants each fault into a copy of a history without anomalies. It
// returns the faults that Run did not find, and the faults for which the history
// had no place.
func SelfCheck(h History, r *rand.Rand) (missed, unplanted []string) {
	for _, p := range Plants {
		c := h.Clone()
		if !p.Do(&c, r) {
			unplanted = append(unplanted, p.Name)
			continue
		}
		isOrdered := slices.Contains(p.Breaks, Linearizable) // the search takes most of the time
		if !slices.ContainsFunc(run(c, isOrdered).Anomalies, func(a Anomaly) bool { return slices.Contains(p.Breaks, a.Promise) }) {
			missed = append(missed, p.Name)
		}
	}
	return missed, unplanted
}
