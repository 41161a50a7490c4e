package node

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ganglion-es/ganglion/engine"
	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/node/internal/console"
)

const (
	// mostWaiting bounds the blocked rows, the held commands of a process manager, and
	// the parked sequences that the console shows, and mostWakes its wake-ups.
	mostWaiting, mostWakes = 100, 200
	// mostSegments bounds the segments that it shows.
	mostSegments = 2000
	// mostLookups bounds the events that one read of the blocked sequences looks up.
	mostLookups = 25
	// rateWithin is the longest time between two positions that make a rate.
	rateWithin = 30 * time.Second
)

// consoleViews returns what the console's pages of the read side show.
func (n *node) consoleViews() map[string]console.View {
	builds, groups, relays, events := rates{}, rates{}, rates{}, lookups{log: n.store}
	return map[string]console.View{
		"processors": func(ctx context.Context) (any, any, error) {
			v, err := n.viewProcessors(ctx, &builds)
			return v, v, err
		},
		"blocked": func(ctx context.Context) (any, any, error) { return n.viewBlocked(ctx, &events) },
		"groups": func(ctx context.Context) (any, any, error) {
			v, err := n.viewGroups(ctx, &groups)
			return v, v, err
		},
		"wakeups": n.viewWakes,
		"relays":  func(ctx context.Context) (any, any, error) { return n.viewRelays(ctx, &relays) },
	}
}

// A place is a segment of a build or of a group; "" is all of it.
type place struct {
	of      string
	build   int64
	segment string
}

// rates has the positions of the last read, for the events per second since then.
type rates struct {
	at, before   time.Time
	now, earlier map[place]uint64
}

func (r *rates) begin() {
	r.before, r.earlier = r.at, r.now
	r.at, r.now = time.Now(), map[place]uint64{}
}

// of returns the events per second of a place that is at a position, nil if it is not
// known.
func (r *rates) of(p place, position eventstore.Position) *float64 {
	at := uint64(position)
	r.now[p] = at
	took := r.at.Sub(r.before)
	earlier, known := r.earlier[p]
	if !known || at < earlier || took <= 0 || took > rateWithin {
		return nil
	}
	return new(float64(at-earlier) / took.Seconds())
}

// segmentView is a segment of a build or of a group.
type segmentView struct {
	Segment  string              `json:"segment"`
	Owner    string              `json:"owner"`
	Position eventstore.Position `json:"position"`
	Lag      uint64              `json:"lag"`
	Rate     *float64            `json:"rate,omitempty"`
	State    string              `json:"state"`
}

// partsView is a build or a group: what its segments add up to, and they themselves.
type partsView struct {
	Name  string `json:"name"`
	Kind  string `json:"kind"`
	Build int64  `json:"build,omitempty"`
	// Own reports whether this program has the definition of a build.
	Own    bool   `json:"own,omitempty"`
	State  string `json:"state"`
	Paused bool   `json:"paused,omitempty"`
	// Stopped reports that it does not follow the log, and needs an operator.
	Stopped  bool                `json:"stopped,omitempty"`
	Position eventstore.Position `json:"position"` // the lowest
	Lag      uint64              `json:"lag"`      // the largest
	Rate     *float64            `json:"rate,omitempty"`
	Blocked  int                 `json:"blocked"`
	Members  int                 `json:"members,omitempty"`
	Segments []segmentView       `json:"segments"`
}

// add adds a segment to the newest of several parts.
func (p *partsView) add(s segmentView) {
	if len(p.Segments) == 0 || s.Position < p.Position {
		p.Position = s.Position
	}
	p.Lag = max(p.Lag, s.Lag)
	p.Segments = append(p.Segments, s)
}

