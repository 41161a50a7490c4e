package browser

import (
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	browserproto "github.com/chromedp/cdproto/browser"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
	"github.com/coder/websocket"

	"github.com/ganglion-es/ganglion/proto/frame"
	"github.com/ganglion-es/ganglion/test/harness"
)

// busy is what the browser's console shows if a node does not read the log in time.
const busy = "503 (Service Unavailable)"

// openAs opens a page of the console for a user.
func openAs(t *testing.T, url, name, role string) *page {
	t.Helper()
	p := open(t, url+console)
	value[bool](p, fmt.Sprintf(`sessionStorage.setItem("ganglion-console-token", 'dev:%s {"ganglion_role":"%s"}'), location.reload(), true`, name, role))
	p.until(fmt.Sprintf(`document.querySelector(".user")?.textContent === "%s, %s"`, name, role))
	return p
}

// visit shows a page of the console.
func (p *page) visit(hash string) {
	p.t.Helper()
	value[bool](p, fmt.Sprintf(`location.hash = %q, true`, hash))
}

// typeInto changes a field as a user does.
func (p *page) typeInto(selector, text string) {
	p.t.Helper()
	p.until(fmt.Sprintf(`document.querySelector(%q)`, selector))
	value[bool](p, fmt.Sprintf(`((f) => { f.value = %q; f.dispatchEvent(new Event("input", { bubbles: true })); return true; })(document.querySelector(%q))`, text, selector))
}

// press clicks the first button with a name in a part of the page.
func (p *page) press(part, name string) {
	p.t.Helper()
	button := fmt.Sprintf(`[...document.querySelectorAll(%q)].find((b) => b.textContent === %q && !b.disabled)`, part+" button", name)
	p.until(button)
	value[bool](p, button+`.click(), true`)
}

// crowd are clients that stay connected until an operator closes their session.
type crowd struct {
	mu     sync.Mutex
	urls   []string // client i is connected to element i modulo their number
	kicked []string // ids
}

// gather connects clients to nodes, and connects each again when its session has ended,
// for instance because a node was too busy for it, until the test ends.
func gather(t *testing.T, urls []string, ids []string) *crowd {
	t.Helper()
	c := &crowd{urls: urls}
	ctx, cancel := context.WithCancel(context.Background())
	var staying sync.WaitGroup
	places := make(chan struct{}, 16)
	for i, id := range ids {
		staying.Go(func() {
			for ctx.Err() == nil {
				places <- struct{}{}
				s, err := c.connect(ctx, i, id)
				<-places
				if err != nil {
					select {
					case <-time.After(50 * time.Millisecond): // the node may be starting or draining
					case <-ctx.Done():
					}
					continue
				}
				select {
				case <-s.Done():
				case <-ctx.Done():
				}
				s.Close()
				if websocket.CloseStatus(s.Err()) == frame.CloseForbidden {
					c.mu.Lock()
					c.kicked = append(c.kicked, id)
					c.mu.Unlock()
					return
				}
			}
		})
	}
	t.Cleanup(func() { cancel(); staying.Wait() })
	return c
}

func (c *crowd) connect(ctx context.Context, i int, id string) (*harness.Session, error) {
	c.mu.Lock()
	url := c.urls[i%len(c.urls)]
	c.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return harness.Dial(ctx, harness.WS(url), id, nil)
}

// move makes clients connect to other nodes when their session ends.
func (c *crowd) move(urls []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.urls = urls
}

func (c *crowd) closed() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.kicked)
}

