package check

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/proto/group"
)

// simulate makes the history of a cluster that keeps every promise: each operation
// takes effect at one moment between its call and its return. Some commands lose
// their replies, executed or not, and some succeed at a second attempt.
func simulate(t *testing.T, seed uint64) History {
	t.Helper()
	r := rand.New(rand.NewPCG(seed, 0))
	type op struct {
		cmd             *Command
		read            *Read
		call, eff, back int64
	}
	const clients, aggregates = 12, 40
	var ops []op
	free, known := make([]int64, clients), map[[2]string]Command{}
	lanes := map[[2]string]int{}
	for i := range 2500 {
		c := r.IntN(clients)
		call := free[c] + 1 + r.Int64N(50)
		eff := call + 1 + r.Int64N(300)
		back := eff + 1 + r.Int64N(300)
		free[c] = back
		if r.IntN(3) == 0 {
			free[c] = call + 1 // it pipelines the next command
			back = eff + 1
		}
		client, n := fmt.Sprintf("c%d", c), r.IntN(aggregates)
		stream := fmt.Sprintf("counter/%d", n)
		if n%4 == 0 {
			stream = fmt.Sprintf("auction/%d", n)
		}
		if r.IntN(3) == 0 {
			ops = append(ops, op{read: &Read{Client: client, Stream: stream, Strong: r.IntN(2) == 0, Call: call, Return: back}, call: call, eff: eff, back: back})
			continue
		}
		cmd := &Command{Client: client, Stream: stream, Key: fmt.Sprintf("k%d", i), Name: "add", Amount: int64(r.IntN(10)), Call: call, Return: back, Attempts: 1, Burst: int64(i)}
		lanes[[2]string{client, stream}]++
		cmd.Lane = lanes[[2]string{client, stream}]
		if n%4 == 0 {
			cmd.Name, cmd.Amount = "bid", int64(i)-r.Int64N(20)
			if r.IntN(10) == 0 {
				cmd.Name, cmd.Amount = "open", 1
			}
		} else if r.IntN(20) == 0 {
			cmd.Expect = new(uint64(r.IntN(30)))
		}
		ops = append(ops, op{cmd: cmd, call: call, eff: eff, back: back})
	}
	slices.SortFunc(ops, func(a, b op) int { return int(a.eff - b.eff) })
	// The commands of a lane take effect in its order.
	effects := map[[2]string]int64{}
	for _, o := range ops {
		if o.cmd != nil {
			k := [2]string{o.cmd.Client, o.cmd.Stream}
			if int64(o.cmd.Lane) < effects[k] {
				o.cmd.Attempts = 2 // as if it was retried
			}
			effects[k] = max(effects[k], int64(o.cmd.Lane))
		}
	}
	var h History
	told := 0
	states, at := map[string]versioned{}, eventstore.Position(0)
	tell := func() { // what outbid has not told yet
		due := slices.SortedFunc(maps.Values(notices(h.Log)), func(a, b notice) int { return int(a.cause) - int(b.cause) })
		for _, n := range due[told:] {
			at++
			id, err := eventstore.ParseStreamID(n.stream)
			if err != nil {
				t.Fatal(err)
			}
			s := states[n.stream]
			s.version++
			states[n.stream] = s
			h.Log = append(h.Log, eventstore.Commit{Position: at, Stream: id, Version: eventstore.Version(s.version), Key: n.key, Events: []eventstore.Event{
				{Type: "notified", Data: []byte(`{"from":"~outbid","text":"` + n.text + `"}`)},
			}})
		}
		told = len(due)
	}
	for i, o := range ops {
		if i%50 == 0 {
			tell()
		}
		if read := o.read; read != nil {
			s := states[read.Stream]
			read.Version, read.State = s.version, s.State
			if k, ok := known[[2]string{read.Client, read.Stream}]; ok && k.Return < read.Call {
				read.AtLeast, read.Known = k.Position, k.Version
			}
			h.Reads = append(h.Reads, *read)
			continue
		}
		cmd, lost := o.cmd, r.IntN(50) == 0
		if lost && r.IntN(2) == 0 {
			h.Commands = append(h.Commands, *cmd) // neither executed nor replied to
			continue
		}
		s := states[cmd.Stream]
		next, reason := s.decide(*cmd)
		switch {
		case cmd.Expect != nil && *cmd.Expect != s.version:
			cmd.Outcome, cmd.Version = Conflict, s.version
		case reason != "":
			cmd.Outcome, cmd.Reason = Rejected, reason
		default:
			at++
			states[cmd.Stream] = versioned{next, s.version + 1}
			cmd.Outcome, cmd.Version, cmd.Position = Done, s.version+1, uint64(at)
			id, err := eventstore.ParseStreamID(cmd.Stream)
			if err != nil {
				t.Fatal(err)
			}
			data, err := json.Marshal(map[string]any{map[string]string{"add": "by", "bid": "amount", "open": "reserve"}[cmd.Name]: cmd.Amount, "seller": cmd.Client, "bidder": cmd.Client, "closes_at": "2099-01-01T00:00:00Z"})
			if err != nil {
				t.Fatal(err)
			}
			h.Log = append(h.Log, eventstore.Commit{Position: at, Stream: id, Version: eventstore.Version(s.version + 1), Key: cmd.Key, Events: []eventstore.Event{{Type: cmd.event(), Data: data}}})
			if !lost {
				known[[2]string{cmd.Client, cmd.Stream}] = *cmd
			}
		}
		if lost {
			cmd.Outcome, cmd.Reason, cmd.Version, cmd.Position = Unknown, "", 0, 0
		}
		h.Commands = append(h.Commands, *cmd)
	}
	tell()
	h.end(r)
	h.receive()
	h.follow(r)
	h.ask(r)
	h.consume(r)
	return h
}