// finish adds the rates, and leaves out segments beyond the bound.
func finish(list []partsView, r *rates) (leftOut int) {
	shown := 0
	for i := range list {
		p := &list[i]
		p.Rate = r.of(place{p.Name, p.Build, ""}, p.Position)
		shown += len(p.Segments)
		if over := shown - mostSegments; over > 0 {
			keep := max(0, len(p.Segments)-over)
			leftOut += len(p.Segments) - keep
			p.Segments, shown = p.Segments[:keep], mostSegments
		}
	}
	return leftOut
}

type memoryView struct {
	Name     string              `json:"name"`
	Member   string              `json:"member"`
	Position eventstore.Position `json:"position"`
	State    string              `json:"state"`
}

type outboxView struct {
	Name     string  `json:"name"`
	Commands int     `json:"commands"`
	Oldest   float64 `json:"oldest"` // seconds
	Held     int     `json:"held"`   // at most mostWaiting
	Rejected uint64  `json:"rejected"`
}

type processorsView struct {
	Builds   []partsView  `json:"builds"`
	LeftOut  int          `json:"left_out,omitempty"` // segments
	Memories []memoryView `json:"memories"`
	Outboxes []outboxView `json:"outboxes"`
	Silent   []string     `json:"silent"` // members that did not say what they work on
}

func (n *node) viewProcessors(ctx context.Context, r *rates) (v processorsView, err error) {
	v = processorsView{Builds: []partsView{}, Memories: []memoryView{}, Outboxes: []outboxView{}, Silent: []string{}}
	o, err := OperateProcessors(n.store, n.cfg.Catalog)
	if err != nil {
		return v, err
	}
	states, err := o.Segments(ctx)
	if err != nil {
		return v, err
	}
	outboxes, err := o.Outboxes(ctx, mostWaiting)
	if err != nil {
		return v, err
	}
	for _, o := range outboxes {
		v.Outboxes = append(v.Outboxes, outboxView{o.Process, o.Commands, o.Oldest.Seconds(), len(o.Held), o.Rejected})
	}
	segments := OwnedSegments(states)
	for _, m := range n.membersWork(ctx) {
		if m.Projections == nil {
			v.Silent = append(v.Silent, m.ID)
			continue
		}
		AddOwner(segments, m.ID, *m.Projections)
		for _, one := range m.Projections.Memories {
			v.Memories = append(v.Memories, memoryView{one.Projection, m.ID, one.Position, one.State()})
		}
	}
	kinds := o.Kinds()
	r.begin()
	for _, s := range segments {
		if last := len(v.Builds) - 1; last < 0 || v.Builds[last].Build != s.Build {
			v.Builds = append(v.Builds, partsView{Name: s.Projection, Kind: kinds[s.Projection], Build: s.Build, Own: s.Own, Paused: s.Paused, State: s.State})
		}
		b := &v.Builds[len(v.Builds)-1]
		b.Blocked += s.Blocked
		if s.Stops() && !b.Stopped {
			b.Stopped, b.State = true, s.Describe()
		}
		name := strconv.Itoa(s.Segment)
		b.add(segmentView{name, strings.Join(s.Owners, ", "), s.Position, s.Lag, r.of(place{s.Projection, s.Build, name}, s.Position), s.Describe()})
	}
	for i := range v.Builds {
		if b := &v.Builds[i]; b.Paused && !b.Stopped {
			b.State += ", paused"
		}
	}
	v.LeftOut = finish(v.Builds, r)
	return v, nil
}

// waitingView is a sequence, a command or a wake-up that waits for an operator.
type waitingView struct {
	Kind  string `json:"kind"` // projection, …, command, or consumer group
	Of    string `json:"of"`
	Build int64  `json:"build,omitempty"`
	// Key is what operators name it by: the key of a row, a sequence, or the target of
	// a command. It is "" for viewers if the application may have made it of data.
	Key string `json:"key"`
	// Stream and Event are those of the event at the position, "" if not looked up.
	Stream   string              `json:"stream,omitempty"`
	Event    string              `json:"event,omitempty"`
	Position eventstore.Position `json:"position"`
	Tries    int                 `json:"tries,omitempty"`
	Since    time.Time           `json:"since,omitzero"`
	Retried  bool                `json:"retried,omitempty"`
	Error    string              `json:"error"`
}

