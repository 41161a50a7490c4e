package browser

import (
	"testing"

	"github.com/ganglion-es/ganglion/test/harness"
)

// TestDocsShowTheContract reads the page of the contract, which a node serves under a
// policy that forbids scripts and other resources, in both color schemes and on a
// phone.
func TestDocsShowTheContract(t *testing.T) {
	t.Parallel()
	dev := harness.Start(t, binary, 1, "dev", "--listen", "127.0.0.1:0", "--data", t.TempDir())
	p := open(t, dev.URLs[0]+"/v1/docs")
	p.until(`document.querySelector("h2#auction") !== null`)
	for what, script := range map[string]string{
		"commands":              `["open", "bid", "close"].every(name => document.getElementById("auction.commands." + name).innerText === name)`,
		"no commands of nodes":  `document.getElementById("auction.commands.end") === null`,
		"members":               `[...document.querySelectorAll("td code")].some(c => c.innerText === "top.bidder")`,
		"rejections":            `[...document.querySelectorAll("tr")].some(r => r.innerText.includes("too_low") && r.innerText.includes("more than the top bid"))`,
		"examples":              `[...document.querySelectorAll("pre")].some(p => JSON.parse(p.innerText).amount === 1500)`,
		"queries":               `document.getElementById("queries.open_auctions").innerText === "open_auctions"`,
		"links inside the page": `[...document.querySelectorAll('a[href^="#"]')].every(a => document.getElementById(a.hash.slice(1)))`,
		"its own styles":        `getComputedStyle(document.querySelector("main")).maxWidth !== "none"`,
		"no other resources":    `performance.getEntriesByType("resource").every(r => r.name.endsWith("/favicon.ico"))`,
	} {
		if !value[bool](p, script) {
			t.Errorf("the page lacks: %s", what)
		}
	}
	colors := map[string]bool{}
	for _, scheme := range []string{"light", "dark"} {
		p.setAppearance(390, 844, scheme)
		colors[value[string](p, `getComputedStyle(document.body).backgroundColor`)] = true
		if !value[bool](p, `document.documentElement.scrollWidth <= innerWidth`) {
			t.Error("the page is wider than a phone")
		}
		p.screenshot("docs-" + scheme)
	}
	if len(colors) != 2 {
		t.Errorf("the page has the same background in both color schemes: %v", colors)
	}
	p.wantConsole("favicon.ico")
	if value[bool](p, `[...document.querySelectorAll('p.soft a')].length !== 3`) {
		t.Error("the page does not link the documents")
	}
}
