package browser

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"github.com/ganglion-es/ganglion/gateway/token"
	"github.com/ganglion-es/ganglion/test/harness"
)

// console is where nodes serve the console.
const console = "/_ganglion/"

// TestConsoleShowsFiguresOfTheCluster counts what clients do at one node on a page
// of another.
func TestConsoleShowsFiguresOfTheCluster(t *testing.T) {
	dev := harness.Start(t, binary, 3, auctions(t)...)
	p := open(t, dev.URLs[0]+console)
	p.until(`document.querySelector("#live").textContent === "live from dev1"`)
	p.until(`document.querySelectorAll("[aria-label=Members] tbody tr").length === 3 && document.querySelector("#problems").textContent === "No problems found."`)

	client := harness.Client{ID: "ada", URLs: []string{harness.WS(dev.URLs[1])}}
	defer client.Leave()
	for i := range 20 {
		if _, err := client.Do(t.Context(), fmt.Sprintf("counter/%d", i), "add", fmt.Sprint(i), map[string]any{"by": 1}); err != nil {
			t.Fatal(err)
		}
	}
	p.until(figure("Head") + ` === "20"`)
	p.until(figure("Sessions") + ` === "1"`)
	p.until(`document.querySelector("[aria-label=Members] tbody tr:nth-child(2) td:nth-child(7)").textContent === "1"`)
	p.until(`/dev2:?\s*1/.test([...document.querySelectorAll(".u-legend")].at(-1).innerText)`) // the newest value, without a pointer
	screenshotAll(p, "console-overview")
	wantAccessible(p)
	loaded := value[int](p, `[...performance.getEntriesByType("navigation"), ...performance.getEntriesByType("resource")].filter((e) => !e.name.includes("/api/")).reduce((sum, e) => sum + e.encodedBodySize, 0)`)
	if loaded < 10<<10 || loaded > maxPage {
		t.Errorf("a first visit loads %d bytes, want at most %d", loaded, maxPage)
	}

	value[bool](p, `location.hash = "#/health", true`)
	p.until(`[...document.querySelectorAll("[aria-label=Members] tbody td:nth-child(2)")].filter((cell) => cell.textContent === "answers and stores").length === 3`)
	p.until(`document.querySelector("[aria-label=Log]").textContent.includes("position 20")`)
	p.until(`/Database\d.*Growth20 events in the last 24 hours, at most about \d.*Free disk[\d.]+ [KMGT]iB, enough for/.test(document.querySelector("[aria-label=Storage]")?.textContent)`)
	p.until(`document.querySelector("#verify").textContent.startsWith("none on the console lately")`)
	p.press("#verify", "Check the log")
	p.press("dialog", "Check the log")
	p.until(`document.querySelector("#outcome")?.textContent === "no faults found: 21 events in 21 commits of 21 streams, up to position 21"`)
	p.press("dialog", "Close")
	p.until(`/: sound, no faults found: 21 events/.test(document.querySelector("#verify").textContent)`)
	screenshotAll(p, "console-health")
	wantAccessible(p)
	p.wantConsole()
}

// figure returns the JavaScript of the value of a figure on the overview.
func figure(name string) string {
	return fmt.Sprintf(`[...document.querySelectorAll(".figure")].find((f) => f.firstChild.textContent === %q)?.lastChild.textContent`, name)
}