type blockedView struct {
	List []waitingView `json:"list"`
	// More reports that more wait than are listed.
	More bool `json:"more,omitempty"`
}

func (n *node) viewBlocked(ctx context.Context, events *lookups) (whole, masked any, err error) {
	o, err := OperateProcessors(n.store, n.cfg.Catalog)
	if err != nil {
		return nil, nil, err
	}
	rows, err := o.Blocked(ctx, mostWaiting+1)
	if err != nil {
		return nil, nil, err
	}
	outboxes, err := o.Outboxes(ctx, mostWaiting+1)
	if err != nil {
		return nil, nil, err
	}
	parked, err := OperateGroups(n.store).Parked(ctx, mostWaiting+1)
	if err != nil {
		return nil, nil, err
	}
	v, kinds := blockedView{List: []waitingView{}}, o.Kinds()
	cut := func(n int) int {
		v.More = v.More || n > mostWaiting
		return min(n, mostWaiting)
	}
	for _, b := range rows[:cut(len(rows))] {
		v.List = append(v.List, waitingView{
			Kind: kinds[b.Projection], Of: b.Projection, Build: b.Build, Key: b.Key, Position: b.Position, Tries: b.Attempts, Since: b.Since, Error: b.Error,
		})
	}
	for _, o := range outboxes {
		for _, h := range o.Held[:cut(len(o.Held))] {
			v.List = append(v.List, waitingView{
				Kind: "command", Of: o.Process, Key: h.Target, Position: h.Position, Tries: h.Attempts, Error: h.Command + ": " + h.Error,
			})
		}
	}
	for _, p := range parked[:cut(len(parked))] {
		v.List = append(v.List, waitingView{
			Kind: "consumer group", Of: p.Group, Key: p.Sequence, Position: p.Position, Since: p.Since, Retried: p.Retried, Error: p.Reason,
		})
	}
	if err := events.add(ctx, v.List); err != nil {
		return nil, nil, err
	}
	m := blockedView{List: slices.Clone(v.List), More: v.More}
	for i := range m.List {
		m.List[i].mask()
	}
	return v, m, nil
}

// mask removes what may be data: the error, and a key that the application has made.
func (w *waitingView) mask() {
	w.Error = ""
	stream, _ := eventstore.ParseStreamID(w.Stream)
	if w.Build != 0 && (w.Stream == "" || w.Key != stream.ID && w.Key != "~"+w.Stream) {
		w.Key = ""
	}
}

// lookups knows the events at which sequences wait.
type lookups struct {
	log   eventstore.Store
	logID string
	known map[eventstore.Position][2]string // stream and event
}

// add adds the events to a list. It reads at most mostLookups; the next call continues.
func (l *lookups) add(ctx context.Context, list []waitingView) error {
	before := l.known
	if l.logID != l.log.LogID() {
		before, l.logID = nil, l.log.LogID()
	}
	l.known = map[eventstore.Position][2]string{}
	reads := 0
	for i := range list {
		w := &list[i]
		found, ok := before[w.Position]
		if !ok {
			found, ok = l.known[w.Position]
		}
		if !ok && reads < mostLookups && w.Position > 0 {
			reads++
			commits, err := l.log.Read(ctx, w.Position-1, 1)
			if err != nil {
				return err
			}
			for _, c := range commits {
				if first := c.First(); w.Position >= first && w.Position <= c.Position {
					found = [2]string{c.Stream.String(), c.Events[w.Position-first].Type}
				}
			}
			ok = true
		}
		if ok {
			l.known[w.Position] = found
			w.Stream, w.Event = found[0], found[1]
		}
	}
	return nil
}

type groupsView struct {
	Groups  []partsView `json:"groups"`
	LeftOut int         `json:"left_out,omitempty"` // segments
}

