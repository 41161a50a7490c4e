package live

import (
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"

	"github.com/ganglion-es/ganglion/eventstore"
)

func TestCursorsAreReadAsTheyWereWritten(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(4, 4))
	for range 2000 {
		c := cursor{
			log: random.Uint32(), build: random.Int64N(1 << 40), question: random.Uint64(), mends: random.Int64N(5),
			count: random.Uint64N(1000), keys: random.Uint64(), full: random.IntN(2) == 0,
		}
		for range 1 + random.IntN(maxCursorSegments) {
			c.positions = append(c.positions, eventstore.Position(random.Uint64N(1<<62)))
		}
		if c.full {
			c.edge = strings.Repeat("0V", random.IntN(1000))
		}
		text := c.String()
		if len(text) > maxCursor {
			t.Fatalf("a cursor has %d bytes", len(text))
		}
		got, ok := parseCursor(text)
		if !ok || !strings.HasPrefix(c.edge, got.edge) || len(c.edge) < 20 && len(c.positions) < 30 && got.edge != c.edge {
			t.Fatalf("%+v is read as %+v", c, got)
		}
		if got.edge = c.edge; !reflect.DeepEqual(got, c) {
			t.Fatalf("%+v is read as %+v", c, got)
		}
		at := random.IntN(len(text))
		broken := text[:at] + string(rune('A'+(text[at]+1)%26)) + text[at+1:]
		if _, ok := parseCursor(broken); ok && broken != text {
			t.Fatalf("%q is read as a cursor", broken)
		}
		if _, ok := parseCursor(text[:at]); ok {
			t.Fatalf("%q is read as a cursor", text[:at])
		}
	}
}

func FuzzCursor(f *testing.F) {
	c := cursor{positions: []eventstore.Position{3, 1}, full: true, edge: "0V"}
	f.Add(c.String())
	f.Add("")
	f.Fuzz(func(t *testing.T, text string) {
		if c, ok := parseCursor(text); ok && len(c.String()) > maxCursor {
			t.Errorf("a cursor has %d bytes", len(c.String()))
		}
	})
}

func TestVerdictNamesWhyACursorIsRefused(t *testing.T) {
	t.Parallel()
	m := &moment{build: 2, log: "l", mends: 1, positions: []eventstore.Position{10, 20}, floors: []eventstore.Position{5, 5}}
	valid := cursor{log: hash32("l"), build: 2, question: 7, mends: 1, positions: []eventstore.Position{10, 15}}
	for name, test := range map[string]struct {
		change func(*cursor)
		reason string
		ahead  bool
	}{
		"valid":             {func(*cursor) {}, "", false},
		"another log":       {func(c *cursor) { c.log++ }, resetLog, false},
		"another question":  {func(c *cursor) { c.question++ }, resetAccess, false},
		"an earlier build":  {func(c *cursor) { c.build-- }, resetRebuilt, false},
		"a later build":     {func(c *cursor) { c.build++ }, resetRebuilt, true},
		"earlier mends":     {func(c *cursor) { c.mends-- }, resetMended, false},
		"later mends":       {func(c *cursor) { c.mends++ }, resetMended, true},
		"too few segments":  {func(c *cursor) { c.positions = c.positions[:1] }, resetExpired, false},
		"below the floor":   {func(c *cursor) { c.positions[1] = 4 }, resetExpired, false},
		"at the floor":      {func(c *cursor) { c.positions[1] = 5 }, "", false},
		"from the future":   {func(c *cursor) { c.positions[0] = 11 }, resetLog, true},
		"without positions": {func(c *cursor) { c.positions = nil }, resetExpired, false},
	} {
		c := valid
		c.positions = append([]eventstore.Position(nil), valid.positions...)
		test.change(&c)
		if reason, ahead := c.verdict(7, m); reason != test.reason || ahead != test.ahead {
			t.Errorf("%s: got %q, ahead %v; want %q, %v", name, reason, ahead, test.reason, test.ahead)
		}
	}
}