// TestConsoleFollowsMembersAndTokens kills a member, and lets the token of the user
// end, while a page is open.
func TestConsoleFollowsMembersAndTokens(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte(strings.Repeat("console ", 8)), 0o600); err != nil {
		t.Fatal(err)
	}
	consoles := []string{harness.FreeAddress(t), harness.FreeAddress(t), harness.FreeAddress(t)}
	nodes, _ := startTrio(t, secret, consoles...)
	grant := func(role string, life time.Duration) string {
		signed, err := token.Sign(secret, token.Grant{Client: "vera", ExpiresIn: life, Claims: map[string]any{"ganglion_role": role}})
		if err != nil {
			t.Fatal(err)
		}
		return signed
	}
	signIn := func(p *page, token string) {
		t.Helper()
		p.until(`document.querySelector("h1")?.textContent === "Sign in to the console"`)
		value[bool](p, fmt.Sprintf(`document.querySelector("input").value = %q, document.querySelector("form").requestSubmit(), true`, token))
	}

	p := open(t, "http://"+consoles[0]+console)
	p.until(`document.querySelector("[role=alert]").textContent.includes("the console needs a token")`)
	screenshotAll(p, "console-sign-in")
	wantAccessible(p)
	signIn(p, grant("king", time.Hour))
	p.until(`document.querySelector("[role=alert]").textContent.includes("needs the claim ganglion_role")`)
	long := grant("viewer", time.Hour)
	signIn(p, long)
	p.until(`document.querySelector("#live").textContent === "live from n1" && document.querySelectorAll("[aria-label=Members] tbody tr").length === 3`)
	p.until(`document.querySelector(".user").textContent === "vera, viewer"`)
	if found := value[bool](p, fmt.Sprintf(`(document.cookie + location.href + localStorage.length).includes(%q)`, long)); found {
		t.Error("the token is in a cookie, the URL or the local storage")
	}

	ring := open(t, "http://"+consoles[1]+console+"#/ring?aggregate=auction/7")
	signIn(ring, grant("viewer", time.Hour))
	ring.until(`document.querySelectorAll("[aria-label=Owners] tbody tr").length === 3 && /^auction.7 is in partition \d+, which n[123] owns/.test(document.querySelector("#owner").innerText)`)

	nodes[2].Kill()
	ring.until(`document.querySelectorAll("[aria-label=Owners] tbody tr").length === 2 && document.querySelectorAll("[aria-label='Moves of the last hour'] tbody tr").length > 1`)
	screenshotAll(ring, "console-ring")
	wantAccessible(ring)
	ring.wantConsole("401 (Unauthorized)")
	p.until(`document.querySelector("#problems").textContent.includes("n3 disappeared") && document.querySelectorAll("[aria-label=Members] tbody tr").length === 2`)
	p.until(`document.querySelector("#problems a").href.endsWith("/docs/runbooks.md#ganglionmemberlost")`)
	screenshotAll(p, "console-lost")

	// The page of an ended token asks for another one, and then continues.
	click(p, "header button")
	p.until(`document.querySelector("[role=alert]").textContent === "You have signed out."`)
	signIn(p, grant("viewer", 10*time.Second))
	p.until(`document.querySelector("[role=alert]")?.textContent.includes("the token expired")`)
	signIn(p, grant("operator", time.Hour))
	p.until(`document.querySelector(".user").textContent === "vera, operator" && document.querySelector("#live").textContent === "live from n1"`)
	p.wantConsole("401 (Unauthorized)", "403 (Forbidden)")
	for _, n := range nodes[:2] {
		if strings.Contains(n.Output(), long) {
			t.Error("the token is in the log of a node")
		}
	}
}

