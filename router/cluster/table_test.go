package cluster

import (
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestOnlyVanishedMembersAreSearched(t *testing.T) {
	t.Parallel()
	var said logs
	now := time.Now()
	tab := newTable("n1.0000000000000001", "n1", said.logger(slog.LevelInfo))
	addr := func(port uint16) netip.AddrPort { return netip.AddrPortFrom(netip.MustParseAddr("10.0.0.9"), port) }
	alive := func(id string, boot uint64, port uint16, s State) heard {
		return heard{addr: addr(port), meta: encodeMeta(Member{ID: id, Boot: boot, Gateway: true, State: s})}
	}
	s := tab.fold(map[string]heard{
		"died.0000000000000001":  alive("died", 1, 1, Ready),
		"left.0000000000000001":  alive("left", 1, 2, Draining),
		"again.0000000000000001": alive("again", 1, 3, Ready),
		"again.0000000000000002": alive("again", 2, 4, Ready),
		"quick.0000000000000001": alive("quick", 1, 6, Ready),
		"moved.0000000000000001": alive("moved", 1, 5, Ready),
	}, now)
	if got := idsOf(s.view); !slices.Equal(got, []string{"again", "died", "left", "moved", "quick"}) {
		t.Fatalf("the view has %v", got)
	}
	s = tab.fold(map[string]heard{
		"died.0000000000000001": {gone: true},
		"left.0000000000000001": {gone: true},
		// It announced just before it left that it drains.
		"quick.0000000000000001": {gone: true, meta: alive("quick", 1, 6, Draining).meta},
		"again.0000000000000001": {gone: true}, // an older run
		"moved.0000000000000001": {gone: true},
	}, now)
	if got := idsOf(s.view); !slices.Equal(got, []string{"again"}) {
		t.Fatalf("the view has %v", got)
	}
	if want := []netip.AddrPort{addr(1), addr(5)}; !slices.Equal(s.seek, want) {
		t.Errorf("searched: %v, want %v", s.seek, want)
	}
	if want := []string{"died", "moved"}; !slices.Equal(lostIDs(s), want) {
		t.Errorf("lost: %v, want %v", lostIDs(s), want)
	}
	for _, line := range []string{
		`level=WARN msg="member gone" member=died address=10.0.0.9:1 left=false`,
		`level=INFO msg="member gone" member=left address=10.0.0.9:2 left=true`,
	} {
		if !strings.Contains(said.String(), line) {
			t.Errorf("the log lacks %s:\n%s", line, said.String())
		}
	}
	if strings.Contains(said.String(), `msg="member gone" member=again`) {
		t.Errorf("the death of an older run is logged: %s", said.String())
	}
	s = tab.fold(map[string]heard{"moved.0000000000000002": alive("moved", 2, 5, Ready)}, now)
	if want := []netip.AddrPort{addr(1)}; !slices.Equal(s.seek, want) {
		t.Errorf("searched: %v, want %v", s.seek, want)
	}
	if want := []string{"died"}; !slices.Equal(lostIDs(s), want) {
		t.Errorf("lost: %v, want %v", lostIDs(s), want)
	}
	// Another node has the address of the dead one now.
	s = tab.fold(map[string]heard{"new.0000000000000001": alive("new", 1, 1, Ready)}, now)
	if !slices.Equal(lostIDs(s), []string{"died"}) || len(s.seek) != 0 {
		t.Errorf("lost: %v, searched: %v", lostIDs(s), s.seek)
	}
	if s = tab.fold(nil, now.Add(lostFor+time.Second)); len(s.lost) != 0 {
		t.Errorf("after %v, %v are still searched", lostFor, s.lost)
	}
}

func lostIDs(s *sight) []string {
	var ids []string
	for _, l := range s.lost {
		ids = append(ids, l.Member.ID)
	}
	return ids
}

func TestOldestLostMembersAreForgottenPastTheBound(t *testing.T) {
	t.Parallel()
	tab := newTable("n1.0000000000000001", "n1", slog.New(slog.DiscardHandler))
	now := time.Now()
	var s *sight
	for i := range lostMost + 2 {
		id := fmt.Sprintf("m%03d", i)
		name, addr := id+".0000000000000001", netip.AddrPortFrom(netip.MustParseAddr("10.0.0.9"), uint16(i+1))
		tab.fold(map[string]heard{name: {addr: addr, meta: encodeMeta(Member{ID: id, Gateway: true, State: Ready})}}, now)
		s = tab.fold(map[string]heard{name: {gone: true}}, now.Add(time.Duration(i)*time.Second))
	}
	if ids := lostIDs(s); len(ids) != lostMost || ids[0] != "m002" {
		t.Errorf("%d lost members are remembered: %v", len(ids), ids)
	}
}
