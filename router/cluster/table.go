package cluster

import (
	"bytes"
	"cmp"
	"context"
	"encoding/hex"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

const (
	// nonceBytes is the number of random bytes that make the gossip name of each run
	// unique. If a restarted node came back at another address under its old name,
	// memberlist would hide it for up to 39 s.
	nonceBytes = 8

	// rivalAfter is the time for which gossip may show an older run of this node's
	// id that is dead. After that time the run must be alive.
	rivalAfter = 10 * time.Second

	// lostFor and lostMost bound the memory of vanished members.
	lostFor  = time.Hour
	lostMost = 64
)

// heard is the newest gossip about a node.
type heard struct {
	gone bool
	addr netip.AddrPort
	meta []byte
}

// inbox collects gossip from memberlist's callbacks. The callbacks run under
// memberlist's lock, where most calls would deadlock or race, so they only copy.
// The inbox keeps the newest item of each node.
type inbox struct {
	wake chan struct{} // capacity 1

	mu    sync.Mutex
	nodes map[string]heard
}

// NotifyJoin implements memberlist.EventDelegate.
func (b *inbox) NotifyJoin(n *memberlist.Node) { b.put(n, false) }

// NotifyUpdate implements memberlist.EventDelegate.
func (b *inbox) NotifyUpdate(n *memberlist.Node) { b.put(n, false) }

// NotifyLeave implements memberlist.EventDelegate.
func (b *inbox) NotifyLeave(n *memberlist.Node) { b.put(n, true) }

func (b *inbox) put(n *memberlist.Node, gone bool) {
	ip, _ := netip.AddrFromSlice(n.Addr)
	h := heard{gone: gone, addr: netip.AddrPortFrom(ip.Unmap(), n.Port), meta: bytes.Clone(n.Meta)}
	b.mu.Lock()
	b.nodes[n.Name] = h
	b.mu.Unlock()
	poke(b.wake)
}

func (b *inbox) take() map[string]heard {
	b.mu.Lock()
	defer b.mu.Unlock()
	got := b.nodes
	b.nodes = make(map[string]heard)
	return got
}

// table is the result of all gossip so far. One goroutine at a time uses it.
type table struct {
	name string // of this run
	id   string
	log  *slog.Logger

	nodes  map[string]node // live nodes by gossip name
	rivals map[string]*rival
	lost   map[string]lost // by id
}

// lost is a vanished member and its gossip address.
type lost struct {
	Lost
	addr netip.AddrPort
}

// node is a live node. member is zero if its metadata is invalid.
type node struct {
	addr   netip.AddrPort
	member Member
}

// rival is another live run with this node's id.
type rival struct {
	since  time.Time
	newer  bool
	logged bool
}

func newTable(name, id string, log *slog.Logger) table {
	return table{
		name:   name,
		id:     id,
		log:    log,
		nodes:  make(map[string]node),
		rivals: make(map[string]*rival),
		lost:   make(map[string]lost),
	}
}

// fold processes gossip and returns the new state of knowledge.
func (t *table) fold(news map[string]heard, now time.Time) *sight {
	for _, name := range slices.Sorted(maps.Keys(news)) {
		t.learn(name, news[name], now)
	}
	best := make(map[string]string, len(t.nodes)) // id to gossip name
	alive := make(map[netip.AddrPort]bool, len(t.nodes))
	for name, n := range t.nodes {
		alive[n.addr] = true
		if n.member.ID == "" {
			continue
		}
		if other, ok := best[n.member.ID]; !ok || t.newer(name, other) {
			best[n.member.ID] = name
		}
	}
	v := &View{Members: make([]Member, 0, len(best))}
	for _, name := range best {
		v.Members = append(v.Members, t.nodes[name].member)
	}
	sort.Slice(v.Members, func(i, j int) bool { return v.Members[i].ID < v.Members[j].ID })
	s := &sight{view: v, alive: alive}
	for _, id := range slices.Sorted(maps.Keys(t.lost)) {
		one := t.lost[id]
		if _, back := best[id]; back || now.Sub(one.At) > lostFor {
			delete(t.lost, id)
			continue
		}
		s.lost = append(s.lost, one.Lost)
		if !alive[one.addr] { // another node may have its address now
			s.seek = append(s.seek, one.addr)
		}
	}
	return s
}

// lose remembers a vanished member.
func (t *table) lose(n node, now time.Time) {
	for len(t.lost) >= lostMost {
		delete(t.lost, slices.MinFunc(slices.Collect(maps.Keys(t.lost)), func(a, b string) int { return t.lost[a].At.Compare(t.lost[b].At) }))
	}
	t.lost[n.member.ID] = lost{Lost{n.member, now}, n.addr}
}

// newer reports whether run a of an id is newer than run b.
func (t *table) newer(a, b string) bool {
	return cmp.Or(cmp.Compare(t.nodes[a].member.Boot, t.nodes[b].member.Boot), strings.Compare(a, b)) > 0
}

func (t *table) learn(name string, h heard, now time.Time) {
	old, known := t.nodes[name]
	if h.gone {
		delete(t.nodes, name)
		if r := t.rivals[name]; r != nil && r.logged {
			t.log.Info("the other node with this node's name is gone", "member", t.id, "other_address", old.addr, "other_boot", bootTime(old.member))
		}
		delete(t.rivals, name)
		if known && name != t.name && old.member.ID != "" && !t.isAlive(old.member.ID) {
			last := old.member // replaced if the item has newer metadata
			if m, err := decodeMeta(h.meta); err == nil {
				last = m
			}
			left := last.State == Draining
			level := slog.LevelInfo
			if !left {
				level = slog.LevelWarn
				t.lose(old, now)
			}
			t.log.Log(context.Background(), level, "member gone", "member", old.member.ID, "address", old.addr, "left", left)
		}
		return
	}
	m, err := decodeMeta(h.meta)
	if err == nil {
		err = checkName(name, m.ID)
	}
	if err != nil {
		if !known || old.member.ID != "" {
			t.log.Warn("a node in gossip is left out of the view", "name", name, "address", h.addr, "err", err)
		}
		m = Member{}
	}
	t.nodes[name] = node{addr: h.addr, member: m}
	if !known && m.ID != "" && name != t.name {
		t.log.Info("member joined", "member", m.ID, "address", h.addr, "state", m.State)
	}
	if m.ClockMS != old.member.ClockMS && m.ID != "" && name != t.name {
		ahead := time.Duration(m.ClockMS) * time.Millisecond
		if m.ClockMS != 0 {
			t.log.Warn("a member's clock differs from the database's", "member", m.ID, "address", h.addr, "ahead", ahead)
		} else if known {
			t.log.Info("a member's clock agrees with the database's again", "member", m.ID, "address", h.addr)
		}
	}
	if m.ID == t.id && name != t.name && t.rivals[name] == nil {
		t.rivals[name] = &rival{since: now, newer: t.newer(name, t.name)}
		t.check(now)
	}
}

// isAlive reports whether a node with this id is alive.
func (t *table) isAlive(id string) bool {
	for _, n := range t.nodes {
		if n.member.ID == id {
			return true
		}
	}
	return false
}

// checkName returns an error if a gossip name does not belong to an id.
func checkName(name, id string) error {
	nonce, ok := strings.CutPrefix(name, id+".")
	if b, err := hex.DecodeString(nonce); !ok || err != nil || len(b) != nonceBytes {
		return fmt.Errorf("its name does not belong to the id %q", id)
	}
	return nil
}

// check logs, once, that another live node has this node's id. A newer run proves
// that, since this run is alive. An older run may be this node's previous one,
// whose death gossip has not noticed yet. A draining node logs nothing, since the
// newer run may be its replacement.
func (t *table) check(now time.Time) {
	if t.nodes[t.name].member.State == Draining {
		return
	}
	for name, r := range t.rivals {
		if r.logged || !r.newer && now.Sub(r.since) < rivalAfter {
			continue
		}
		r.logged = true
		counts := "this node, which was started later, counts"
		if r.newer {
			counts = "that one was started later and counts, this one is ignored"
		}
		other, self := t.nodes[name], t.nodes[t.name]
		t.log.Error("two nodes have the same name: stop one, or give it another name; meanwhile "+counts, "member", t.id,
			"other_address", other.addr, "other_boot", bootTime(other.member), "other_http", other.member.HTTPAddr, "other_peer", other.member.PeerAddr,
			"address", self.addr, "boot", bootTime(self.member))
	}
}

// bootTime returns the start time that a member announces.
func bootTime(m Member) string { return time.Unix(0, int64(m.Boot)).UTC().Format(time.RFC3339Nano) }

// equal reports whether two views have the same members.
func (v *View) equal(o *View) bool { return slices.Equal(v.Members, o.Members) }
