package load

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// An Order is what the benchmark wants of its clients next.
type Order struct {
	Do    string // open, saturate, pace, publish, resume, trickle or cut
	Group string // the sessions that it is about

	Sessions int      // open, resume: how many
	Topics   []string // session i is subscribed to the one at i modulo their number
	Slot     int      // open: which of a session's two subscriptions it is

	For    time.Duration // saturate, pace
	Window int           // saturate: events that are published and not yet delivered to all
	Burst  int           // saturate, publish: events that are published at once, to one topic
	Rate   int           // pace: events a second; trickle: bytes a second, of each session
	Events int           // publish: of each topic
	After  int           // resume: the version that is known

	Watch []int // processes whose processor time is wanted, and that of their children
}

// A Report is what came of an Order.
type Report struct {
	Error string

	Elapsed    time.Duration
	Events     int // published, or resumed by each session
	Deliveries int
	Bytes      int
	CPU        []time.Duration // of each watched process, while it was measured
	Own        time.Duration   // the load's own
	P50, P99   time.Duration   // from publishing to receipt
	Done       []time.Duration // resume: when each session had caught up, in order
	Furthest   uint64          // cut: the newest version that any of the sessions had seen
}

// patience bounds what takes too long to be measured.
const patience = 2 * time.Minute

// Run carries out orders, one JSON object a line, until there are no more. The
// sessions stay between them, and answer what the server wants to know.
func Run(dialect, server, publish string, in io.Reader, out io.Writer) error {
	d, ok := Dialects[dialect]
	if !ok {
		return fmt.Errorf("there is no dialect %q", dialect)
	}
	to, err := sockaddr(server)
	if err != nil {
		return err
	}
	l, err := newLoop(d, to)
	if err != nil {
		return err
	}
	w := &worker{loop: l, groups: map[string]*group{}, topics: map[string]*topic{}}
	if err := w.connectPublishers(publish); err != nil {
		return err
	}
	orders, failed := make(chan Order), make(chan error, 1)
	go func() { // ends with the input, which ends with the process
		defer close(orders)
		for lines := json.NewDecoder(in); ; {
			var o Order
			if err := lines.Decode(&o); err != nil {
				failed <- err
				return
			}
			orders <- o
		}
	}()
	answer := json.NewEncoder(out)
	var broken error // a session was lost between two orders
	for {
		select {
		case o, more := <-orders:
			if !more {
				if err := <-failed; !errors.Is(err, io.EOF) {
					return err
				}
				return nil
			}
			r, err := Report{}, broken
			if err == nil {
				r, err = w.do(o)
			}
			if err != nil {
				r.Error = fmt.Sprintf("%s %s: %v", o.Do, o.Group, err)
			}
			if err := answer.Encode(r); err != nil {
				return err
			}
		default:
			if broken == nil {
				broken = l.step(20 * time.Millisecond)
			} else {
				time.Sleep(20 * time.Millisecond)
			}
		}
	}
}

func sockaddr(hostport string) (unix.SockaddrInet4, error) {
	a, err := netip.ParseAddrPort(hostport)
	if err != nil {
		return unix.SockaddrInet4{}, err
	}
	return unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}, nil
}

// group is sessions that are measured together.
type group struct {
	name      string
	sessions  []*session
	topics    []*topic // of the slot that is measured
	raw       bool     // bare connections
	publishes bool

	subscribed int

	delivered, bytes int
	timing           bool
	latency          []time.Duration
	resuming         bool // a session that has seen all of its topic is done
	done             []time.Time

	trickles bool // its sessions read little and seldom, see openTrickle
}

// topic is a stream or a channel.
type topic struct {
	name      string
	published uint64
	first     uint64 // at[i] is when version first+1+i was published
	at        []time.Time
}

type worker struct {
	*loop
	groups     map[string]*group
	topics     map[string]*topic
	publishers []*publisher
	requests   uint64
	turn       int
}

// publisher is a connection on which events are published. Requests are
// gathered and sent together.
type publisher struct {
	*session
	batch []byte
	lines int
}

// Bounds of one publisher: less than a gateway's open requests and frame.
const (
	publishers   = 4
	openRequests = 200
	batchLines   = 100
)

