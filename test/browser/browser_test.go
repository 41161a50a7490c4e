// Package browser tests client/js and the example pages in a real browser,
// Debian's Chromium, against real nodes.
package browser

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
	"go.uber.org/goleak"

	"github.com/ganglion-es/ganglion/eventstore/postgres/postgrestest"
	"github.com/ganglion-es/ganglion/test/harness"
)

var (
	// binary is ganglion, built with the race detector.
	binary string
	// browser is what all tests share; each page has a profile of its own.
	browser context.Context
	// screenshots is the folder for them.
	screenshots string
)

// patience bounds every wait of a test that ought to succeed at once.
const patience = time.Minute

func TestMain(m *testing.M) {
	path, err := exec.LookPath("chromium-headless-shell") // the same engine without windows
	if err != nil {
		path, err = exec.LookPath("chromium")
	}
	if err != nil {
		fail("there is no Chromium: scripts/install.sh chromium-headless-shell installs Debian's")
	}
	if _, err := os.Stat("../../client/js/dist/index.js"); err != nil {
		fail("client/js is not built: run 'scripts/client-js.sh build'")
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
		_ = os.RemoveAll(dir) // the code is what matters now
		os.Exit(code)
	}))
}

func fail(why ...any) {
	fmt.Fprintln(os.Stderr, why...)
	os.Exit(1)
}

// page is a tab with a profile of its own.
type page struct {
	t   *testing.T
	ctx context.Context
}

// open opens a page, and closes it at the end of the test.
func open(t *testing.T, url string) *page {
	t.Helper()
	ctx, end := chromedp.NewContext(browser, chromedp.WithNewBrowserContext())
	t.Cleanup(end)
	p := &page{t, ctx}
	if err := chromedp.Do(ctx); err != nil { // the tab lives as long as this context, not as long as one step may take
		t.Fatal(err)
	}
	p.do(chromedp.Navigate(url))
	return p
}

func (p *page) do(steps ...chromedp.Action[chromedp.Void]) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	if err := chromedp.Do(ctx, steps...); err != nil {
		p.t.Fatal(err)
	}
}

// value is that of a JavaScript expression.
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

// until waits for a JavaScript condition; a screenshot shows what was there
// instead.
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
			p.t.Fatalf("it never comes true that %s (%v): %s", condition, err, value[string](p, "document.body.innerText"))
		}
	}
}

// call sends a command of the browser's protocol.
func call[P, R any](p *page, command cdp.Command[P, R], params P) {
	p.t.Helper()
	p.do(chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		_, err := cdp.Call(ctx, t, command, params)
		return err
	}))
}

// look sets size and colours.
func (p *page) look(width, height int64, scheme string) {
	p.do(chromedp.EmulateViewport(width, height))
	call(p, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}})
}

// screenshot keeps what the page looks like, for people.
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