// end adds auctions that end: some by their sellers, the others by themselves.
func (h *History) end(r *rand.Rand) {
	h.StoredAt, h.HasEnds = map[eventstore.Position]time.Time{}, true
	at, now := h.Log[len(h.Log)-1].Position, time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	for i := range 8 {
		stream := eventstore.StreamID{Type: "auction", ID: fmt.Sprint("ends-", i)}
		closes, version := now.Add(time.Minute), eventstore.Version(0)
		commit := func(client, key, event, data string, stored time.Time) {
			at++
			version++
			h.StoredAt[at] = stored
			h.Log = append(h.Log, eventstore.Commit{
				Position: at, Stream: stream, Version: version, Key: key, At: stored, Meta: eventstore.Meta{Client: client},
				Events: []eventstore.Event{{Type: event, Data: []byte(data)}},
			})
		}
		send := func(client, name string, amount int64, event, data string) {
			h.Commands = append(h.Commands, Command{
				Client: client, Stream: stream.String(), Key: fmt.Sprint(stream.ID, name), Name: name, Amount: amount, Outcome: Done,
				Version: uint64(version) + 1, Position: uint64(at) + 1, Attempts: 1, Lane: int(version) + 1,
			})
			commit(client, fmt.Sprint(stream.ID, name), event, data, now)
		}
		send("ada", "open", 1, "opened", fmt.Sprintf(`{"seller":"ada","reserve":1,"closes_at":%q}`, closes.Format(time.RFC3339Nano)))
		winner := `{"winner":"","amount":0}`
		if r.IntN(2) == 0 {
			send("bob", "bid", 5, "bid_placed", `{"bidder":"bob","amount":5}`)
			winner = `{"winner":"bob","amount":5}`
		}
		if i%4 == 3 {
			send("ada", "close", 0, "closed", winner)
			continue
		}
		commit(wakeClient, fmt.Sprint(wakeClient, ":", version), "closed", winner, closes.Add(time.Millisecond))
	}
}

// receive adds what receipts tells after a position, in two releases.
func (h *History) receive() {
	opened := openings(h.Log)
	causes := slices.Sorted(maps.Keys(opened))
	at, versions := h.Log[len(h.Log)-1].Position, map[int]eventstore.Version{}
	h.Past = causes[2]
	for i, cause := range causes[3:] {
		at++
		release := 1 + 2*i/len(causes)
		versions[release]++
		h.Log = append(h.Log, eventstore.Commit{
			Position: at, Stream: eventstore.StreamID{Type: "client", ID: Office(release)}, Version: versions[release], Key: fmt.Sprintf("~receipts:%d.0:0", cause),
			Events: []eventstore.Event{{Type: "notified", Data: fmt.Appendf(nil, `{"from":"~receipts","text":%q}`, opened[cause])}},
		})
	}
}

// consume adds a consumer group, with members that freeze, and some that end before
// they have acknowledged what they got.
func (h *History) consume(r *rand.Rand) {
	const segments, ms = 4, int64(time.Millisecond)
	c := newChecker(*h)
	c.log()
	due := make([][]Seen, segments)
	for _, e := range c.events {
		if id, err := eventstore.ParseStreamID(e.Stream); err == nil && id.Type == GroupReads {
			s := group.SegmentOf(id, segments)
			due[s] = append(due[s], e)
		}
	}
	g := Group{Segments: segments, Complete: true, Hits: map[string][]Span{}}
	for s := range segments {
		now, acked := int64(s), 0
		for epoch := uint64(1); acked < len(due[s]); epoch += 10 {
			now += 3000 * ms
			t := Tenure{Member: fmt.Sprint("m", epoch%3), Gateway: fmt.Sprint("g", epoch%2), Segment: s, Epoch: epoch, Span: Span{now, Never}}
			if acked > 0 {
				t.Cursor = due[s][acked-1].Position
			}
			now += ms
			g.Progress = append(g.Progress, Progress{now, s, epoch, t.Cursor})
			last := epoch > 50
			for i := acked; i < len(due[s]) && (last || r.IntN(30) > 0); i++ {
				e := due[s][i]
				now += ms
				t.Got = append(t.Got, Got{now, e.Position, e.Version, e.Stream})
				if last || r.IntN(4) == 0 {
					now += ms
					t.Acks = append(t.Acks, Ack{now, e.Position})
					acked = i + 1
					g.Progress = append(g.Progress, Progress{now + 1, s, epoch, e.Position})
				}
			}
			now += ms
			if t.End = now; r.IntN(4) == 0 { // it froze
				t.Member = "frozen"
				g.Hits["frozen"] = append(g.Hits["frozen"], Span{now, now + 10_000*ms})
				t.End = Never
			} else if n := len(t.Got); n > 0 {
				g.Late = append(g.Late, Late{t.Member, s, epoch, "revoked"})
			}
			g.Tenures = append(g.Tenures, t)
		}
	}
	slices.SortStableFunc(g.Progress, func(a, b Progress) int { return int(a.At - b.At) })
	h.Group = g
}

