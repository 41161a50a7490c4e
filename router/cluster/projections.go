package cluster

import (
	"encoding/hex"
	"fmt"
	"hash/fnv"
	"slices"
	"strings"
)

const (
	// AnyProjection is the set of a member that can run more projections than fit
	// into gossip. It counts as running every projection.
	AnyProjection = "any"

	projectionsMax = 64  // sets of more projections are AnyProjection
	projectionSize = 4   // bytes of one in gossip
	anyNumber      = 255 // of projections, in gossip
)

// ProjectionSet returns the set of projections with these fingerprints, as a
// [Member] announces it: 32-bit FNV-1a of each, sorted, in hexadecimal.
func ProjectionSet(fingerprints []string) string {
	if len(fingerprints) > projectionsMax {
		return AnyProjection
	}
	hashes := make([]string, len(fingerprints))
	for i, f := range fingerprints {
		hashes[i] = projectionHash(f)
	}
	return strings.Join(slices.Compact(slices.Sorted(slices.Values(hashes))), "")
}

func projectionHash(fingerprint string) string {
	h := fnv.New32a()
	_, _ = h.Write([]byte(fingerprint))
	return hex.EncodeToString(h.Sum(nil))
}

// Runs reports whether the member can run the projection with a fingerprint. It
// may be wrong about one fingerprint in 67 million that the member does not have.
func (m Member) Runs(fingerprint string) bool {
	if m.Projections == AnyProjection {
		return true
	}
	want := projectionHash(fingerprint)
	for set := m.Projections; len(set) >= len(want); set = set[len(want):] {
		if set[:len(want)] == want {
			return true
		}
	}
	return false
}

// fitProjections returns the member's set, or AnyProjection if the other fields
// leave too little room in gossip.
func (m Member) fitProjections() string {
	if projectionBytes(m.Projections) > m.room()-len(m.Version) {
		return AnyProjection
	}
	return m.Projections
}

// projectionBytes returns how many bytes a set takes in gossip, besides its
// number.
func projectionBytes(set string) int {
	if set == AnyProjection {
		return 0
	}
	return len(set) / 2
}

func validateProjections(set string) error {
	if set == AnyProjection {
		return nil
	}
	if b, err := hex.DecodeString(set); err != nil || len(b)%projectionSize != 0 || len(b) > projectionsMax*projectionSize {
		return fmt.Errorf("the projections %q are invalid: use ProjectionSet", set)
	}
	return nil
}

func appendProjections(b []byte, set string) []byte {
	if set == AnyProjection {
		return append(b, anyNumber)
	}
	b = append(b, byte(len(set)/2/projectionSize))
	hashes, _ := hex.DecodeString(set) // it passed validate
	return append(b, hashes...)
}

// cutProjections reads a set from the beginning of b. Older programs announce
// none.
func cutProjections(b []byte) (set string, ok bool) {
	if len(b) == 0 {
		return "", true
	}
	if b[0] == anyNumber {
		return AnyProjection, true
	}
	hashes, _, ok := cut(b[metaSet:], int(b[0])*projectionSize)
	return hex.EncodeToString([]byte(hashes)), ok
}
