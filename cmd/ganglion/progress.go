package main

import (
	"fmt"
	"io"
	"os"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"
)

// plainEvery is how often a line is written where there is no terminal.
const plainEvery = 10 * time.Second

// progress shows on standard error how far a long command is: as a bar on a
// terminal, else as a line now and then. It is for one goroutine.
type progress struct {
	out      io.Writer
	terminal bool
	now      func() time.Time

	what, unit string
	at, total  int64 // total is 0 while nobody knows
	shown      time.Time
	bar        *progressbar.ProgressBar // nil when there is none
}

func newProgress(what, unit string) *progress {
	return progressOn(os.Stderr, term.IsTerminal(int(os.Stderr.Fd())), what, unit)
}

func progressOn(out io.Writer, terminal bool, what, unit string) *progress {
	p := &progress{out: out, terminal: terminal, now: time.Now, what: what, unit: unit}
	p.shown = p.now()
	return p
}

// step begins another part of the work, of which nobody knows how long it is.
func (p *progress) step(what string) {
	p.end()
	p.what, p.at, p.total = what, 0, 0
	if p.terminal {
		p.draw()
		return
	}
	fmt.Fprintln(p.out, what)
}

// set says how far it is.
func (p *progress) set(at, total int64) {
	other := total != p.total
	p.at, p.total = at, total
	if p.terminal {
		if p.bar == nil || other {
			p.draw()
		}
		_ = p.bar.Set64(at) // a terminal that is gone shows nothing
		return
	}
	if now := p.now(); now.Sub(p.shown) >= plainEvery {
		p.shown = now
		p.line()
	}
}

// draw begins a new bar; one that turns if the total is not known.
func (p *progress) draw() {
	if p.bar != nil {
		_ = p.bar.Finish()
	}
	total := p.total
	if total == 0 {
		total = -1
	}
	p.bar = progressbar.NewOptions64(total,
		progressbar.OptionSetWriter(p.out),
		progressbar.OptionSetDescription(p.what),
		progressbar.OptionSetItsString(p.unit),
		progressbar.OptionShowIts(),
		progressbar.OptionShowCount(),
		progressbar.OptionThrottle(100*time.Millisecond),
		progressbar.OptionSetElapsedTime(true),
		progressbar.OptionClearOnFinish(),
	)
	_ = p.bar.RenderBlank()
}

func (p *progress) line() {
	if p.total > 0 {
		fmt.Fprintf(p.out, "%s: %d of %d %s, %d %%\n", p.what, p.at, p.total, p.unit, 100*p.at/p.total)
		return
	}
	fmt.Fprintf(p.out, "%s: %d %s\n", p.what, p.at, p.unit)
}

// end takes the bar down, or writes the last line.
func (p *progress) end() {
	switch {
	case p.bar != nil:
		_ = p.bar.Finish()
		p.bar = nil
	case !p.terminal && p.at > 0:
		p.line()
		p.at = 0
	}
}
