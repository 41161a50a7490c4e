package cli

import (
	"fmt"
	"io"
	"os"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"
)

// lineEvery is the interval of progress lines without a terminal.
const lineEvery = 10 * time.Second

// progress reports on standard error how far a long command is: with a bar on a
// terminal, elsewhere with a line every 10 s. It is for one goroutine.
type progress struct {
	out      io.Writer
	terminal bool
	now      func() time.Time

	what, unit string
	at, total  int64 // total is 0 while it is unknown
	shown      time.Time
	bar        *progressbar.ProgressBar // nil while none is drawn
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
		p.draw()
		return
	}
	fmt.Fprintln(p.out, what)
}

// set records how far the work is, and shows it.
func (p *progress) set(at, total int64) {
	changed := total != p.total
	p.at, p.total = at, total
	if p.terminal {
		if p.bar == nil || changed {
			p.draw()
		}
		_ = p.bar.Set64(at) // fails only if the terminal is closed
		return
	}
	if now := p.now(); now.Sub(p.shown) >= lineEvery {
		p.shown = now
		p.line()
	}
}

// draw starts a new bar, a spinner while the total is unknown.
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

// finish removes the bar, or writes the last line.
func (p *progress) finish() {
	switch {
	case p.bar != nil:
		_ = p.bar.Finish()
		p.bar = nil
	case !p.terminal && p.at > 0:
		p.line()
		p.at = 0
	}
}