// TestConsoleFindsAndKicksSessions counts 1,000 sessions of other members, finds one,
// and closes it.
func TestConsoleFindsAndKicksSessions(t *testing.T) {
	dev := harness.Start(t, binary, 3, auctions(t)...)
	ids := make([]string, 1000)
	for i := range ids {
		ids[i] = fmt.Sprintf("client-%d", i)
	}
	const sought = "<b>needle"
	ids[777] = sought
	clients := gather(t, dev.URLs[1:], ids)

	p := openAs(t, dev.URLs[0], "otto", "operator")
	p.visit("#/sessions")
	p.until(`document.querySelector("#total")?.textContent === "1,000 sessions, 0 slow; the first 200 are shown, slow ones first"`)
	p.until(`[...document.querySelectorAll("[aria-label=Gateways] tbody tr")].map((r) => r.children[0].textContent + r.children[1].textContent).join() === "dev10,dev2500,dev3500"`)
	screenshotAll(p, "console-sessions")
	p.typeInto("#find", "needle")
	p.until(`document.querySelector("#total").textContent.endsWith("; 1 with this text") && location.hash === "#/sessions?q=needle"`)
	p.until(`document.querySelectorAll("[aria-label=Sessions] tbody tr").length === 1`)
	wantAccessible(p)

	p.press("[aria-label=Sessions]", "Kick client")
	p.until(`document.querySelector("dialog[open] bdi").textContent === "<b>needle"`)
	const reason = `secret reason <img src=x onerror=alert(1)>`
	p.typeInto("dialog input[name=reason]", reason)
	screenshotAll(p, "console-kick")
	wantAccessible(p)
	p.press("dialog", "Kick client")
	p.until(`document.querySelector("#outcome")?.textContent === "closed 1 session with 4004"`)
	p.press("dialog", "Close")
	p.until(`!document.querySelector("dialog") && document.querySelector("#total").textContent.startsWith("999 sessions, 0 slow; 0 with this text")`)
	harness.Eventually(t, "that client alone gets 4004", func() error {
		if closed := clients.closed(); !slices.Equal(closed, []string{sought}) {
			return fmt.Errorf("the clients %q got it", closed)
		}
		return nil
	})

	p.visit("#/audit?q=kick")
	p.until(`document.querySelectorAll("[aria-label=Actions] tbody tr").length === 1`)
	row := value[[]string](p, `[...document.querySelectorAll("[aria-label=Actions] tbody td")].map((c) => c.textContent)`)
	if want := []string{"otto", "kick client", "client " + sought, reason, "done: closed 1 session with 4004"}; !slices.Equal(row[1:], want) {
		t.Errorf("the audit shows %q, want %q", row[1:], want)
	}
	screenshotAll(p, "console-audit")
	wantAccessible(p)
	p.typeInto("#find", "drain")
	p.until(`document.querySelector("[aria-label=Actions] .empty")?.textContent === "No action has this text."`)
	p.typeInto("#find", "")
	p.until(`document.querySelectorAll("[aria-label=Actions] tbody tr").length === 1`)
	click(p, "[aria-label=Actions] tbody a")
	p.until(`document.querySelector("#chosen")?.textContent === "Version 1: requested"`)
	if found := value[int](p, `document.querySelectorAll("img, main b, script:not([src])").length`); found > 0 {
		t.Errorf("the page has %d elements of the application's text", found)
	}
	p.wantConsole(busy)

	// A viewer sees that somebody acted, and neither target nor reason.
	vera := openAs(t, dev.URLs[2], "vera", "viewer")
	vera.visit("#/audit")
	vera.until(`document.querySelector("[aria-label=Actions] tbody tr")?.textContent.includes("ottokick clientdone")`)
	vera.visit("#/sessions")
	vera.until(`document.querySelector("#total")?.textContent.startsWith("999 sessions")`)
	if n := value[int](vera, `[...document.querySelectorAll("main button:not(.plain)")].filter((b) => b.textContent !== "Copy as text").length`); n > 0 {
		t.Errorf("a viewer sees %d buttons", n)
	}
	for _, path := range []string{"api/audit", "api/events?type=ops", "api/streams/ops/ganglion", "api/me"} {
		if body := answerOf(t, dev.URLs[2]+console+path, "viewer"); strings.Contains(body, "secret") || strings.Contains(body, "needle") {
			t.Errorf("%s tells a viewer %s", path, body)
		}
	}
	vera.wantConsole(busy)
}

// answerOf returns what the console answers to a user with a role.
func answerOf(t *testing.T, url, role string) string {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", `Bearer dev:vera {"ganglion_role":"`+role+`"}`)
	response, err := harness.HTTP.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		t.Fatal(response.Status, err)
	}
	return string(body)
}

