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

func TestProgressRewritesOneLineOnTerminal(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	clock := time.Unix(0, 0)
	p := progressOn(&out, true, "verify", "positions")
	p.now = func() time.Time { return clock }
	p.shown = clock
	for at := int64(10); at <= 40; at += 10 { // 10 are from an earlier run
		p.set(at, 40)
		p.set(at+1, 40) // too early to be shown
		clock = clock.Add(2 * time.Second)
	}
	p.step("verify keys")
	p.set(3, 0)
	p.finish()
	const want = "\r\x1b[Kverify: 10 of 40 positions, 25 %" +
		"\r\x1b[Kverify: 20 of 40 positions, 50 %, 5 positions/s, 4s left" +
		"\r\x1b[Kverify: 30 of 40 positions, 75 %, 5 positions/s, 2s left" +
		"\r\x1b[Kverify: 40 of 40 positions, 100 %, 5 positions/s" +
		"\r\x1b[K\r\x1b[Kverify keys" +
		"\r\x1b[Kverify keys: 3 positions\r\x1b[K"
	if out.String() != want {
		t.Errorf("got %q, want %q", out.String(), want)
	}
}