// TestConsoleTriesCommandsAndQueries fills forms that are made of the schema: a command
// that is rejected, one that is accepted, the same key again, a misspelt member, the
// state and a query. A proxy serves the console under a prefix.
func TestConsoleTriesCommandsAndQueries(t *testing.T) {
	dev := harness.Start(t, binary, 1, auctions(t)...)
	p := open(t, underPrefix(t, dev.URLs[0]+console)+"#/try/auction/42/open")
	fill := func(selector, text string) {
		t.Helper()
		p.until(fmt.Sprintf(`document.querySelector(%q)`, selector))
		value[bool](p, fmt.Sprintf(`((f) => { f.value = %q; f.dispatchEvent(new Event(f.tagName === "SELECT" ? "change" : "input", { bubbles: true })); return true; })(document.querySelector(%q))`, text, selector))
	}
	send := func() { click(p, ".try form button:not([type=button])") }
	answered := func(parts ...string) {
		t.Helper()
		for _, part := range parts {
			p.until(fmt.Sprintf(`document.querySelector(".frames .answer")?.innerText.includes(%q)`, part))
		}
	}
	fill("#client", "ada")
	fill("#field-item", `<img src=x onerror=alert(1)> \u202egnp.exe`)
	fill("#field-reserve", "1000")
	fill("#field-closes_at", "2099-01-01T00:00:00Z")
	p.until(`location.hash.includes("closes_at")`) // the form can be sent to a colleague
	send()
	answered("version 1, position 1")
	p.until(`[...document.querySelectorAll(".frames strong")].some((f) => f.textContent === "← event")`)
	if n := value[int](p, `document.querySelectorAll("img").length`); n > 0 {
		t.Error("data became an element of the page")
	}
	click(p, ".answer .journey button")
	p.until(`document.querySelector(".answer .journey table, .answer .journey .empty")`) // from now on the node remembers steps

	fill("#command", "bid")
	fill("#client", "bob")
	fill("#field-amount", "10")
	send()
	answered("rejected: too_low", "a bid is at least the reserve")
	screenshotAll(p, "console-try-rejected")
	fill("#key", "first-bid")
	fill("#field-amount", "1500")
	send()
	answered("version 2, position 2")
	click(p, ".answer .journey button")
	answered("the gateway received it, and answered", "the owner executed it", "its events were appended to the log")
	send()
	answered("the same key was executed before")
	fill("#field-amount", "many")
	p.until(`document.querySelector(".invalid [role=alert]").textContent === "is not a number"`)

	click(p, ".check input") // as JSON
	fill("#data", `{"ammount": 2000}`)
	fill("#key", "")
	send()
	p.until(`document.querySelector("#wrong code")?.textContent === "ammount"`)
	screenshotAll(p, "console-try-misspelt")
	wantAccessible(p)

	fill("#kind", "get")
	send()
	answered("version 2", `"bidder": "bob"`)
	fill("#kind", "query")
	fill("#query", "open_auctions")
	send()
	answered("position", `"key": "42"`)
	p.wantConsole()
}

// TestConsoleAsksToLoadItAgainAfterAnUpgrade opens a page whose file the node no longer
// has, since its program has other pages.
func TestConsoleAsksToLoadItAgainAfterAnUpgrade(t *testing.T) {
	dev := harness.Start(t, binary, 1, auctions(t)...)
	to, err := url.Parse(dev.URLs[0])
	if err != nil {
		t.Fatal(err)
	}
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(to)
		r.Out.Host = r.In.Host
	}}
	var isUpgraded atomic.Bool
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if isUpgraded.Load() && strings.HasPrefix(r.URL.Path, console+"pages-") {
			http.NotFound(w, r)
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	isUpgraded.Store(true)
	p := open(t, server.URL+console+"#/health")
	p.until(`document.querySelector("main [role=alert]")?.textContent.startsWith("The node did not send this page.")`)
	p.visit("#/")
	p.until(`document.querySelector("#problems")`)
	isUpgraded.Store(false)
	value[bool](p, `location.hash = "#/health", location.reload(), true`)
	p.until(`document.querySelector("[aria-label=Storage]")`)
	p.wantConsole("404 (Not Found)")
}

// underPrefix returns the URL, with a path of its own, at which a proxy serves a URL.
func underPrefix(t *testing.T, target string) string {
	t.Helper()
	to, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(to)
		r.Out.Host = r.In.Host
	}}
	server := httptest.NewServer(http.StripPrefix("/ops", proxy))
	t.Cleanup(server.Close)
	return server.URL + "/ops/"
}

// wantAccessible checks the page with axe, dark and light.
func wantAccessible(p *page) {
	p.t.Helper()
	script, err := os.ReadFile("../../web/console/node_modules/axe-core/axe.min.js")
	if err != nil {
		p.t.Fatal("axe is not installed, run scripts/client-js.sh examples: ", err)
	}
	value[bool](p, string(script)+"; true")
	for _, scheme := range []string{"light", "dark"} {
		p.setAppearance(1280, 800, scheme)
		value[bool](p, `faults = undefined, axe.run().then((r) => faults = r.violations.filter((v) => v.impact === "serious" || v.impact === "critical").map((v) => v.id + ": " + v.nodes.map((n) => n.html + " " + n.failureSummary).join("; "))), true`)
		p.until(`faults`)
		for _, fault := range value[[]string](p, `faults`) {
			p.t.Errorf("axe, %s: %s", scheme, fault)
		}
	}
}