func (w *worker) connectPublishers(addr string) error {
	to, err := sockaddr(addr)
	if err != nil {
		return err
	}
	raw := w.dialect.Answers == nil
	g := &group{name: "publishers", raw: raw, publishes: true}
	n := publishers
	if raw {
		n = 1
	}
	for i := range n {
		var s *session
		if raw {
			fd, err := dial(to, i, 0)
			if err != nil {
				return err
			}
			s = &session{loop: w.loop, fd: fd, group: g, index: i}
			err = w.add(s)
			if err != nil {
				return err
			}
		} else {
			clients := w.server
			w.server = to
			s, err = w.connect(g, i, w.dialect.Greeting(-1-i))
			w.server = clients
			if err != nil {
				return err
			}
			if err := w.until(func() bool { return s.open }); err != nil {
				return err
			}
		}
		w.publishers = append(w.publishers, &publisher{session: s})
	}
	return nil
}

// until reads until a condition holds.
func (w *worker) until(condition func() bool) error {
	for end := time.Now().Add(patience); !condition(); {
		if err := w.step(100 * time.Millisecond); err != nil {
			return err
		}
		if time.Now().After(end) {
			return fmt.Errorf("it took more than %v", patience)
		}
	}
	return nil
}

func (w *worker) topic(name string) *topic {
	t, ok := w.topics[name]
	if !ok {
		t = &topic{name: name}
		w.topics[name] = t
	}
	return t
}

// publish hands n events to a publisher, which sends them with flush. It
// returns false when all publishers wait for answers.
func (w *worker) publish(t *topic, n int) bool {
	for range w.publishers {
		p := w.publishers[w.turn%len(w.publishers)]
		if w.dialect.Answers != nil && p.answers >= openRequests || len(p.out) > 1<<20 {
			w.turn++
			continue
		}
		w.requests++
		if w.dialect.Answers != nil {
			if p.lines > 0 {
				p.batch = append(p.batch, '\n')
			}
			p.answers++
		}
		p.batch = w.dialect.Publish(p.batch, w.requests, t.name, n)
		p.lines++
		t.published += uint64(n)
		if p.lines >= batchLines {
			w.turn++
		}
		return true
	}
	return false
}

func (w *worker) flush() error {
	for _, p := range w.publishers {
		if p.lines == 0 {
			continue
		}
		b := p.batch
		if w.dialect.Answers != nil {
			b = appendText(nil, b)
		}
		if err := p.write(b); err != nil {
			return err
		}
		p.batch, p.lines = p.batch[:0], 0
	}
	return nil
}

// settle waits until what was published has been taken.
func (w *worker) settle() error {
	if err := w.flush(); err != nil {
		return err
	}
	if w.dialect.Answers == nil {
		for _, p := range w.publishers {
			p.answers++
			if err := p.write([]byte("sync\n")); err != nil {
				return err
			}
		}
	}
	return w.until(func() bool {
		return !slices.ContainsFunc(w.publishers, func(p *publisher) bool { return p.answers > 0 })
	})
}

func (w *worker) do(o Order) (Report, error) {
	switch o.Do {
	case "open":
		return w.openGroup(o)
	case "saturate":
		return w.saturate(o)
	case "pace":
		return w.pace(o)
	case "publish":
		return w.publishAll(o)
	case "resume":
		return w.resume(o)
	case "trickle":
		return w.openTrickle(o)
	case "cut":
		return w.cutGroup(o)
	}
	return Report{}, fmt.Errorf("unknown order %q", o.Do)
}

// openGroup opens sessions with their first subscription, or gives them the
// second one, and waits until all are subscribed. Only so many are under way
// at once: this is not what is measured.
func (w *worker) openGroup(o Order) (Report, error) {
	g, again := w.groups[o.Group]
	if !again {
		g = &group{name: o.Group}
		w.groups[o.Group] = g
	}
	g.subscribed = 0
	start := time.Now()
	for i := range o.Sessions {
		t := w.topic(o.Topics[i%len(o.Topics)])
		subscribe := w.dialect.Subscribe(o.Slot, t.name, false, 0)
		var s *session
		if again {
			s = g.sessions[i]
			if err := s.say(subscribe); err != nil {
				return Report{}, err
			}
		} else {
			var err error
			if s, err = w.connect(g, i, w.first(i, subscribe)...); err != nil {
				return Report{}, err
			}
			g.sessions = append(g.sessions, s)
		}
		s.waiting++
		s.slot = o.Slot
		s.seen[o.Slot] = t.published
		const underWay = 100
		if err := w.until(func() bool { return i-g.subscribed < underWay }); err != nil {
			return Report{}, err
		}
	}
	if err := w.until(func() bool { return g.subscribed == o.Sessions }); err != nil {
		return Report{}, fmt.Errorf("%d of %d are subscribed: %w", g.subscribed, o.Sessions, err)
	}
	return Report{Elapsed: time.Since(start)}, nil
}

