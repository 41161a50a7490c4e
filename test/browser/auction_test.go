package browser

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/ganglion-es/ganglion/test/harness"
)

// TestTwoBrowsersBidAgainstEachOther is the auction of "ganglion dev", over
// different gateways.
func TestTwoBrowsersBidAgainstEachOther(t *testing.T) {
	args := []string{"dev", "--nodes", "3", "--listen", fmt.Sprintf("127.0.0.1:%d", freePorts(t)), "--data", t.TempDir()}
	dev := harness.Start(t, binary, 3, args...)
	at := func(node int, who string) *page {
		return open(t, fmt.Sprintf("%s/examples/auction/?as=%s&lot=7&gateway=ws%s", dev.URLs[node], who, strings.TrimPrefix(dev.URLs[node], "http")))
	}
	ada, bob := at(0, "ada"), at(1, "bob")
	for _, p := range []*page{ada, bob} {
		p.until(`document.querySelector("#status").textContent === "live"`)
	}
	if a, b := value[string](ada, gateway), value[string](bob, gateway); a == b || !strings.Contains(dev.URLs[0], a) || !strings.Contains(dev.URLs[1], b) {
		t.Fatalf("they are at %s and %s, which are not gateways of their own", a, b)
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

	enter(ada, "21") // is shown at once, and is too low
	ada.until(`document.querySelector("#problem").textContent.includes("more than the top bid")`)
	ada.until(`document.querySelectorAll("#bids li").length === 2`)

	// A bid without a gateway is shown as what it is, kept, and sent once there is one.
	for _, p := range []*page{ada, bob} {
		value[bool](p, `said = [], new MutationObserver((records) => said.push(...records.flatMap((r) => [...r.addedNodes].map((n) => n.textContent)))).observe(
			document.querySelector("#banner"), { childList: true }), true`)
	}
	dev.Kill()
	ada.until(`!document.querySelector("#banner").hidden`)
	enter(ada, "44")
	ada.until(`document.querySelector(".pending") && document.querySelector("#banner").textContent.includes("kept")`)
	ada.until(`document.querySelector("#top").textContent === "€44.00" && document.querySelector("#leader").textContent === "You would be ahead"`)
	pictures(ada, "auction-offline")
	harness.Start(t, binary, 3, args...)
	for _, p := range []*page{ada, bob} {
		p.until(`document.querySelector("#status").textContent === "live" && document.querySelector("#banner").hidden`)
		p.until(`document.querySelector("#top").textContent === "€44.00" && !document.querySelector(".pending")`)
		p.until(`document.querySelectorAll("#bids li").length === 3`)
		for _, banner := range []string{"No connection", "Reconnecting", "Catching up"} {
			if said := value[[]string](p, `said`); !slices.ContainsFunc(said, func(s string) bool { return strings.HasPrefix(s, banner) }) {
				t.Errorf("the banner never said %q: %q", banner, said)
			}
		}
	}
	ada.until(`document.querySelector("#leader").textContent === "You are ahead"`)
	pictures(bob, "auction-live")
}

// pictures shows the page narrow and wide, light and dark.
func pictures(p *page, name string) {
	for shape, size := range map[string][2]int64{"wide": {1280, 800}, "narrow": {390, 844}} {
		for _, scheme := range []string{"light", "dark"} {
			p.look(size[0], size[1], scheme)
			p.screenshot(name + "-" + shape + "-" + scheme)
		}
	}
}

const gateway = `document.querySelector("#gateway").textContent`

func click(p *page, selector string) {
	p.t.Helper()
	value[bool](p, fmt.Sprintf(`document.querySelector(%q).click(), true`, selector))
}

// enter writes a bid, and presses the button.
func enter(p *page, amount string) {
	p.t.Helper()
	value[bool](p, fmt.Sprintf(`document.querySelector("#amount").value = %q, true`, amount))
	click(p, "#bid")
}

// freePorts returns the first of three ports that were free a moment ago.
func freePorts(t *testing.T) int {
	for range 100 {
		first := harness.FreePort(t)
		if free(first+1) && free(first+2) {
			return first
		}
	}
	t.Fatal("there are no three free ports in a row")
	return 0
}

func free(port int) bool {
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return false
	}
	return l.Close() == nil
}