// TestConsoleDrainsMember drains a member whose clients connect elsewhere, and lose
// nothing.
func TestConsoleDrainsMember(t *testing.T) {
	dev := harness.Start(t, binary, 3, auctions(t)...)
	ids := make([]string, 20)
	for i := range ids {
		ids[i] = fmt.Sprintf("client-%d", i)
	}
	clients := gather(t, dev.URLs[1:2], ids)
	sender := harness.Client{ID: "ada", URLs: []string{harness.WS(dev.URLs[1]), harness.WS(dev.URLs[0]), harness.WS(dev.URLs[2])}}
	defer sender.Leave()
	add := func(key string, version uint64) {
		t.Helper()
		for i := range 20 {
			f, err := sender.Do(t.Context(), fmt.Sprintf("counter/%d", i), "add", key, map[string]any{"by": 1})
			if err != nil || f.Version != version {
				t.Fatalf("counter/%d is at version %d, want %d: %v", i, f.Version, version, err)
			}
		}
	}
	add("first", 1)
	sender.Leave()

	p := openAs(t, dev.URLs[0], "otto", "operator")
	const row = `[...document.querySelectorAll("[aria-label=Members] tbody tr")].find((r) => r.firstChild.textContent === "dev2")`
	p.until(row + `?.children[6].textContent === "20"`)
	value[bool](p, row+`.querySelector("button").click(), true`)
	p.until(`document.querySelector("dialog button")?.disabled`) // until the name is typed
	p.typeInto("dialog input[name=typed]", "dev")
	p.until(`document.querySelector("dialog button").disabled`)
	p.typeInto("dialog input[name=typed]", "dev2")
	p.typeInto("dialog input[name=reason]", "maintenance")
	p.until(`/^It moves 20 sessions to 2 other members, and [\d,]+ partitions of [\d,]+ to 2 other members\.$/.test(document.querySelector("#moves")?.textContent)`)
	screenshotAll(p, "console-drain")
	wantAccessible(p)
	clients.move([]string{dev.URLs[0], dev.URLs[2]})
	value[bool](p, `shown = [], setInterval(() => { const r = `+row+`; if (r?.children[1].textContent === "draining") shown.push(r.children[6].textContent); }, 20), true`)
	p.press("dialog", "Drain")
	p.until(`/^dev2 (has left|drains)/.test(document.querySelector("#outcome")?.textContent)`) // on a busy machine it leaves later
	p.until(`!(` + row + `)`)
	last := 20
	for _, text := range value[[]string](p, `shown`) {
		n, err := strconv.Atoi(text)
		if err != nil || n > last {
			t.Fatalf("the page shows %q sessions after %d", text, last)
		}
		last = n
	}
	p.until(figure("Sessions") + ` === "20"`) // all are connected elsewhere
	if closed := clients.closed(); len(closed) > 0 {
		t.Errorf("the clients %q got 4004", closed)
	}
	add("first", 1) // was executed before
	add("second", 2)

	p.press("dialog", "Close")
	p.until(`!document.querySelector("dialog")`)
	p.press("[aria-label=Members]", "Log level")
	p.until(`document.querySelector("dialog select")`)
	value[bool](p, `((f) => { f.value = "warn"; f.dispatchEvent(new Event("change", { bubbles: true })); return true; })(document.querySelector("dialog select"))`)
	p.press("dialog", "Log level")
	p.until(`document.querySelector("#outcome")?.textContent === "the level of dev1's log is warn; it was info"`)
	p.press("dialog", "Close")

	downloads := t.TempDir()
	call(p, browserproto.SetDownloadBehavior, browserproto.SetDownloadBehaviorParams{
		Behavior: browserproto.SetDownloadBehaviorBehaviorAllow, BrowserContextID: chromedp.FromContext(p.ctx).BrowserContextID, DownloadPath: downloads,
	})
	p.press("[aria-label=Members] tbody tr:nth-child(2)", "Profile")
	p.until(`document.querySelector("dialog select")`)
	value[bool](p, `((f) => { f.value = "heap.pb.gz"; f.dispatchEvent(new Event("change", { bubbles: true })); return true; })(document.querySelector("dialog select"))`)
	screenshotAll(p, "console-profile")
	wantAccessible(p)
	p.press("dialog", "Profile")
	p.until(`document.querySelector("#outcome")?.textContent.startsWith("dev3-heap.pb.gz is in the folder for downloads.")`)
	harness.Eventually(t, "the file", func() error {
		file, err := os.Open(filepath.Join(downloads, "dev3-heap.pb.gz"))
		if err != nil {
			return err
		}
		defer file.Close()
		_, err = gzip.NewReader(file)
		return err
	})
	p.visit("#/audit")
	p.until(`document.querySelector("[aria-label=Actions] tbody tr:nth-child(2)")?.textContent.includes("ottodrainmember dev2maintenancedone: dev2 ")`)
	p.wantConsole(busy)
}

