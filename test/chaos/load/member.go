package load

import (
	"context"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/test/chaos/check"
	"github.com/ganglion-es/ganglion/test/harness"
)

const (
	// groupWindow bounds the events of a segment that a member has not acknowledged, and
	// frames, with room for more than all windows together, the ones that it has not handled.
	groupWindow, frames = 20, 10_000
	// slowest is the longest time for which a member handles an event: less than
	// check.AckWithin, and more than the 2 s after which a gateway without peers loses its
	// members. One event of slowOne is slow.
	slowest = 3500 * time.Millisecond
	slowOne = 300
	// unsettled is how long the cluster may take after a fault until what it hit counts
	// as alive again.
	unsettled = 3 * time.Second
	// Apart is the same after a cut, for all nodes: a node that was alone tries its seeds
	// every 5 s, and coordinates groups until then.
	Apart = 8 * time.Second
)

// consumers are the members of the group, and what they have observed.
type consumers struct {
	members []*member

	mu      sync.Mutex
	tenures []*check.Tenure
	late    []check.Late
	hits    map[string][]check.Span
	acked   map[uint64]bool // positions that a member has acknowledged
}

// hit notes the time of a fault that has ended.
func (g *consumers) hit(name string, begin, end int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.hits[name] = append(g.hits[name], check.Span{Begin: begin, End: end})
}

// member is a member of the group: a program of its own, as far as the cluster can see.
type member struct {
	load   *Load
	name   string
	random *rand.Rand
	dialer net.Dialer
	gate   gate

	mu   sync.Mutex
	kill context.CancelFunc // ends the present life
	dead chan struct{}      // closed when the member may live again
}

func newMember(l *Load, i int, m Member) *member {
	one := &member{load: l, name: m.Name, random: rand.New(rand.NewPCG(l.cfg.Seed, uint64(5000+i))), dead: closed}
	one.gate.opened = sync.NewCond(&one.gate.mu)
	if m.Addr != "" {
		one.dialer.LocalAddr = &net.TCPAddr{IP: net.ParseIP(m.Addr)}
	}
	return one
}

var closed = func() chan struct{} { c := make(chan struct{}); close(c); return c }()

// gate stops a member: while it is shut, the member reads, writes and handles nothing.
type gate struct {
	mu     sync.Mutex
	opened *sync.Cond
	isShut bool
}

func (g *gate) set(isShut bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.isShut = isShut
	g.opened.Broadcast()
}

func (g *gate) pass() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for g.isShut {
		g.opened.Wait()
	}
}

// gated is a connection of a member. As with a process that is stopped, the kernel
// continues to acknowledge what arrives.
type gated struct {
	net.Conn
	gate *gate
}

func (c gated) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.gate.pass()
	return n, err
}

func (c gated) Write(b []byte) (int, error) {
	c.gate.pass()
	return c.Conn.Write(b)
}

// Kill ends a member with all that it knows, and starts it again after a time.
func (l *Load) Kill(ctx context.Context, name string, d time.Duration) {
	m := l.member(name)
	m.mu.Lock()
	m.dead = make(chan struct{})
	if m.kill != nil {
		m.kill()
	}
	m.mu.Unlock()
	pause(ctx, d)
	m.mu.Lock()
	close(m.dead)
	m.mu.Unlock()
}

// Freeze stops a member for a time.
func (l *Load) Freeze(ctx context.Context, name string, d time.Duration) {
	m, begin := l.member(name), l.Now()
	m.gate.set(true)
	pause(ctx, d)
	l.Hit(name, begin)
	m.gate.set(false)
}

// Hit notes that a fault hits a gateway or a member since a time. Call it before the
// fault ends.
func (l *Load) Hit(name string, begin int64) { l.HitFor(name, begin, unsettled) }

// HitFor is Hit for a fault after which more time passes until its end has no effect.
func (l *Load) HitFor(name string, begin int64, more time.Duration) {
	l.consumers.hit(name, begin, l.Now()+int64(more))
}

func (l *Load) member(name string) *member {
	for _, m := range l.consumers.members {
		if m.name == name {
			return m
		}
	}
	panic("no member " + name)
}

// run lives until all ends.
func (m *member) run(all context.Context) {
	for at := m.random.IntN(len(m.load.cfg.Gateways)); all.Err() == nil; at++ {
		m.mu.Lock()
		dead := m.dead
		life, kill := context.WithCancel(all)
		m.kill = kill
		m.mu.Unlock()
		select {
		case <-dead:
			err := m.once(life, m.load.cfg.Gateways[at%len(m.load.cfg.Gateways)])
			if err != nil && life.Err() == nil {
				m.load.record(nil, "member: "+err.Error())
			}
		case <-all.Done():
		}
		kill()
		pause(all, 10*time.Millisecond)
	}
}

