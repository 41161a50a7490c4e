package cli

import (
	"strings"
	"testing"
	"time"
)

func TestProgressWritesLinesWithoutTerminal(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	clock := time.Unix(0, 0)
	p := progressOn(&out, false, "verify", "positions")
	p.now = func() time.Time { return clock }
	p.shown = clock
	for at := range int64(31) {
		p.set(at, 30)
		clock = clock.Add(time.Second)
	}
	p.step("verify keys")
	p.finish()
	const want = "verify: 10 of 30 positions, 33 %\nverify: 20 of 30 positions, 66 %\nverify: 30 of 30 positions, 100 %\n" +
		"verify: 30 of 30 positions, 100 %\nverify keys\n"
	if out.String() != want {
		t.Errorf("got\n%swant\n%s", out.String(), want)
	}
	out.Reset()
	p = progressOn(&out, false, "import", "positions")
	p.finish()
	if out.Len() > 0 {
		t.Errorf("before the first step: %q", out.String())
	}
	p.set(7, 0)
	p.finish()
	if out.String() != "import: 7 positions\n" {
		t.Errorf("without a total: %q", out.String())
	}
}

func TestProgressDrawsBarOnTerminal(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	p := progressOn(&out, true, "verify", "positions")
	p.set(15, 30)
	p.set(30, 30)
	p.finish()
	for _, part := range []string{"verify", "\r", "/30"} {
		if !strings.Contains(out.String(), part) {
			t.Errorf("%q is missing from %q", part, out.String())
		}
	}
	if strings.Contains(out.String(), "\n") || !strings.HasSuffix(out.String(), "\r") {
		t.Errorf("it leaves something on the terminal: %q", out.String())
	}
}