// first is what a session says first.
func (w *worker) first(i int, subscribe string) []string {
	if w.dialect.Greeting == nil {
		return []string{subscribe}
	}
	return []string{w.dialect.Greeting(i), subscribe}
}

// meter measures what happens between two moments.
type meter struct {
	g                *group
	watch            []int
	start            time.Time
	delivered, bytes int
	cpu              []time.Duration
	own              time.Duration
}

func (w *worker) measure(g *group, watch []int) (*meter, error) {
	m := &meter{g: g, watch: watch, start: time.Now(), delivered: g.delivered, bytes: g.bytes}
	var err error
	if m.cpu, m.own, err = processorTimes(watch); err != nil {
		return nil, err
	}
	return m, nil
}

func (m *meter) report() (Report, error) {
	r := Report{Elapsed: time.Since(m.start), Deliveries: m.g.delivered - m.delivered, Bytes: m.g.bytes - m.bytes}
	cpu, own, err := processorTimes(m.watch)
	if err != nil {
		return r, err
	}
	for i := range cpu {
		r.CPU = append(r.CPU, cpu[i]-m.cpu[i])
	}
	r.Own = own - m.own
	return r, nil
}

func (w *worker) prepare(o Order) (*group, error) {
	g, ok := w.groups[o.Group]
	if !ok {
		return nil, errors.New("these sessions are not open")
	}
	g.topics = g.topics[:0]
	for _, name := range o.Topics {
		g.topics = append(g.topics, w.topic(name))
	}
	for _, s := range g.sessions {
		s.slot = o.Slot
	}
	g.delivered, g.latency = 0, g.latency[:0]
	return g, nil
}

// saturate publishes as fast as the sessions receive: so many events are
// always under way.
func (w *worker) saturate(o Order) (Report, error) {
	g, err := w.prepare(o)
	if err != nil {
		return Report{}, err
	}
	var (
		each      = len(g.sessions) / len(g.topics)
		published = 0
		next      = 0
		warm      = time.Now().Add(o.For / 4)
		end       = warm.Add(o.For)
		m         *meter
		before    int
	)
	for {
		for published-g.delivered/each < o.Window && w.publish(g.topics[next%len(g.topics)], o.Burst) {
			published += o.Burst
			next++
		}
		if err := w.flush(); err != nil {
			return Report{}, err
		}
		if err := w.step(100 * time.Millisecond); err != nil {
			return Report{}, err
		}
		if m == nil && w.now.After(warm) {
			before = published
			if m, err = w.measure(g, o.Watch); err != nil {
				return Report{}, err
			}
		}
		if w.now.After(end) && m != nil {
			break
		}
	}
	r, err := m.report()
	r.Events = published - before
	if err != nil {
		return r, err
	}
	return r, w.complete(g, published*each)
}

// complete waits for the rest, and makes sure that it was not more.
func (w *worker) complete(g *group, deliveries int) error {
	if err := w.settle(); err != nil {
		return err
	}
	if err := w.until(func() bool { return g.delivered >= deliveries }); err != nil {
		return fmt.Errorf("%d deliveries are missing, %s: %w", deliveries-g.delivered, g.behind(), err)
	}
	if g.delivered > deliveries {
		return fmt.Errorf("%d deliveries too many", g.delivered-deliveries)
	}
	return nil
}

// behind describes one session that has not seen all of its topic.
func (g *group) behind() string {
	for _, s := range g.sessions {
		if t := g.topics[s.index%len(g.topics)]; s.seen[s.slot] != t.published {
			return fmt.Sprintf("session %d has seen version %d of %d; of the message that it reads %d bytes are left, and not understood: %q",
				s.index, s.seen[s.slot], t.published, s.left, s.kept)
		}
	}
	return "none of a session that is behind"
}