// follow adds subscriptions with correct deliveries.
func (h *History) follow(r *rand.Rand) {
	c := newChecker(*h)
	c.log()
	for i := range 12 {
		s := Subscription{Name: fmt.Sprintf("s%d", i), Category: "counter", Complete: i%2 == 0}
		if i%3 != 0 {
			s.Category, s.Stream = "", h.Commands[r.IntN(len(h.Commands))].Stream
			if versions := len(c.states[s.Stream]) - 1; i%3 == 1 {
				s.BeginVersion = uint64(versions / 3)
				s.StateVersion, s.State = s.BeginVersion, &c.states[s.Stream][s.BeginVersion]
			}
		} else {
			s.Begin = uint64(r.IntN(100))
		}
		s.Seen = c.due(&s)
		if !s.Complete {
			s.Seen = s.Seen[:len(s.Seen)*2/3]
		}
		if n := len(s.Seen) / 2; n > 0 {
			s.Marks = append(s.Marks, Mark{After: n, Cursor: s.Seen[n-1].Position})
		}
		h.Subscriptions = append(h.Subscriptions, s)
	}
}

// ask adds correct answers and live queries.
func (h *History) ask(r *rand.Rand) {
	h.Window = 4
	head := uint64(h.Log[len(h.Log)-1].Position)
	at := func(position uint64, budget int64) []Row {
		fold := listings{log: h.Log, rows: map[string]Row{}}
		fold.advance(position)
		return fold.open(budget, h.Window)
	}
	budgets := []int64{0, 1500, 400}
	for i := range 60 {
		position, budget := 1+r.Uint64N(head), budgets[i%3]
		h.Answers = append(h.Answers, Answer{
			Client: fmt.Sprintf("c%d", i), Budget: budget, AtLeast: r.Uint64N(position), Position: position, Rows: at(position, budget),
		})
	}
	for i, budget := range budgets {
		l := Live{Name: fmt.Sprintf("l%d", i), Budget: budget, Complete: i < 2}
		for position := uint64(1); position <= head; position += 1 + r.Uint64N(5) {
			l.Snapshots = append(l.Snapshots, Snapshot{Position: position, Resumed: r.IntN(4) == 0, Rows: at(position, budget)})
		}
		l.Snapshots = append(l.Snapshots, Snapshot{Position: head, Rows: at(head, budget)})
		h.Lives = append(h.Lives, l)
	}
}

func TestCheckerAcceptsGoodHistory(t *testing.T) {
	t.Parallel()
	for seed := range uint64(10) {
		res := Run(simulate(t, seed))
		for _, a := range res.Anomalies {
			t.Errorf("seed %d: %v", seed, a)
		}
		if res.FoundDone == 0 || res.FoundNotDone == 0 || res.Ordered < 1000 || res.Answers < 50 || res.Snapshots < 300 || res.Aggregates < 30 ||
			res.Tenures < 12 || res.Deliveries < 500 || res.Ends < 8 || res.WokenUp < 6 || res.Receipts < 8 {
			t.Errorf("seed %d: the history lacks a kind of operation: %+v", seed, res)
		}
	}
}

func TestCheckerFindsEveryPlantedFault(t *testing.T) {
	t.Parallel()
	for seed := range uint64(3) {
		h := simulate(t, seed)
		missed, unplanted := SelfCheck(h, rand.New(rand.NewPCG(seed, 1)))
		for _, name := range missed {
			t.Errorf("seed %d: not found: %s", seed, name)
		}
		for _, name := range unplanted {
			t.Errorf("seed %d: could not be planted: %s", seed, name)
		}
	}
	broken := map[string]bool{Promptly: true}
	for _, p := range Plants {
		for _, b := range p.Breaks {
			broken[b] = true
		}
	}
	for _, promise := range []string{
		Dense, Contiguous, Once, Kept, NotStored, Ours, Linearizable, Real, ReadYours, Lanes, Ordered, Exact, Complete, RowsExact, RowsFresh, LiveExact, LiveForward, LiveOnce, LiveComplete, Told, ToldInOrder,
		ReceiptOnce, ReceiptNotPast, ReceiptAll, EndOnce, EndInDue, EndAll, GroupOrdered, GroupAlone, GroupFenced, GroupComplete,
	} {
		if !broken[promise] {
			t.Errorf("no planted fault breaks '%s'", promise)
		}
	}
}
