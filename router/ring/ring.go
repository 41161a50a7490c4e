// Package ring decides which member owns an aggregate.
//
// A [Ring] is an immutable value that is computed from the ids of the members
// that can own aggregates. Members that see the same cluster compute the same
// Ring, whatever the order in which they learned of it. Rings with the same
// [Ring.Signature] are equal.
//
// Aggregates are hashed to 1021 partitions, and partitions are assigned to
// members by consistent hashing with bounded loads. When a member joins or
// leaves, few partitions move without need. No member holds more than 1.25 times
// the mean.
//
// While membership changes, two members may disagree about an owner. That may
// cost a retry, but never an event: of two writers of one stream version, the
// event store accepts one, and the other reloads.
package ring

import (
	"encoding/binary"
	"slices"
	"sort"
	"sync"

	"github.com/buraksezer/consistent"
	"github.com/cespare/xxhash/v2"

	"github.com/ganglion-es/ganglion/eventstore"
)

const (
	// Partitions is the number of partitions. It is prime, and large enough that
	// the partitions of up to 30 members spread evenly and few of them move.
	Partitions = 1021

	// replicas is the number of points of each member on the hash circle. With 20,
	// several times as many partitions move as must.
	replicas = 100

	// load bounds a member's partitions to this multiple of the mean.
	load = 1.25

	// marker names everything besides the members that determines a table. Rings
	// with different markers have different signatures. It must change with the
	// version of package consistent, whose points on the circle differ between
	// releases, and with every change of this package that changes an owner.
	marker = "ganglion ring 1: consistent 1.0.0, xxhash64, 1021 partitions, 100 replicas, load 1.25"
)

// Ring is a table of the owners of partitions. It is immutable and safe for
// concurrent use.
type Ring struct {
	members   []string // sorted, without repetitions
	owners    []uint16 // by partition, an index into members; empty without members
	signature uint64
	without   []lazy // by index into members
}

// lazy is a Ring that is built on first use.
type lazy struct {
	once sync.Once
	ring *Ring
}

// New returns the ring of a set of members, which may be empty. Order and
// repetitions do not matter. New copies the members. It takes about 0.25 ms for 3
// members, 4 ms for 30 and 40 ms for 100.
func New(members []string) *Ring {
	r := &Ring{members: slices.Compact(slices.Sorted(slices.Values(members)))}
	r.owners = deal(r.members)
	r.signature = sign(r.members, r.owners)
	r.without = make([]lazy, len(r.members))
	return r
}

// Owner returns the member that owns an aggregate. ok is false if the ring has
// no members.
func (r *Ring) Owner(s eventstore.StreamID) (id string, ok bool) {
	if len(r.owners) == 0 {
		return "", false
	}
	return r.members[r.owners[r.Partition(s)]], true
}

// Partition returns the partition of an aggregate, from 0 to Partitions-1. It is
// the same in every ring.
func (r *Ring) Partition(s eventstore.StreamID) int {
	// Most names fit into the array, so a lookup does not allocate.
	var name [96]byte
	b := append(name[:0], s.Type...)
	b = append(b, '/')
	b = append(b, s.ID...)
	return int(xxhash.Sum64(b) % Partitions)
}

// Without returns the ring of the other members. All nodes will use that ring
// once they have seen that the member is gone. Until then, its owner of an
// aggregate is the next candidate. The first call for a member builds the ring;
// later calls return the same one. If there is no such member, Without returns r.
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

// Signature identifies the table: rings with the same signature have the same
// owner for every aggregate. It is never 0.
func (r *Ring) Signature() uint64 { return r.signature }

// Members returns the members, sorted. The caller owns the slice.
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

// Move counts the partitions that pass from one member to another when one ring
// replaces another.
type Move struct {
	From       string `json:"from"` // empty: they had no owner
	To         string `json:"to"`   // empty: they have no owner
	Partitions int    `json:"partitions"`
}

// Moves returns the partitions that change owner between two rings, sorted by
// From and To.
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
	sort.Slice(moves, func(i, j int) bool {
		a, b := moves[i], moves[j]
		return a.From < b.From || a.From == b.From && a.To < b.To
	})
	return moves
}

// Owners returns the owner of each partition; each is "" if the ring has no members.
func (r *Ring) Owners() []string {
	list := make([]string, Partitions)
	for p := range list {
		list[p] = r.owner(p)
	}
	return list
}

// owner returns the member that owns a partition, or "".
func (r *Ring) owner(partition int) string {
	if len(r.owners) == 0 {
		return ""
	}
	return r.members[r.owners[partition]]
}

// deal builds the table with package consistent. It does not keep the package's
// own ring, whose lookups need a lock and a map, and whose Add and Remove expose
// half-changed tables.
//
// The package panics if it cannot place all partitions. The members may hold
// 1.25 × Partitions together, so that happens only if more than a fifth of the
// members have no point on the circle of their own, because the hashes of all
// their points are also hashes of other members' points.
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

// sign hashes everything that a lookup depends on.
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

// name is a consistent.Member.
type name string

func (n name) String() string { return string(n) }

// hasher is xxhash64, which mixes well. With FNV-1a, members named node-0 to
// node-6 got 17 to 49 of 271 partitions.
type hasher struct{}

func (hasher) Sum64(b []byte) uint64 { return xxhash.Sum64(b) }
