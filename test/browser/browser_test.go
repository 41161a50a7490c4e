// Package browser tests client/js and the example pages in Chromium against real
// nodes.
package browser

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"go.uber.org/goleak"

	"github.com/ganglion-es/ganglion/eventstore/postgres/postgrestest"
	"github.com/ganglion-es/ganglion/test/harness"
)

var (
	// binary is the path of ganglion, built with the race detector.
	binary string
	// browser is shared by all tests. Each page has its own profile.
	browser context.Context
	// screenshots is the folder of screenshots.
	screenshots string
)

// patience bounds every wait, also on a busy machine.
const patience = time.Minute

func TestMain(m *testing.M) {
	path, err := exec.LookPath("chromium-headless-shell") // the same engine without windows
	if err != nil {
		path, err = exec.LookPath("chromium")
	}
	if err != nil {
		fail("Chromium is missing: install it with scripts/install.sh chromium-headless-shell")
	}
	if _, err := os.Stat("../../client/js/dist/index.js"); err != nil {
		fail("client/js is not built: run scripts/client-js.sh build")
	}
	dir, err := os.MkdirTemp("", "ganglion-browser")
	if err == nil {
		binary, err = harness.Build(dir, true)
	}
	if err == nil {
		screenshots, err = filepath.Abs("screenshots")
	}
	if err != nil {
		fail(err)
	}
	allocator, end := chromedp.NewExecAllocator(context.Background(), append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(path), chromedp.NoSandbox, chromedp.DisableGPU, chromedp.WSURLReadTimeout(patience), chromedp.UserDataDir(filepath.Join(dir, "profile")))...)
	var closeBrowser context.CancelFunc
	browser, closeBrowser = chromedp.NewContext(allocator)
	if err := chromedp.Do(browser); err != nil {
		fail("Chromium does not start: ", err)
	}
	postgrestest.Main(m, goleak.IgnoreCurrent(), goleak.Cleanup(func(code int) {
		closeBrowser()
		end()
		_ = os.RemoveAll(dir) // the exit code matters more
		os.Exit(code)
	}))
}

func fail(why ...any) {
	fmt.Fprintln(os.Stderr, why...)
	os.Exit(1)
}

// page is a browser tab with its own profile.
type page struct {
	t   *testing.T
	ctx context.Context

	mu      sync.Mutex
	console []string // what the browser's console shows
}

// open opens a page. The end of the test closes it.
func open(t *testing.T, url string) *page {
	t.Helper()
	p := &page{t: t}
	ctx, end := chromedp.NewContext(browser, chromedp.WithNewBrowserContext(), chromedp.WithListener(p.hear))
	t.Cleanup(end)
	p.ctx = ctx
	if err := chromedp.Do(ctx); err != nil { // without a timeout, since the end of its context would close the tab
		t.Fatal(err)
	}
	p.do(chromedp.Navigate(url))
	return p
}

// hear keeps the lines of the browser's console.
func (p *page) hear(event any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch e := event.(type) {
	case *runtime.EventConsoleAPICalled:
		line := string(e.Type)
		for _, arg := range e.Args {
			line += fmt.Sprintf(" %s%s", arg.Value, arg.Description)
		}
		p.console = append(p.console, line)
	case *runtime.EventExceptionThrown:
		p.console = append(p.console, fmt.Sprintf("exception %s %+v", e.ExceptionDetails.Text, e.ExceptionDetails.Exception))
	case *log.EventEntryAdded:
		p.console = append(p.console, fmt.Sprintf("%s %s %s: %s", e.Entry.Level, e.Entry.Source, e.Entry.URL, e.Entry.Text))
	}
}

// wantConsole checks that each line of the browser's console contains one of the
// texts, and forgets the lines.
func (p *page) wantConsole(texts ...string) {
	p.t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, line := range p.console {
		if !slices.ContainsFunc(texts, func(text string) bool { return strings.Contains(line, text) }) {
			p.t.Errorf("the console shows %s", line)
		}
	}
	p.console = nil
}

func (p *page) do(steps ...chromedp.Action[chromedp.Void]) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	if err := chromedp.Do(ctx, steps...); err != nil {
		p.t.Fatal(err)
	}
}

// value returns the value of a JavaScript expression.
func value[T any](p *page, expression string) T {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	v, err := chromedp.Run(ctx, chromedp.Evaluate[T](expression))
	if err != nil {
		p.t.Fatalf("%s: %v", expression, err)
	}
	return v
}

// until waits for a JavaScript condition. If it fails, it takes a screenshot.
func (p *page) until(condition string) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	for {
		ok, err := chromedp.Run(ctx, chromedp.Evaluate[bool]("!!("+condition+")"))
		if err == nil && ok {
			return
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			p.screenshot(p.t.Name())
			p.t.Fatalf("the page never satisfies %s (%v): %s", condition, err, value[string](p, "document.body.innerText"))
		}
	}
}

// call sends a command of the DevTools protocol.
func call[P, R any](p *page, command cdp.Command[P, R], params P) {
	p.t.Helper()
	p.do(chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		_, err := cdp.Call(ctx, t, command, params)
		return err
	}))
}

// setAppearance sets the size and the colour scheme of the page.
func (p *page) setAppearance(width, height int64, scheme string) {
	p.do(chromedp.EmulateViewport(width, height))
	call(p, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}})
}

// screenshot saves a picture of the page.
func (p *page) screenshot(name string) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	png, err := chromedp.Run(ctx, chromedp.CaptureScreenshot())
	if err == nil {
		err = os.MkdirAll(screenshots, 0o755)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(screenshots, filepath.Base(name)+".png"), png, 0o644)
	}
	if err != nil {
		p.t.Errorf("screenshot %s: %v", name, err)
	}
}
