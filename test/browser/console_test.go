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
	"testing"
	"time"

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
	short := grant("viewer", 25*time.Second)
	signIn(p, short)
	p.until(`document.querySelector("#live").textContent === "live from n1" && document.querySelectorAll("[aria-label=Members] tbody tr").length === 3`)
	p.until(`document.querySelector(".user").textContent === "vera, viewer"`)
	if found := value[bool](p, fmt.Sprintf(`(document.cookie + location.href + localStorage.length).includes(%q)`, short)); found {
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
	signIn(p, grant("operator", time.Hour))
	p.until(`document.querySelector(".user").textContent === "vera, operator" && document.querySelector("#live").textContent === "live from n1"`)
	p.wantConsole("401 (Unauthorized)", "403 (Forbidden)")
	for _, n := range nodes[:2] {
		if strings.Contains(n.Output(), short) {
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