// TestConsoleShowsSlowReader shows a client that stops to read, reads again, and leaves.
func TestConsoleShowsSlowReader(t *testing.T) {
	dev := harness.Start(t, binary, 3, auctions(t)...)
	p := openAs(t, dev.URLs[0], "vera", "viewer")
	p.visit("#/sessions")

	slow, err := harness.Dial(t.Context(), harness.WS(dev.URLs[1]), "eve", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer slow.Close()
	// Each event has 4 KB and is sent 50 times: 100 events are more than what the
	// buffers of the kernel take, 4 MB.
	const copies, events = 50, 100
	var got atomic.Int64
	reads := make(chan struct{})
	for i := range copies {
		if _, err := slow.Subscribe(t.Context(), fmt.Sprint("copy", i), map[string]any{"category": "auction"}, func(f harness.Frame) {
			if f.Op == "event" {
				<-reads // the connection is not read in the meantime
				got.Add(1)
			}
		}); err != nil {
			t.Fatal(err)
		}
	}
	resume := sync.OnceFunc(func() { close(reads) })
	defer resume() // before slow is closed
	p.until(`document.querySelector("#total")?.textContent === "1 session, 0 slow"`)

	sender := harness.Client{ID: "ada", URLs: []string{harness.WS(dev.URLs[2])}}
	defer sender.Leave()
	for i := range events {
		data := map[string]any{"item": strings.Repeat("x", 4<<10), "reserve": 1, "closes_at": time.Date(2099, 1, 1, 0, 0, 0, 0, time.UTC)}
		if _, err := sender.Do(t.Context(), fmt.Sprintf("auction/%d", i), "open", fmt.Sprint(i), data); err != nil {
			t.Fatal(err)
		}
	}
	sender.Leave()
	const row = `[...document.querySelectorAll("[aria-label=Sessions] tbody tr")][0]`
	p.until(`document.querySelector("#total").textContent === "1 session, 1 slow"`)
	p.until(row + `?.className === "doubtful" && ` + row + `.children[0].textContent === "eve" && ` + row + `.children[6].textContent === "slow"`)
	p.until(`/ positions behind\)/.test(` + row + `.children[7].textContent) && ` + row + `.children[5].textContent !== "0 B"`)
	p.until(`document.querySelector("[aria-label=Gateways] tbody tr:nth-child(2)").innerText.split("\t").join() === "dev2,1,1"`)
	for _, name := range []string{"clipboard-read", "clipboard-write"} {
		call(p, browserproto.SetPermission, browserproto.SetPermissionParams{
			Permission: &browserproto.PermissionDescriptor{Name: name}, Setting: browserproto.PermissionSettingGranted, BrowserContextID: chromedp.FromContext(p.ctx).BrowserContextID,
		})
	}
	call(p, emulation.SetFocusEmulationEnabled, emulation.SetFocusEmulationEnabledParams{Enabled: true})
	id, _ := strings.CutSuffix(value[string](p, row+`.children[1].firstChild.title`), ": click to copy")
	if short := value[string](p, row+`.children[1].textContent`); len(id) != 36 || short != id[:8]+"…"+id[32:] {
		t.Errorf("the session %q is shown as %q", id, short)
	}
	click(p, "[aria-label=Sessions] tbody td:nth-child(2) button")
	value[bool](p, `copied = "", setInterval(() => navigator.clipboard.readText().then((text) => copied = text), 100), true`)
	p.until(fmt.Sprintf(`copied === %q`, id))
	screenshotAll(p, "console-slow")
	wantAccessible(p)
	p.visit("#/")
	p.until(figure("Slow sessions") + ` === "1"`)

	resume()
	harness.Eventually(t, "all events", func() error {
		if n := got.Load(); n != copies*events {
			return fmt.Errorf("%d events", n)
		}
		return nil
	})
	p.until(figure("Slow sessions") + ` === "0"`)
	p.visit("#/sessions")
	p.until(`document.querySelector("#total")?.textContent === "1 session, 0 slow" && ` + row + `?.children[6].textContent === "no"`)
	slow.Close()
	p.until(`document.querySelector("#total").textContent === "0 sessions, 0 slow" && !` + row)
	p.wantConsole(busy)
}