func (n *node) viewGroups(ctx context.Context, r *rates) (v groupsView, err error) {
	v.Groups = []partsView{}
	segments, err := OperateGroups(n.store).Segments(ctx)
	if err != nil {
		return v, err
	}
	r.begin()
	members := map[string]bool{} // of the last group
	for _, s := range segments {
		if last := len(v.Groups) - 1; last < 0 || v.Groups[last].Name != s.Group {
			clear(members)
			v.Groups = append(v.Groups, partsView{Name: s.Group, Blocked: s.Parked, State: "no member"})
		}
		g := &v.Groups[len(v.Groups)-1]
		owner := s.Member
		if owner != "" {
			members[owner] = true
			owner += " at " + s.Gateway
		}
		if g.Members = len(members); g.Members > 0 && g.State == "no member" {
			g.State = "consumed"
		}
		if s.Stopped != "" {
			g.Paused, g.State = s.Stopped == "paused", s.State()
			g.Stopped = !g.Paused
		}
		g.add(segmentView{s.Segment, owner, s.Position, s.Lag, r.of(place{s.Group, 0, s.Segment}, s.Position), s.State()})
	}
	v.LeftOut = finish(v.Groups, r)
	return v, nil
}

type wakeView struct {
	Aggregate string             `json:"aggregate"`
	Version   eventstore.Version `json:"version"`
	Due       time.Time          `json:"due,omitzero"` // missing for a refused one
	In        float64            `json:"in,omitempty"` // seconds until then; negative if it is late
	Refused   bool               `json:"refused,omitempty"`
	Error     string             `json:"error,omitempty"` // why it was refused
}

type scheduleView struct {
	engine.ScheduleState
	In float64 `json:"in,omitempty"` // seconds until Next; negative if it is late
}

type wakesView struct {
	// Kinds are the types of aggregates with wake-ups.
	Kinds     []string       `json:"kinds"`
	Paused    bool           `json:"paused"`
	Wakes     []wakeView     `json:"wakes"`
	More      bool           `json:"more,omitempty"` // than are listed
	Schedules []scheduleView `json:"schedules"`
}

func (n *node) viewWakes(ctx context.Context) (whole, masked any, err error) {
	v := wakesView{Kinds: []string{}, Wakes: []wakeView{}, Schedules: []scheduleView{}}
	for _, d := range n.cfg.Catalog.Types() {
		if d.HasWake() {
			v.Kinds = append(v.Kinds, d.Name())
		}
	}
	found, paused, err := OperateWakes(n.store).List(ctx, "", mostWakes+1)
	if err != nil {
		return nil, nil, err
	}
	now := n.cfg.Now().Add(-time.Duration(n.clockAhead.Load())) // by the database's clock
	v.Paused, v.More = paused, len(found) > mostWakes
	for _, w := range found[:min(len(found), mostWakes)] {
		one := wakeView{Aggregate: w.Aggregate, Version: w.Version, Due: w.Due, Refused: w.Due.IsZero(), Error: w.Refused}
		if !one.Refused {
			one.In = w.Due.Sub(now).Seconds()
		}
		v.Wakes = append(v.Wakes, one)
	}
	o, err := OperateProcessors(n.store, n.cfg.Catalog)
	if err != nil {
		return nil, nil, err
	}
	schedules, err := o.Schedules(ctx, now)
	if err != nil {
		return nil, nil, err
	}
	for _, s := range schedules {
		one := scheduleView{ScheduleState: s}
		if !s.Next.IsZero() {
			one.In = s.Next.Sub(now).Seconds()
		}
		v.Schedules = append(v.Schedules, one)
	}
	m := v
	m.Wakes = slices.Clone(v.Wakes)
	for i := range m.Wakes {
		m.Wakes[i].Error = ""
	}
	return v, m, nil
}

// membersWork returns all members with what they work on for projections and relays.
func (n *node) membersWork(ctx context.Context) []MemberStatus {
	var members []MemberStatus
	for _, m := range n.cluster.View().Members {
		members = append(members, MemberStatus{ID: m.ID})
	}
	n.addWork(ctx, members)
	return members
}

