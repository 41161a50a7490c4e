// Package ring decides which member owns an aggregate.
//
// A Ring is an immutable value computed from the ids of the members that can
// own aggregates. Members that see the same cluster compute the same Ring, in
// whatever order they learned of it; Signature tells whether they do.
//
// Aggregates are hashed to 1021 partitions, and partitions are dealt out to
// members by consistent hashing with bounded loads: when a member comes or
// goes, hardly a partition moves that need not, and no member holds more than
// a quarter above its share.
//
// While membership changes, two members may disagree about an owner. That
// costs a retry and never an event: the event store accepts one writer per
// stream version, and the loser reloads.
package ring

import (
	"cmp"
	"encoding/binary"
	"slices"
	"sync"

	"github.com/buraksezer/consistent"
	"github.com/cespare/xxhash/v2"

	"github.com/ganglion-es/ganglion/eventstore"
)

const (
	// Partitions is the number of partitions. A prime, and large enough that
	// partitions of 30 members still move little and spread evenly.
	Partitions = 1021

	// replicas is how many points on the circle each member has. With 20,
	// several times as many partitions move as must.
	replicas = 100

	// load bounds a member's partitions to this multiple of the mean.
	load = 1.25

	// marker names what else makes a table: two rings whose markers differ
	// never have the same signature. It changes with the library's version,
	// whose points on the circle differ between releases, and with anything
	// in this package that changes an owner.
	marker = "ganglion ring 1: consistent 1.0.0, xxhash64, 1021 partitions, 100 replicas, load 1.25"
)

// Ring is a table of which member owns which partition. It is immutable and
// safe for concurrent use.
type Ring struct {
	members   []string // sorted, each once
	owners    []uint16 // by partition, an index into members; empty without members
	signature uint64
	without   []lazy // by index into members
}

// lazy is a Ring that is built when it is first asked for.
type lazy struct {
	once sync.Once
	ring *Ring
}

// New returns the ring of a set of members, which may be empty; order and
// repetitions make no difference. It takes about 0.25 ms for 3 members and
// 4 ms for 30 and 40 ms for 100, and does not keep the slice.
func New(members []string) *Ring {
	r := &Ring{members: slices.Compact(slices.Sorted(slices.Values(members)))}
	r.owners = deal(r.members)
	r.signature = sign(r.members, r.owners)
	r.without = make([]lazy, len(r.members))
	return r
}

// Owner returns the member that owns an aggregate. ok is false, and there is
// no owner, if the ring has no members.
func (r *Ring) Owner(s eventstore.StreamID) (id string, ok bool) {
	if len(r.owners) == 0 {
		return "", false
	}
	return r.members[r.owners[r.Partition(s)]], true
}

// Partition returns the partition that an aggregate is in, from 0 to
// Partitions-1. It is the same in every ring.
func (r *Ring) Partition(s eventstore.StreamID) int {
	// Most names fit into the array, so that a look-up allocates nothing.
	var name [96]byte
	b := append(name[:0], s.Type...)
	b = append(b, '/')
	b = append(b, s.ID...)
	return int(xxhash.Sum64(b) % Partitions)
}

// Without returns the ring of the other members: the very table that all
// nodes converge to once they have seen that the member is gone, and so the
// place to look for the next owner while they have not. The first call for a
// member builds it, later and concurrent ones share it. Without of one that
// is no member is the ring itself.
func (r *Ring) Without(member string) *Ring {
	i, ok := slices.BinarySearch(r.members, member)
	if !ok {
		return r
	}
	w := &r.without[i]
	w.once.Do(func() {
		w.ring = New(slices.Delete(slices.Clone(r.members), i, i+1))
	})
	return w.ring
}

// Signature identifies the table: rings with the same signature name the same
// owner for every aggregate. It is never 0.
func (r *Ring) Signature() uint64 { return r.signature }

// Members returns the members, sorted. The slice is the caller's own.
func (r *Ring) Members() []string { return slices.Clone(r.members) }

// Counts returns how many partitions each member owns.
func (r *Ring) Counts() map[string]int {
	counts := make(map[string]int, len(r.members))
	for _, m := range r.members {
		counts[m] = 0
	}
	for _, o := range r.owners {
		counts[r.members[o]]++
	}
	return counts
}

// Move is what one member hands over to another when one ring takes the place
// of another.
type Move struct {
	From       string `json:"from"` // empty: nobody owned them
	To         string `json:"to"`   // empty: nobody does any more
	Partitions int    `json:"partitions"`
}

// Moves returns what changes hands between two rings, sorted by From and To.
func Moves(from, to *Ring) []Move {
	counts := make(map[[2]string]int)
	for p := range Partitions {
		if a, b := from.owner(p), to.owner(p); a != b {
			counts[[2]string{a, b}]++
		}
	}
	var moves []Move
	for pair, n := range counts {
		moves = append(moves, Move{From: pair[0], To: pair[1], Partitions: n})
	}
	slices.SortFunc(moves, func(a, b Move) int {
		return cmp.Or(cmp.Compare(a.From, b.From), cmp.Compare(a.To, b.To))
	})
	return moves
}

// owner is the member that owns a partition, empty if nobody does.
func (r *Ring) owner(partition int) string {
	if len(r.owners) == 0 {
		return ""
	}
	return r.members[r.owners[partition]]
}

// deal builds the table. The library's own value is left behind: its look-ups
// take a lock and a map, and its Add and Remove expose tables half changed.
//
// Its panic about too little room can't happen: it needs members whose points
// on the circle are all hidden by equal hashes of other members' points, more
// than a fifth of them, since together they may hold 1.25 × Partitions.
func deal(members []string) []uint16 {
	if len(members) == 0 {
		return nil
	}
	index := make(map[string]uint16, len(members))
	ms := make([]consistent.Member, len(members))
	for i, m := range members {
		index[m] = uint16(i)
		ms[i] = name(m)
	}
	c := consistent.New(ms, consistent.Config{
		Hasher:            hasher{},
		PartitionCount:    Partitions,
		ReplicationFactor: replicas,
		Load:              load,
	})
	owners := make([]uint16, Partitions)
	for p := range owners {
		owners[p] = index[c.GetPartitionOwner(p).String()]
	}
	return owners
}

// sign hashes everything that a look-up depends on.
func sign(members []string, owners []uint16) uint64 {
	b := []byte(marker)
	for _, m := range members {
		b = binary.AppendUvarint(b, uint64(len(m)))
		b = append(b, m...)
	}
	for _, o := range owners {
		b = binary.LittleEndian.AppendUint16(b, o)
	}
	return max(1, xxhash.Sum64(b))
}

// name is a member as the library wants it.
type name string

func (n name) String() string { return string(n) }

// hasher mixes well: with FNV-1a, names such as node-0 … node-6 spread 17 to
// 49 partitions (of 271) per member.
type hasher struct{}

func (hasher) Sum64(b []byte) uint64 { return xxhash.Sum64(b) }
