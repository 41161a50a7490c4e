package browser

import (
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/coder/websocket"

	"github.com/ganglion-es/ganglion/proto/frame"
	"github.com/ganglion-es/ganglion/test/harness"
)

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

// dialAll opens sessions at nodes, one for each client id, in turn. The end of the test
// closes them.
func dialAll(t *testing.T, urls []string, ids []string) []*harness.Session {
	t.Helper()
	sessions, errs := make([]*harness.Session, len(ids)), make([]error, len(ids))
	var dialing sync.WaitGroup
	places := make(chan struct{}, 16)
	for i, id := range ids {
		dialing.Go(func() {
			places <- struct{}{}
			defer func() { <-places }()
			sessions[i], errs[i] = harness.Dial(t.Context(), harness.WS(urls[i%len(urls)]), id, nil)
		})
	}
	dialing.Wait()
	t.Cleanup(func() {
		for _, s := range sessions {
			if s != nil {
				s.Close()
			}
		}
	})
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
	return sessions
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
	sessions := dialAll(t, dev.URLs[1:], ids)
	if _, err := sessions[777].Call(t.Context(), map[string]any{"op": "subscribe", "stream": "auction/1"}); err != nil {
		t.Fatal(err)
	}

	p := openAs(t, dev.URLs[0], "otto", "operator")
	p.visit("#/sessions")
	p.until(`document.querySelector("#total")?.textContent === "1,000 sessions, 0 slow; the first 200 are shown, slow ones first"`)
	p.until(`[...document.querySelectorAll("[aria-label=Gateways] tbody tr")].map((r) => r.children[0].textContent + r.children[1].textContent).join() === "dev10,dev2500,dev3500"`)
	screenshotAll(p, "console-sessions")
	p.typeInto("#find", "needle")
	p.until(`document.querySelector("#total").textContent.endsWith("; 1 with this text") && location.hash === "#/sessions?q=needle"`)
	p.until(`document.querySelectorAll("[aria-label=Sessions] tbody tr").length === 1 && document.querySelector("[aria-label=Sessions] tbody").innerText.includes("auction/1")`)
	wantAccessible(p)

	p.press("[aria-label=Sessions]", "Kick client")
	p.until(`document.querySelector("dialog[open] bdi").textContent === "<b>needle"`)
	const reason = `secret reason <img src=x onerror=alert(1)>`
	p.typeInto("dialog input[name=reason]", reason)
	screenshotAll(p, "console-kick")
	wantAccessible(p)
	p.press("dialog", "Kick client")
	p.until(`document.querySelector("#outcome")?.textContent === "closed 1 session with 4004"`)
	if code := websocket.CloseStatus(sessions[777].Err()); code != frame.CloseForbidden {
		t.Errorf("the client gets the close code %d", code)
	}
	p.press("dialog", "Close")
	p.until(`!document.querySelector("dialog") && document.querySelector("#total").textContent.startsWith("999 sessions, 0 slow; 0 with this text")`)
	for i, s := range sessions {
		if i == 777 {
			continue
		}
		if _, err := s.Call(t.Context(), map[string]any{"op": "ping"}); err != nil {
			t.Fatalf("the session of %s: %v", ids[i], err)
		}
	}

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
	p.wantConsole()

	// A viewer sees that somebody acted, and neither target nor reason.
	vera := openAs(t, dev.URLs[2], "vera", "viewer")
	vera.visit("#/audit")
	vera.until(`document.querySelector("[aria-label=Actions] tbody tr")?.textContent.includes("ottokick clientdone")`)
	vera.visit("#/sessions")
	vera.until(`document.querySelector("#total")?.textContent.startsWith("999 sessions")`)
	if n := value[int](vera, `[...document.querySelectorAll("main button")].filter((b) => b.textContent !== "Copy as text").length`); n > 0 {
		t.Errorf("a viewer sees %d buttons", n)
	}
	for _, path := range []string{"api/audit", "api/events?type=ops", "api/streams/ops/ganglion", "api/me"} {
		if body := answerOf(t, dev.URLs[2]+console+path, "viewer"); strings.Contains(body, "secret") || strings.Contains(body, "needle") {
			t.Errorf("%s tells a viewer %s", path, body)
		}
	}
	vera.wantConsole()
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
	clients := make([]harness.Client, 60)
	add := func(key string) {
		t.Helper()
		var adding sync.WaitGroup
		for i := range clients {
			adding.Go(func() {
				if _, err := clients[i].Do(t.Context(), fmt.Sprintf("counter/%d", i), "add", key, map[string]any{"by": 1}); err != nil {
					t.Error(err)
				}
			})
		}
		adding.Wait()
	}
	for i := range clients {
		clients[i].ID, clients[i].URLs = fmt.Sprintf("c%d", i), []string{harness.WS(dev.URLs[1]), harness.WS(dev.URLs[0]), harness.WS(dev.URLs[2])}
		defer clients[i].Leave()
	}
	add("before")

	p := openAs(t, dev.URLs[0], "otto", "operator")
	const row = `[...document.querySelectorAll("[aria-label=Members] tbody tr")].find((r) => r.firstChild.textContent === "dev2")`
	p.until(row + `?.children[6].textContent === "60"`)
	value[bool](p, `shown = [], setInterval(() => { const r = `+row+`; if (r) shown.push(r.children[6].textContent); }, 20), true`)
	value[bool](p, row+`.querySelector("button").click(), true`)
	p.until(`document.querySelector("dialog button")?.disabled`) // until the name is typed
	p.typeInto("dialog input[name=typed]", "dev")
	p.until(`document.querySelector("dialog button").disabled`)
	p.typeInto("dialog input[name=typed]", "dev2")
	p.typeInto("dialog input[name=reason]", "maintenance")
	screenshotAll(p, "console-drain")
	wantAccessible(p)
	p.press("dialog", "Drain")
	p.until(`document.querySelector("#outcome")?.textContent.startsWith("dev2 has left")`)
	p.until(`!(` + row + `)`)
	last := 60
	for _, text := range value[[]string](p, `shown`) {
		if text == "–" { // it did not answer in time
			continue
		}
		n, err := strconv.Atoi(text)
		if err != nil || n > last {
			t.Fatalf("the page shows %q sessions after %d", text, last)
		}
		last = n
	}
	add("after")
	add("before") // again, which adds nothing
	for i := range clients {
		f, err := clients[i].Do(t.Context(), fmt.Sprintf("counter/%d", i), "add", "last", map[string]any{"by": 1})
		if err != nil || f.Version != 3 {
			t.Errorf("counter/%d is at version %d, want 3: %v", i, f.Version, err)
		}
	}
	p.until(figure("Sessions") + ` === "60"`)
	p.press("dialog", "Close")
	p.visit("#/audit")
	p.until(`document.querySelector("[aria-label=Actions] tbody tr")?.textContent.includes("ottodrainmember dev2maintenancedone: dev2 has left")`)
	p.wantConsole()
}
