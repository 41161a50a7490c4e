package browser

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"

	"github.com/ganglion-es/ganglion/test/harness"
)

// TestListOfAuctionsFollowsOtherGateways follows the list of open auctions on two
// pages that use different gateways.
func TestListOfAuctionsFollowsOtherGateways(t *testing.T) {
	args := auctions(t)
	dev := harness.Start(t, binary, 3, args...)
	harness.Eventually(t, "an answer about an empty log", func() error {
		_, err := ask(dev.URLs[2])
		return err
	})
	ada, bob := bidders(t, dev)
	both := []*page{ada, bob}
	for _, p := range both {
		value[bool](p, `loaded = true`) // until the page is loaded again
		p.until(`document.querySelector("#unlisted").textContent === "Nothing is for sale." && !document.querySelector("#unlisted").hidden`)
	}

	send := func(client, command string) {
		t.Helper()
		if err := post(dev.URLs[2], "dev:"+client, command); err != nil {
			t.Fatal(err)
		}
	}
	open := func(lot, item string, cents int) {
		t.Helper()
		send("house", fmt.Sprintf(`{"aggregate":"auction/%s","command":"open","data":{"item":%q,"reserve":%d,"closes_at":"2099-01-01T00:00:00Z"}}`, lot, item, cents))
	}
	open("cheap", "Night light", 1000)
	open("dear", "Chandelier with 24 arms, from a hotel that has closed", 90000)
	open("over", "Lamp of a film set", 1500)
	click(ada, "#open")
	for _, p := range both {
		p.until(rows("cheap €10.00", "over €15.00", "7 €20.00", "dear €900.00"))
		p.until(`document.querySelector("#list [aria-current]").innerText.includes("Lot 7")`)
	}

	// A row opens its lot on the page. The page of Bob follows the bid that Ada makes
	// there: the same elements, of which only one changes.
	value[bool](bob, `kept = [...document.querySelectorAll("#list li")], true`)
	click(ada, link("cheap"))
	ada.until(`location.search.includes("lot=cheap") && document.querySelector("#item").textContent === "Night light" && document.querySelector("#top").textContent === "€10.00"`)
	enter(ada, "17")
	for _, p := range both {
		p.until(rows("over €15.00", "cheap €17.00", "7 €20.00", "dear €900.00"))
	}
	bob.until(`((now = [...document.querySelectorAll("#list li")]) => kept[0] === now[1] && kept[1] === now[0] && kept[2] === now[2] && kept[3] === now[3])()`)
	bob.until(`[...document.querySelectorAll("#list .new")].map((b) => b.textContent).join() === "€17.00"`)
	value[bool](ada, `history.back(), true`)
	ada.until(`document.querySelector("#lot").textContent === "Lot 7" && document.querySelector("#list [aria-current]").innerText.includes("Lot 7")`)

	// A search by price.
	find(bob, "19,50")
	bob.until(rows("over €15.00", "cheap €17.00"))
	find(bob, "3")
	bob.until(rows() + ` && document.querySelector("#unlisted").textContent === "Nothing up to €3.00."`)
	find(bob, "19.5")
	bob.until(rows("over €15.00", "cheap €17.00"))
	click(ada, link("over"))
	ada.until(`document.querySelector("#top").textContent === "€15.00"`)
	enter(ada, "40") // beyond Bob's search
	bob.until(rows("cheap €17.00"))
	find(bob, "")
	bob.until(rows("cheap €17.00", "7 €20.00", "over €40.00", "dear €900.00"))

	// With the keyboard: the row keeps the focus when it moves.
	value[bool](bob, fmt.Sprintf(`document.querySelector(%q).focus(), true`, link("cheap")))
	click(ada, link("cheap"))
	ada.until(`document.querySelector("#top").textContent === "€17.00"`)
	enter(ada, "30")
	bob.until(rows("7 €20.00", "cheap €30.00", "over €40.00", "dear €900.00"))
	bob.do(chromedp.KeyEvent("\r"))
	bob.until(`document.querySelector("#item").textContent === "Night light" && document.activeElement.href.includes("lot=cheap")`)

	// It is open for 15 minutes, the last of three random choices.
	value[bool](ada, `((random) => { Math.random = () => 0.9; document.querySelector("#another").click(); Math.random = random; return true; })(Math.random)`)
	for _, p := range both {
		p.until(`document.querySelectorAll("#list li").length === 5`)
	}
	ada.until(`document.querySelector("#list [aria-current]").innerText.includes(document.querySelector("#lot").textContent) && !document.querySelector("#form").hidden`)
	screenshotAll(bob, "auction-list")
	for _, p := range both {
		p.wantConsole()
	}

	// While the cluster is away, the rows stay. Then they are right again.
	before := value[string](bob, listed)
	dev.Kill()
	for _, p := range both {
		p.until(`!document.querySelector("#banner").hidden`)
		if now := value[string](p, listed); now != before {
			t.Errorf("without the cluster the list shows %s, before %s", now, before)
		}
	}
	screenshotAll(bob, "auction-list-offline")
	dev = harness.Start(t, binary, 3, args...)
	send("eve", `{"aggregate":"auction/7","command":"bid","data":{"amount":100000}}`)
	for _, p := range both {
		p.until(`document.querySelector("#status").textContent === "live"`)
		p.until(`[...document.querySelectorAll("#list li b")].at(-1).textContent === "€1,000.00"`)
		if want, err := ask(dev.URLs[2]); err != nil {
			t.Error(err)
		} else if now := value[string](p, listed); now != want {
			t.Errorf("the list shows %s, the query answers %s", now, want)
		}
		if !value[bool](p, `loaded`) {
			t.Error("the page was loaded again")
		}
		p.wantConsole("ERR_CONNECTION_REFUSED", "WebSocket connection to")
	}

	// Without motion, if the user prefers that.
	call(bob, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-reduced-motion", Value: "reduce"}}})
	bob.until(`[...document.querySelectorAll(".new")].length > 0 && [...document.querySelectorAll(".new")].every((e) => getComputedStyle(e).animationName === "none")`)
}

// listed is the list as a page shows it, such as "7 €20.00, dear €900.00".
const listed = `[...document.querySelectorAll("#list li")].filter((li) => !li.hidden).map((li) => li.querySelector("small").textContent.split(" ")[1] + " " + li.querySelector("b").textContent).join(", ")`

// rows returns the condition that a page lists these auctions.
func rows(want ...string) string {
	return fmt.Sprintf("%s === %q", listed, strings.Join(want, ", "))
}

// link returns the selector of a lot's row.
func link(lot string) string { return fmt.Sprintf(`#list a[href*="lot=%s"]`, lot) }

// find searches for auctions up to a price.
func find(p *page, euros string) {
	p.t.Helper()
	value[bool](p, fmt.Sprintf(`((i) => { i.value = %q; i.dispatchEvent(new Event("input")); return true; })(document.querySelector("#budget"))`, euros))
}

// ask asks a gateway for the open auctions, and returns them in the form of listed.
func ask(url string) (string, error) {
	response, err := harness.HTTP.Post(url+"/v1/queries/open_auctions", "application/json", strings.NewReader("{}"))
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	var result struct {
		Detail string // of an error
		Data   struct {
			Rows []struct {
				Key  string
				Data struct{ Price int64 }
			}
		}
	}
	if err := json.NewDecoder(response.Body).Decode(&result); err != nil || response.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s: %s (%v)", response.Status, result.Detail, err)
	}
	var texts []string
	for _, r := range result.Data.Rows {
		euros := fmt.Sprint(r.Data.Price / 100)
		if len(euros) > 3 {
			euros = euros[:len(euros)-3] + "," + euros[len(euros)-3:]
		}
		texts = append(texts, fmt.Sprintf("%s €%s.%02d", r.Key, euros, r.Data.Price%100))
	}
	return strings.Join(texts, ", "), nil
}
