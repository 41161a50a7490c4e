package browser

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/ganglion-es/ganglion/test/harness"
)

// TestTwoBrowsersBidAgainstEachOther plays the auction of "ganglion dev" on two
// pages that use different gateways.
func TestTwoBrowsersBidAgainstEachOther(t *testing.T) {
	args := auctions(t)
	dev := harness.Start(t, binary, 3, args...)
	ada, bob := bidders(t, dev)
	if a, b := value[string](ada, gateway), value[string](bob, gateway); a == b || !strings.Contains(dev.URLs[0], a) || !strings.Contains(dev.URLs[1], b) {
		t.Fatalf("the pages use the gateways %s and %s, want different ones", a, b)
	}
	ada.screenshot("auction-before")
	ada.until(`!document.querySelector("#open").hidden`)
	click(ada, "#open")
	for _, p := range []*page{ada, bob} {
		p.until(`document.querySelector("#top").textContent === "€20.00" && !document.querySelector("#form").hidden`)
	}

	click(ada, "#steps button") // the reserve
	bob.until(`document.querySelector("#leader").textContent === "by ada"`)
	ada.until(`document.querySelector("#leader").textContent === "You are ahead" && !document.querySelector(".pending")`)
	enter(bob, "25.50")
	for _, p := range []*page{ada, bob} {
		p.until(`document.querySelector("#top").textContent === "€25.50" && document.querySelectorAll("#bids li:not(.pending)").length === 2`)
	}

	enter(ada, "21") // too low: shown as pending, then withdrawn
	ada.until(`document.querySelector("#problem").textContent.includes("more than the top bid")`)
	ada.until(`document.querySelectorAll("#bids li").length === 2`)

	// Without a gateway, the page shows a bid as pending and sends it after the reconnect.
	for _, p := range []*page{ada, bob} {
		value[bool](p, `banners = [], new MutationObserver((records) => banners.push(...records.flatMap((r) => [...r.addedNodes].map((n) => n.textContent)))).observe(
			document.querySelector("#banner"), { childList: true }), true`)
	}
	dev.Kill()
	ada.until(`!document.querySelector("#banner").hidden`)
	enter(ada, "44")
	ada.until(`document.querySelector(".pending") && document.querySelector("#banner").textContent.includes("kept")`)
	ada.until(`document.querySelector("#top").textContent === "€44.00" && document.querySelector("#leader").textContent === "You would be ahead"`)
	screenshotAll(ada, "auction-offline")
	harness.Start(t, binary, 3, args...)
	for _, p := range []*page{ada, bob} {
		p.until(`document.querySelector("#status").textContent === "live" && document.querySelector("#banner").hidden`)
		p.until(`document.querySelector("#top").textContent === "€44.00" && !document.querySelector(".pending")`)
		p.until(`document.querySelectorAll("#bids li").length === 3`)
		for _, banner := range []string{"No connection", "Reconnecting", "Catching up"} {
			if shown := value[[]string](p, `banners`); !slices.ContainsFunc(shown, func(s string) bool { return strings.HasPrefix(s, banner) }) {
				t.Errorf("the banner never showed %q: %q", banner, shown)
			}
		}
	}
	ada.until(`document.querySelector("#leader").textContent === "You are ahead"`)
	screenshotAll(bob, "auction-live")
}

// auctions returns the arguments of three nodes that keep their ports and their log
// when they are started again.
func auctions(t *testing.T) []string {
	return []string{"dev", "--nodes", "3", "--listen", fmt.Sprintf("127.0.0.1:%d", harness.FreePorts(t, 3)), "--data", t.TempDir()}
}

// bidders returns the pages of Ada and Bob, who look at lot 7 and use different
// gateways.
func bidders(t *testing.T, dev *harness.Node) (ada, bob *page) {
	t.Helper()
	at := func(node int, client string) *page {
		p := open(t, fmt.Sprintf("%s/examples/auction/?as=%s&lot=7&gateway=ws%s", dev.URLs[node], client, strings.TrimPrefix(dev.URLs[node], "http")))
		p.until(`document.querySelector("#status").textContent === "live"`)
		return p
	}
	return at(0, "ada"), at(1, "bob")
}

// screenshotAll takes screenshots of the page, narrow and wide, light and dark.
func screenshotAll(p *page, name string) {
	for shape, size := range map[string][2]int64{"wide": {1280, 800}, "narrow": {390, 844}} {
		for _, scheme := range []string{"light", "dark"} {
			p.setAppearance(size[0], size[1], scheme)
			p.screenshot(name + "-" + shape + "-" + scheme)
		}
	}
}

const gateway = `document.querySelector("#gateway").textContent`

func click(p *page, selector string) {
	p.t.Helper()
	value[bool](p, fmt.Sprintf(`document.querySelector(%q).click(), true`, selector))
}

// enter enters a bid and clicks the button.
func enter(p *page, amount string) {
	p.t.Helper()
	value[bool](p, fmt.Sprintf(`document.querySelector("#amount").value = %q, true`, amount))
	click(p, "#bid")
}