// relayView is a relay to a broker.
type relayView struct {
	Name     string              `json:"name"`
	Owner    string              `json:"owner"`
	Position eventstore.Position `json:"position"`
	Lag      uint64              `json:"lag"`
	Rate     *float64            `json:"rate,omitempty"`
	State    string              `json:"state"`
	Paused   bool                `json:"paused,omitempty"`
	Stopped  bool                `json:"stopped,omitempty"` // it needs an operator
	// Blocked is the position of the event that the broker does not take, and Problem why
	// it does not, or what the owner waits for.
	Blocked eventstore.Position `json:"blocked,omitempty"`
	Problem string              `json:"problem,omitempty"`
}

// intakeView is an intake on a member.
type intakeView struct {
	Name   string    `json:"name"`
	Member string    `json:"member"`
	State  string    `json:"state"`
	Since  time.Time `json:"since"`
	// Queue and Problem are those of operator.Intake, "" for viewers.
	Queue      string `json:"queue"`
	Problem    string `json:"problem,omitempty"`
	Unfinished int    `json:"unfinished"`
	Executed   uint64 `json:"executed"`
	Rejected   uint64 `json:"rejected"`
	Conflicts  uint64 `json:"conflicts"`
	Dead       uint64 `json:"dead"`
}

type relaysView struct {
	Relays  []relayView  `json:"relays"`
	Intakes []intakeView `json:"intakes"`
	Silent  []string     `json:"silent"` // members that did not say what they work on
}

func (n *node) viewRelays(ctx context.Context, r *rates) (whole, masked any, err error) {
	states, err := OperateRelays(n.store).List(ctx)
	if err != nil {
		return nil, nil, err
	}
	list := make([]OwnedRelay, len(states))
	for i, s := range states {
		list[i] = OwnedRelay{RelayState: s}
	}
	v := relaysView{Relays: []relayView{}, Intakes: []intakeView{}, Silent: []string{}}
	for _, m := range n.membersWork(ctx) {
		if m.Projections == nil {
			v.Silent = append(v.Silent, m.ID)
			continue
		}
		AddRelayOwner(list, m.ID, *m.Projections)
		for _, in := range m.Projections.Intakes {
			v.Intakes = append(v.Intakes, intakeView{
				Name: in.Intake, Member: m.ID, State: in.State, Since: in.Since, Queue: in.Queue, Problem: in.Problem, Unfinished: in.Unfinished,
				Executed: in.Commands["result"], Rejected: in.Commands["rejected"], Conflicts: in.Commands["conflict"], Dead: in.Commands["dead_letter"],
			})
		}
	}
	r.begin()
	for _, s := range list {
		one := relayView{
			Name: s.Relay, Owner: strings.Join(s.Owners, ", "), Position: s.Position, Lag: s.Lag, Rate: r.of(place{of: s.Relay}, s.Position),
			State: "active", Paused: s.Paused, Stopped: s.OtherLog || s.Blocked > 0, Blocked: s.Blocked, Problem: s.Problem,
		}
		switch {
		case s.OtherLog:
			one.State = "stopped: other log"
		case s.Blocked > 0:
			one.State = "stopped"
		case s.Paused:
			one.State = "paused"
		default:
			for _, owner := range s.Owners {
				if why := s.Waits[owner]; why != "" {
					one.State, one.Problem = "waiting", why
				}
			}
		}
		v.Relays = append(v.Relays, one)
	}
	m := relaysView{Relays: slices.Clone(v.Relays), Intakes: slices.Clone(v.Intakes), Silent: v.Silent}
	for i := range m.Relays {
		m.Relays[i].Problem = ""
	}
	for i := range m.Intakes {
		m.Intakes[i].Queue, m.Intakes[i].Problem = "", ""
	}
	return v, m, nil
}