// once is a member through one gateway.
func (m *member) once(ctx context.Context, to Gateway) error {
	through := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := m.dialer.DialContext(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return gated{conn, &m.gate}, nil
	}}}
	attempt, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	s, err := harness.DialThrough(attempt, through, to.URL, m.name, nil)
	if err != nil {
		return errLost
	}
	defer s.Close()
	c := &consuming{
		member: m, group: &m.load.consumers, gateway: to.Name, session: s, frames: make(chan harness.Frame, frames), over: make(chan harness.Frame, 1),
		has: map[int]*check.Tenure{}, late: map[place]int64{},
	}
	defer c.end()
	answer, err := s.Consume(attempt, sub, check.GroupName, m.name, groupWindow, c.receive)
	switch {
	case err != nil:
		return errLost
	case answer.Op != "consuming":
		return refusal{answer}
	}
	ctx, stop := context.WithCancel(ctx)
	var handling sync.WaitGroup
	random := rand.New(rand.NewPCG(m.random.Uint64(), 1))
	handling.Go(func() { c.handle(ctx, random) })
	defer handling.Wait()
	defer stop()
	return c.stay(ctx)
}

// sub is the id of a member's consume.
const sub = "g"

// place is a segment under an epoch.
type place struct {
	segment int
	epoch   uint64
}

// consuming is a session of a member.
type consuming struct {
	*member
	group   *consumers
	gateway string
	session *harness.Session
	frames  chan harness.Frame // not yet handled
	over    chan harness.Frame // gets unsubscribed; capacity 1

	// Guarded by consumers.mu.
	has    map[int]*check.Tenure // by segment
	late   map[place]int64       // when an acknowledgement that must be refused was sent
	isOver bool                  // the member has left, and ignores what still arrives
}

// stay pings the gateway until it is time to move to another one, the membership has
// ended, or the gateway is lost. A member that was stopped gives the gateway some more
// time, in which it acknowledges what it has.
func (c *consuming) stay(ctx context.Context) error {
	move := time.NewTimer(minStay + time.Duration(c.random.Int64N(int64(maxStay-minStay))))
	defer move.Stop()
	for {
		c.gate.pass()
		pong, err := c.session.Start(ctx, map[string]any{"op": "ping"})
		if err != nil {
			return errLost
		}
		for range 2 {
			c.gate.pass()
			wait := time.After(pingEvery)
			select {
			case <-ctx.Done():
				return nil
			case <-move.C:
				return nil
			case f := <-c.over:
				return refusal{f}
			case <-c.session.Done():
				return errLost
			case <-wait:
			}
		}
		select {
		case <-pong:
		default:
			return errSilent
		}
	}
}

// receive notes a frame, on the reader of the session.
func (c *consuming) receive(f harness.Frame) {
	g := c.group
	g.mu.Lock()
	defer g.mu.Unlock()
	if c.isOver {
		return
	}
	now := c.load.Now()
	segment, err := strconv.Atoi(f.Segment)
	if err != nil {
		segment = -1 // such as a heartbeat
	}
	at := place{segment, f.Epoch}
	t := c.has[segment]
	switch f.Op {
	case "assigned":
		cursor, _ := strconv.ParseUint(f.Cursor, 10, 64)
		t = &check.Tenure{Member: c.name, Gateway: c.gateway, Segment: segment, Epoch: f.Epoch, Cursor: cursor, Span: check.Span{Begin: now, End: check.Never}}
		c.has[segment], g.tenures = t, append(g.tenures, t)
	case "event":
		if t == nil {
			t = &check.Tenure{Member: c.name, Gateway: c.gateway, Segment: segment, Span: check.Span{Begin: now, End: check.Never}} // without assigned; the checker finds it
			c.has[segment], g.tenures = t, append(g.tenures, t)
		}
		t.Got = append(t.Got, check.Got{At: now, Position: f.Position, Version: f.Version, Stream: f.Stream})
	case "revoked":
		if _, isLate := c.late[at]; isLate {
			delete(c.late, at)
			g.late = append(g.late, check.Late{Member: c.name, Segment: segment, Epoch: f.Epoch, Reply: f.Op})
		} else if t != nil && t.Epoch == f.Epoch {
			t.End = now
			delete(c.has, segment)
		}
	case "goodbye": // the gateway gives up its members
		g.hits[c.name] = append(g.hits[c.name], check.Span{Begin: now, End: now + int64(unsettled)})
		select {
		case c.over <- f:
		default:
		}
	case "unsubscribed":
		for segment, t := range c.has {
			t.End = now
			delete(c.has, segment)
		}
		select {
		case c.over <- f:
		default:
		}
	}
	c.unanswered(now)
	if f.Op == "event" || f.Op == "revoked" {
		f.Epoch = at.epoch
		if f.Op == "event" {
			f.Epoch = t.Epoch
		}
		select {
		case c.frames <- f:
		default: // more than the windows allow; the checker finds that it is not acknowledged
		}
	}
}

