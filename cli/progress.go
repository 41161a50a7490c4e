package cli

import (
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/term"
)

// lineEvery is the interval of progress lines without a terminal, and redrawEvery the
// shortest one on a terminal.
const (
	lineEvery   = 10 * time.Second
	redrawEvery = 100 * time.Millisecond
)

// clearLine moves to the start of a terminal's line and clears it.
const clearLine = "\r\x1b[K"

// progress reports on standard error how far a long command is: on a terminal in a line
// that it rewrites, elsewhere with a line every 10 s. It is for one goroutine.
type progress struct {
	out      io.Writer
	terminal bool
	now      func() time.Time

	what, unit string
	at, total  int64 // total is 0 while it is unknown
	shown      time.Time

	begun bool // set was called since the last step
	since time.Time
	from  int64 // at then
}

func newProgress(what, unit string) *progress {
	return progressOn(os.Stderr, term.IsTerminal(int(os.Stderr.Fd())), what, unit)
}

func progressOn(out io.Writer, terminal bool, what, unit string) *progress {
	p := &progress{out: out, terminal: terminal, now: time.Now, what: what, unit: unit}
	p.shown = p.now()
	return p
}

// step begins the next part of the work, whose length is unknown.
func (p *progress) step(what string) {
	p.finish()
	p.what, p.at, p.total = what, 0, 0
	if p.terminal {
		fmt.Fprint(p.out, clearLine+what)
		return
	}
	fmt.Fprintln(p.out, what)
}

// set records how far the work is, and shows it.
func (p *progress) set(at, total int64) {
	now := p.now()
	every := lineEvery
	if p.terminal {
		every = redrawEvery
	}
	due := now.Sub(p.shown) >= every
	if !p.begun {
		p.begun, p.since, p.from = true, now, at
		due = due || p.terminal
	}
	p.at, p.total = at, total
	switch {
	case !due:
		return
	case p.terminal:
		fmt.Fprint(p.out, clearLine+p.text()+p.speed(now))
	default:
		fmt.Fprintln(p.out, p.text())
	}
	p.shown = now
}

// text returns how far the work is, such as "verify: 10 of 40 positions, 25 %".
func (p *progress) text() string {
	if p.total > 0 {
		return fmt.Sprintf("%s: %d of %d %s, %d %%", p.what, p.at, p.total, p.unit, 100*p.at/p.total)
	}
	return fmt.Sprintf("%s: %d %s", p.what, p.at, p.unit)
}

// speed returns the mean rate since the step began and the time that is left, such as
// ", 5 positions/s, 6s left". It returns "" before any progress.
func (p *progress) speed(now time.Time) string {
	elapsed := now.Sub(p.since).Seconds()
	if elapsed <= 0 || p.at <= p.from {
		return ""
	}
	rate := float64(p.at-p.from) / elapsed
	text := fmt.Sprintf(", %.0f %s/s", rate, p.unit)
	if p.total > p.at {
		left := time.Duration(float64(p.total-p.at) / rate * float64(time.Second))
		text += fmt.Sprintf(", %v left", left.Round(time.Second))
	}
	return text
}

// finish clears the terminal's line, or writes the last line.
func (p *progress) finish() {
	switch {
	case p.terminal:
		fmt.Fprint(p.out, clearLine)
	case p.at > 0:
		fmt.Fprintln(p.out, p.text())
		p.at = 0
	}
	p.begun = false
}