// pace publishes at a fixed rate, and notes how long each delivery took from
// the moment when its event was due.
func (w *worker) pace(o Order) (Report, error) {
	g, err := w.prepare(o)
	if err != nil {
		return Report{}, err
	}
	for _, t := range g.topics {
		t.first, t.at = t.published, t.at[:0]
	}
	g.timing = true
	defer func() { g.timing = false }()
	m, err := w.measure(g, o.Watch)
	if err != nil {
		return Report{}, err
	}
	var (
		each     = len(g.sessions) / len(g.topics)
		interval = time.Second / time.Duration(o.Rate)
		events   = int(o.For / interval)
		start    = time.Now()
	)
	for n := 0; ; {
		for due := int(time.Since(start)/interval) + 1; n < min(due, events); n++ {
			t := g.topics[n%len(g.topics)]
			if !w.publish(t, 1) {
				break // it comes late, and that is counted
			}
			t.at = append(t.at, start.Add(time.Duration(n)*interval))
		}
		if err := w.flush(); err != nil {
			return Report{}, err
		}
		if n == events {
			break
		}
		if err := w.step(max(time.Until(start.Add(time.Duration(n)*interval)), time.Millisecond)); err != nil {
			return Report{}, err
		}
	}
	if err := w.complete(g, events*each); err != nil {
		return Report{}, err
	}
	r, err := m.report()
	r.Events = events
	slices.Sort(g.latency)
	if n := len(g.latency); n > 0 {
		r.P50, r.P99 = g.latency[n/2], g.latency[n*99/100]
	}
	if len(g.latency) != r.Deliveries {
		return r, fmt.Errorf("%d of %d deliveries were timed", len(g.latency), r.Deliveries)
	}
	return r, err
}

// publishAll publishes events that nobody is there for, to one topic after
// another.
func (w *worker) publishAll(o Order) (Report, error) {
	for n := 0; n < o.Events; n += o.Burst {
		for _, name := range o.Topics {
			for t := w.topic(name); !w.publish(t, o.Burst); {
				if err := w.flush(); err != nil {
					return Report{}, err
				}
				if err := w.step(100 * time.Millisecond); err != nil {
					return Report{}, err
				}
			}
		}
	}
	return Report{Events: o.Events}, w.settle()
}

// resume opens sessions all at once that know their topics up to a version,
// and takes the time until each has all of its topic.
func (w *worker) resume(o Order) (Report, error) {
	g := &group{name: o.Group, resuming: true}
	for _, name := range o.Topics {
		g.topics = append(g.topics, w.topic(name))
	}
	defer func() { w.cut(g.sessions) }()
	m, err := w.measure(g, o.Watch)
	if err != nil {
		return Report{}, err
	}
	missed := 0
	for i := range o.Sessions {
		t := g.topics[i%len(g.topics)]
		subscribe := w.dialect.Subscribe(0, t.name, true, uint64(o.After))
		s, err := w.connect(g, i, w.first(i, subscribe)...)
		if err != nil {
			return Report{}, err
		}
		s.seen[0] = uint64(o.After)
		g.sessions = append(g.sessions, s)
		missed += int(t.published) - o.After
		if i%1000 == 999 && i < o.Sessions-1 { // the first of very many don't wait for the last
			if err := w.step(0); err != nil {
				return Report{}, err
			}
		}
	}
	if err := w.until(func() bool { return len(g.done) == o.Sessions }); err != nil {
		return Report{}, fmt.Errorf("%d of %d sessions have caught up, with %d events in all: %w", len(g.done), o.Sessions, g.delivered, err)
	}
	r, err := m.report()
	if err != nil {
		return r, err
	}
	for _, at := range g.done {
		r.Done = append(r.Done, at.Sub(m.start))
	}
	r.Elapsed, r.Events = r.Done[len(r.Done)-1], missed/o.Sessions
	if g.delivered != missed {
		return r, fmt.Errorf("%d events were delivered, and %d were missed", g.delivered, missed)
	}
	return r, nil
}

// cutGroup ends a group's sessions without a word.
func (w *worker) cutGroup(o Order) (Report, error) {
	var r Report
	g, ok := w.groups[o.Group]
	if !ok {
		return r, errors.New("these sessions are not open")
	}
	for _, s := range g.sessions {
		r.Furthest = max(r.Furthest, s.seen[0])
	}
	w.cut(g.sessions)
	delete(w.groups, o.Group)
	return r, nil
}
