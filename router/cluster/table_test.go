package cluster

import (
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestOnlyMembersThatVanishAreLookedFor(t *testing.T) {
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
		"moved.0000000000000001": alive("moved", 1, 5, Ready),
	}, now)
	if got := idsOf(s.view); !slices.Equal(got, []string{"again", "died", "left", "moved"}) {
		t.Fatalf("the view has %v", got)
	}
	s = tab.fold(map[string]heard{
		"died.0000000000000001":  {gone: true},
		"left.0000000000000001":  {gone: true},
		"again.0000000000000001": {gone: true}, // an older run
		"moved.0000000000000001": {gone: true},
	}, now)
	if got := idsOf(s.view); !slices.Equal(got, []string{"again"}) {
		t.Fatalf("the view has %v", got)
	}
	if want := []netip.AddrPort{addr(1), addr(5)}; !slices.Equal(s.lost, want) {
		t.Errorf("lost: %v, want %v", s.lost, want)
	}
	if strings.Contains(said.String(), `msg="member gone" member=again`) {
		t.Errorf("the death of an older run is told: %s", said.String())
	}
	s = tab.fold(map[string]heard{"moved.0000000000000002": alive("moved", 2, 5, Ready)}, now)
	if want := []netip.AddrPort{addr(1)}; !slices.Equal(s.lost, want) {
		t.Errorf("lost: %v, want %v", s.lost, want)
	}
	if s = tab.fold(nil, now.Add(lostFor+time.Second)); len(s.lost) != 0 {
		t.Errorf("after %v, %v are still looked for", lostFor, s.lost)
	}
}