// hostile is text that would run as a script if a page took it for HTML, and that is
// written from right to left.
const hostile = `</script><img src=x onerror=alert(1)>` + "\u202eשלום"

// TestConsoleShowsTheLogAndStepsThroughAStream bids on an auction whose id, item and
// bidders are hostile text, while a page shows the log.
func TestConsoleShowsTheLogAndStepsThroughAStream(t *testing.T) {
	args := auctions(t)
	dev := harness.Start(t, binary, 3, args...)
	p := open(t, dev.URLs[0]+console+"#/log")
	p.until(`document.querySelector("#tail").textContent === "live" && document.body.innerText.includes("appear here as they happen")`)

	id := strings.ReplaceAll(strings.ReplaceAll(hostile, "/", "-"), "\u202e", "") + strings.Repeat("ש", 60)
	ada, bob := harness.Client{ID: "ada", URLs: []string{harness.WS(dev.URLs[1])}}, harness.Client{ID: "<b>bob", URLs: []string{harness.WS(dev.URLs[2])}}
	defer ada.Leave()
	defer bob.Leave()
	do := func(c *harness.Client, key, name string, data any) {
		t.Helper()
		if _, err := c.Do(t.Context(), "auction/"+id, name, key, data); err != nil {
			t.Fatal(err)
		}
	}
	do(&ada, "open", "open", map[string]any{"item": hostile + strings.Repeat(" lamp", 700), "reserve": 1, "closes_at": time.Now().Add(time.Hour)})
	for i := range 110 {
		do(&bob, fmt.Sprint("bid", i), "bid", map[string]any{"amount": 10 + i})
	}
	do(&bob, "last", "bid", map[string]any{"amount": 500})
	rows := `[...document.querySelectorAll("table.log tbody tr:not(.gap)")]`
	p.until(rows + `[0]?.querySelector(".version").textContent === "112"`)
	p.until(rows + `[0].querySelector(".text").textContent.includes('"amount":500')`)
	if shown := value[int](p, rows+".length"); shown > 200 {
		t.Errorf("the log has %d rows", shown)
	}
	if text := value[string](p, rows+`[0].querySelector(".stream").textContent`); text != "auction/"+id {
		t.Errorf("the row shows the stream %q, want %q", text, "auction/"+id)
	}
	screenshotAll(p, "console-log")
	wantAccessible(p)

	click(p, "#pause")
	p.until(`document.querySelector("#tail").textContent.startsWith("paused")`)
	do(&bob, "paused", "bid", map[string]any{"amount": 501})
	p.until(`document.querySelector("#tail").textContent === "paused, 1 newer"`)
	click(p, "#pause")
	p.until(rows + `[0].querySelector(".version").textContent === "113"`)

	// Its time has a date on the next day.
	value[bool](p, `((today) => { Date = class extends today { constructor(...at) { super(...(at.length ? at : [today.now() + 86_400_000])); } }; })(Date), true`)
	p.visit("#/log?position=2")
	p.until(`/^\d{4}-\d\d-\d\d [\d:.]{12}$/.test(` + rows + `[0]?.querySelector(".time").textContent)`)
	screenshotAll(p, "console-log-dates")

	// An event is opened, and its stream at its version.
	value[bool](p, `location.hash = "#/log?position=1", location.reload(), true`)
	p.until(`document.querySelector(".details .lines")?.textContent.includes("onerror=alert(1)")`)
	p.until(`document.querySelector(".details h3").textContent.includes("the first 2.0 KiB of")`)
	click(p, ".details .json .buttons button")
	p.until(`document.querySelector(".details h3").textContent === "Data" && document.querySelectorAll(".details .line").length === 6`)
	screenshotAll(p, "console-log-event")
	click(p, "table.log td.stream a")
	p.until(`document.querySelector("#chosen")?.textContent === "Version 1: opened"`)
	p.until(`location.hash.endsWith("?at=1")`)

	// Only the keyboard is used from here on.
	press := func(key, version string) {
		t.Helper()
		p.do(chromedp.KeyEvent(key))
		p.until(fmt.Sprintf(`document.querySelector("#chosen")?.textContent.startsWith("Version %s:") && location.hash.endsWith("?at=%s")`, version, version))
	}
	for _, step := range [][2]string{{"j", "2"}, {kb.ArrowDown, "3"}, {"k", "2"}, {kb.End, "113"}, {kb.ArrowUp, "112"}, {kb.Home, "1"}, {kb.ArrowDown, "2"}} {
		press(step[0], step[1])
	}
	p.until(`document.querySelector(".line.removed")?.textContent.includes("null")`) // there was no top bid
	press(kb.End, "113")
	p.until(`document.querySelectorAll(".line.changed").length === 2 && document.querySelector(".line.changed").textContent.includes("500") && document.querySelector(".line.changed").textContent.includes("501")`)
	if shown := value[int](p, `document.querySelectorAll("[role=option]").length`); shown != 13 {
		t.Errorf("the list has %d rows, want versions 101 to 113", shown)
	}
	screenshotAll(p, "console-stream")
	wantAccessible(p)
	value[bool](p, `stream = location.hash, [...document.querySelectorAll(".jump a")].find((a) => a.textContent === "Open in Try").click(), true`)
	p.until(`document.querySelector("#kind")?.value === "get" && document.querySelector("#type").value === "auction" && document.querySelector("#aggregate").value.startsWith("<-script><img")`)
	click(p, ".try form button:not([type=button])")
	p.until(`document.querySelector(".frames .answer")?.innerText.includes("version 113")`)
	value[bool](p, `location.hash = stream, true`)
	p.until(`document.querySelector("#chosen")?.textContent.startsWith("Version 113:")`)

	// A page that follows the newest version shows one more bid without being loaded again.
	value[bool](p, `location.hash = location.hash.split("?")[0], true`)
	p.until(`document.querySelector("#head")?.textContent === "113 events" && document.body.innerText.includes("Following the newest")`)
	do(&bob, "live", "bid", map[string]any{"amount": 502})
	p.until(`document.querySelector("#chosen")?.textContent.startsWith("Version 114:")`)
	if found := value[int](p, `document.querySelectorAll("img, b, script:not([src])").length`); found > 0 {
		t.Errorf("the page has %d elements of the application's text", found)
	}
	p.wantConsole()

	// A viewer sees names, and no data.
	value[bool](p, `sessionStorage.setItem("ganglion-console-token", 'dev:vera {"ganglion_role":"viewer"}'), location.reload(), true`)
	p.until(`document.querySelector(".note")?.textContent.includes("You have the role viewer") && document.body.innerText.includes("bid_placed")`)
	if value[bool](p, `document.body.innerText.includes("amount")`) {
		t.Error("the page shows data to a viewer")
	}
	screenshotAll(p, "console-stream-viewer")
	p.wantConsole()

	// The tail continues after its node was killed and started again.
	value[bool](p, `sessionStorage.clear(), location.hash = "#/log", location.reload(), true`)
	p.until(`document.querySelector("#tail")?.textContent === "live" && ` + rows + `[0]?.querySelector(".position").textContent === "114"`)
	dev.Kill()
	p.until(`document.querySelector("#tail").textContent === "connecting"`)
	harness.Start(t, binary, 3, args...)
	for i := range 20 {
		do(&bob, fmt.Sprint("again", i), "bid", map[string]any{"amount": 600 + i})
	}
	p.until(rows + `[0].querySelector(".position").textContent === "134"`)
	positions := value[[]int](p, rows+`.map((r) => Number(r.querySelector(".position").textContent))`)
	for i, position := range positions {
		if position != 134-i {
			t.Fatalf("the page shows the positions %v", positions)
		}
	}
}