// unanswered notes late acknowledgements that got no reply in a time without faults, as
// a later frame shows. The caller holds consumers.mu.
func (c *consuming) unanswered(now int64) {
	for at, sent := range c.late {
		if now-sent < int64(lateWithin) {
			continue
		}
		delete(c.late, at)
		isHit := false
		for _, name := range []string{c.name, c.gateway} {
			for _, hit := range c.group.hits[name] {
				isHit = isHit || hit.End >= sent
			}
		}
		if !isHit {
			c.group.late = append(c.group.late, check.Late{Member: c.name, Segment: at.segment, Epoch: at.epoch, Reply: "nothing"})
		}
	}
}

// lateWithin is the time for the reply to a late acknowledgement.
const lateWithin = 5 * time.Second

// end ends all tenures. Call it before the session is closed, since other members may
// get the segments then.
func (c *consuming) end() {
	c.group.mu.Lock()
	defer c.group.mu.Unlock()
	c.isOver = true
	for _, t := range c.has {
		t.End = c.load.Now()
	}
	clear(c.has)
}

// handle handles frames until ctx ends. It acknowledges a third of the events, each
// with the events before it, and all of them when nothing is left to handle.
func (c *consuming) handle(ctx context.Context, random *rand.Rand) {
	done, got := map[place]uint64{}, map[place]uint64{}
	for {
		var f harness.Frame
		select {
		case f = <-c.frames:
		case <-ctx.Done():
			return
		}
		c.gate.pass()
		segment, _ := strconv.Atoi(f.Segment)
		at := place{segment, f.Epoch}
		if f.Op == "revoked" {
			if got[at] > done[at] {
				c.acknowledge(ctx, at, got[at])
			}
			delete(got, at)
			delete(done, at)
			continue
		}
		if random.IntN(slowOne) == 0 {
			pause(ctx, time.Duration(random.Int64N(int64(slowest))))
			c.gate.pass()
		}
		if got[at] = f.Position; len(c.frames) > 0 && random.IntN(3) > 0 {
			continue
		}
		for at, cursor := range got {
			if cursor > done[at] {
				c.acknowledge(ctx, at, cursor)
				done[at] = cursor
			}
		}
	}
}

// acknowledge acknowledges the events of a segment, also if its epoch is over.
func (c *consuming) acknowledge(ctx context.Context, at place, cursor uint64) {
	g := c.group
	g.mu.Lock()
	now := c.load.Now()
	if t := c.has[at.segment]; t != nil && t.Epoch == at.epoch {
		t.Acks = append(t.Acks, check.Ack{At: now, Cursor: cursor})
		for i := len(t.Got) - 1; i >= 0 && !g.acked[t.Got[i].Position]; i-- {
			if t.Got[i].Position <= cursor {
				g.acked[t.Got[i].Position] = true
			}
		}
	} else if _, sent := c.late[at]; !sent {
		c.late[at] = now
	}
	g.mu.Unlock()
	_ = c.session.Send(ctx, map[string]any{
		"op": "ack", "sub": sub, "segment": strconv.Itoa(at.segment), "epoch": at.epoch, "cursor": strconv.FormatUint(cursor, 10),
	}) // after an error, the session has ended
}

// await waits until the members have acknowledged every event of the log, or ctx ends.
func (g *consumers) await(ctx context.Context, log []eventstore.Commit) {
	for {
		g.mu.Lock()
		pending := check.Pending(log, g.acked)
		g.mu.Unlock()
		if pending == 0 || !pause(ctx, 100*time.Millisecond) {
			return
		}
	}
}

// observed returns what the members have observed.
func (g *consumers) observed() check.Group {
	g.mu.Lock()
	defer g.mu.Unlock()
	all := check.Group{Segments: check.GroupSegments, Late: g.late, Hits: g.hits, Complete: true}
	for _, t := range g.tenures {
		all.Tenures = append(all.Tenures, *t)
	}
	return all
}
