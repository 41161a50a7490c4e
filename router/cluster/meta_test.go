package cluster

import (
	"strings"
	"testing"
)

var plain = Member{
	ID: "n1", Boot: 1<<63 + 5, Domain: true, System: true, State: Draining, Ring: 1<<64 - 1,
	PeerAddr: "10.0.0.1:9080", HTTPAddr: "[2001:db8::1]:8080", ClockMS: -3_600_000, Problem: NoOwnerInSight, Version: "v1.2.3-rc.1",
	Projections: ProjectionSet([]string{"listings", "bids"}),
}

func TestMetadataRoundTrips(t *testing.T) {
	t.Parallel()
	gateway := Member{ID: "gw-1.eu", Gateway: true}
	for _, m := range []Member{plain, gateway} {
		if err := m.validate(); err != nil {
			t.Fatal(err)
		}
		if got, err := decodeMeta(encodeMeta(m)); err != nil || got != m {
			t.Errorf("%+v became %+v, %v", m, got, err)
		}
		// A later program may add fields at the end.
		if got, err := decodeMeta(append(encodeMeta(m), "more"...)); err != nil || got != m {
			t.Errorf("with one more field, %+v became %+v, %v", m, got, err)
		}
	}
}

func TestMetadataNeverOutgrowsItsLimit(t *testing.T) {
	t.Parallel()
	m := plain
	m.ID = strings.Repeat("i", idMax)
	m.HTTPAddr, m.Version, m.Projections = "", "", ""
	m.PeerAddr = strings.Repeat("h", metaMax-metaFixed-idMax-len(":9080")) + ":9080"
	if err := m.validate(); err != nil {
		t.Fatalf("just fits, but: %v", err)
	}
	if n := len(encodeMeta(m)); n != metaMax {
		t.Errorf("%d bytes, want %d", n, metaMax)
	}
	m.State, m.Ring, m.Boot, m.ClockMS, m.Problem = Starting, 0, 0, 0, 0 // the size does not depend on these
	if n := len(encodeMeta(m)); n != metaMax {
		t.Errorf("%d bytes, want %d", n, metaMax)
	}
	m.Version = "v1.2.3"
	if m.Version = m.fitVersion(); m.Version != "" {
		t.Errorf("a version of %q does not fit", m.Version)
	}
	m.Projections = plain.Projections
	if m.Projections = m.fitProjections(); m.Projections != AnyProjection || m.validate() != nil {
		t.Errorf("the projections %q do not fit: %v", m.Projections, m.validate())
	}
	m.PeerAddr = "h" + m.PeerAddr
	if err := m.validate(); err == nil || !strings.Contains(err.Error(), "shorten") {
		t.Errorf("one byte too many: %v", err)
	}
}

func TestStrangeMetadataIsRefused(t *testing.T) {
	t.Parallel()
	good := encodeMeta(plain)
	set := metaSet + projectionBytes(plain.Projections)
	for n := range good {
		if tail := metaTail + len(plain.Version) + set; n == len(good)-tail || n == len(good)-tail-metaClock || n == len(good)-set {
			continue // a program that announced no version, no clock or no projections
		}
		if _, err := decodeMeta(good[:n]); err == nil {
			t.Errorf("the first %d bytes were accepted", n)
		}
	}
	for name, spoil := range map[string]func(*Member){
		"no id":                  func(m *Member) { m.ID = "" },
		"a space in the id":      func(m *Member) { m.ID = "a b" },
		"a long id":              func(m *Member) { m.ID = strings.Repeat("x", idMax+1) },
		"an unknown state":       func(m *Member) { m.State = 3 },
		"no peer address":        func(m *Member) { m.PeerAddr = "" },
		"no port":                func(m *Member) { m.PeerAddr = "10.0.0.1" },
		"port 0":                 func(m *Member) { m.PeerAddr = "10.0.0.1:0" },
		"a port's name":          func(m *Member) { m.PeerAddr = "10.0.0.1:http" },
		"no host":                func(m *Member) { m.HTTPAddr = ":8080" },
		"a version that is none": func(m *Member) { m.Version = "v1\x1b[2J" },
		"a long version":         func(m *Member) { m.Version = strings.Repeat("v", versionMax+1) },
		"a line break":           func(m *Member) { m.HTTPAddr = "a\nb:8080" },
		"many projections":       func(m *Member) { m.Projections = strings.Repeat("0123abcd", projectionsMax+1) },
		"an unknown version":     nil,
	} {
		m := plain
		b := good
		if spoil != nil {
			spoil(&m)
			b = encodeMeta(m)
		} else {
			b = append([]byte{2}, good[1:]...)
		}
		if got, err := decodeMeta(b); err == nil {
			t.Errorf("%s: accepted as %+v", name, got)
		}
	}
}

func FuzzDecodeMeta(f *testing.F) {
	f.Add(encodeMeta(plain))
	f.Add(encodeMeta(Member{ID: "g", Gateway: true}))
	f.Add([]byte{metaVersion})
	f.Add([]byte(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := decodeMeta(b)
		if err != nil {
			return
		}
		if err := m.validate(); err != nil {
			t.Fatalf("%+v was accepted: %v", m, err)
		}
		again := encodeMeta(m)
		if len(again) > metaMax {
			t.Fatalf("%+v has %d bytes", m, len(again))
		}
		if got, err := decodeMeta(again); err != nil || got != m {
			t.Fatalf("%+v became %+v, %v", m, got, err)
		}
	})
}

func TestMetadataOfOlderProgramsIsRead(t *testing.T) {
	t.Parallel()
	whole := encodeMeta(plain)
	whole = whole[:len(whole)-metaSet-projectionBytes(plain.Projections)]
	old := plain
	old.Projections = ""
	if got, err := decodeMeta(whole); err != nil || got != old {
		t.Errorf("without projections: %+v, %v", got, err)
	}
	old.Problem, old.Version = NoProblem, ""
	if got, err := decodeMeta(whole[:len(whole)-metaTail-len(plain.Version)]); err != nil || got != old {
		t.Errorf("without a version: %+v, %v", got, err)
	}
	old.ClockMS = 0
	if got, err := decodeMeta(whole[:len(whole)-metaTail-len(plain.Version)-metaClock]); err != nil || got != old {
		t.Errorf("without a clock: %+v, %v", got, err)
	}
}

func TestMemberRunsOnlyAnnouncedProjections(t *testing.T) {
	t.Parallel()
	var many []string
	for i := range projectionsMax + 1 {
		many = append(many, strings.Repeat("x", i))
	}
	for _, set := range []struct {
		fingerprints []string
		runs, lacks  string
	}{
		{nil, "", "a"},
		{[]string{"b", "a", "b"}, "a", "c"},
		{many[:projectionsMax], many[projectionsMax-1], "a"},
		{many, "a", ""},
	} {
		m := Member{Projections: ProjectionSet(set.fingerprints)}
		if set.runs != "" && !m.Runs(set.runs) {
			t.Errorf("a member with %d projections does not run %q", len(set.fingerprints), set.runs)
		}
		if set.lacks != "" && m.Runs(set.lacks) {
			t.Errorf("a member with %d projections runs %q", len(set.fingerprints), set.lacks)
		}
	}
}
