package browser

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	ganglion "github.com/ganglion-es/ganglion/client/go"
	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/domain/group"
	"github.com/ganglion-es/ganglion/domain/projection"
	"github.com/ganglion-es/ganglion/node"
	"github.com/ganglion-es/ganglion/test/harness"
)

// A task has a note. It asks to be woken in the year 2099.
type (
	task struct {
		Note string `json:"note"`
	}
	note struct {
		Text string `json:"text"`
	}
	noted struct {
		Text string `json:"text"`
	}
	ring struct{}
)

func (n note) Decide(aggregate.Call, task) (aggregate.Decision[task], error) {
	return aggregate.Emit(noted(n))
}
func (e noted) Apply(t *task) { t.Note = e.Text }
func (ring) Decide(aggregate.Call, task) (aggregate.Decision[task], error) {
	return aggregate.Emit[task]()
}

type noteRow struct {
	Notes int `json:"notes"`
}

// notes returns a catalog with a projection that cannot fold bad notes while broken,
// and a handler for its consumer group, which parks them.
func notes(broken *atomic.Bool) (*aggregate.Catalog, node.Consumer) {
	c := new(aggregate.Catalog)
	aggregate.Define(c, aggregate.Type[task]{
		Name: "task", Access: aggregate.Access{Send: aggregate.Anyone, Read: aggregate.Anyone, Commands: map[string]aggregate.Rule{"ring": aggregate.System}},
		Commands: aggregate.Commands[task]{"note": note{}, "ring": ring{}}, Events: aggregate.Events[task]{"noted": noted{}},
		Wake: func(t task) (time.Time, aggregate.Command[task]) {
			if t.Note == "" {
				return time.Time{}, nil
			}
			return time.Date(2099, 1, 1, 0, 0, 0, 0, time.UTC), ring{}
		},
	})
	projection.Define(c, projection.Table[noteRow]{Name: "notes", On: projection.Handlers[noteRow]{
		projection.On(func(_ projection.At, e noted, r *noteRow) {
			if broken.Load() && strings.HasPrefix(e.Text, "bad") {
				panic("cannot fold " + e.Text)
			}
			r.Notes++
		}),
	}})
	group.Define(c, group.Group{Name: "mailer", Reads: group.Reads{"task"}, Segments: 2, Access: aggregate.Anyone})
	return c, node.Consumer{Group: "mailer", Handle: func(_ context.Context, e ganglion.GroupEvent) error {
		if broken.Load() && strings.Contains(string(e.Data), "bad") {
			return ganglion.Park("cannot send " + string(e.Data))
		}
		return nil
	}}
}

// cell returns the JavaScript of the text of a cell, in the row of a table that has a
// text, or undefined.
func cell(table, row string, column int) string {
	return fmt.Sprintf(`[...document.querySelectorAll("[aria-label='%s'] tbody tr")].find((r) => r.innerText.includes(%q))?.children[%d].innerText`, table, row, column)
}

// TestConsoleShowsTheReadSide blocks a row of a projection and parks a sequence of a
// consumer group, whose errors are hostile text.
func TestConsoleShowsTheReadSide(t *testing.T) {
	var broken atomic.Bool
	broken.Store(true)
	catalog, consumer := notes(&broken)
	urls, _ := harness.Serve(t, 1, func(ctx context.Context, ready func(string)) error {
		return node.RunDev(ctx, node.Config{Catalog: catalog, Listen: "127.0.0.1:0", Store: t.TempDir(), Ready: ready, Consumers: []node.Consumer{consumer}}, 1)
	})
	p := open(t, urls[0]+console+"#/blocked")
	p.until(`document.querySelector("#live").textContent === "live from dev1" && document.body.innerText.includes("Nothing is blocked.")`)

	client := harness.Client{ID: "ada", URLs: []string{harness.WS(urls[0])}}
	defer client.Leave()
	for i, text := range []string{"good", "bad " + hostile} {
		if _, err := client.Do(t.Context(), "task/t1", "note", fmt.Sprint("k", i), map[string]any{"text": text}); err != nil {
			t.Fatal(err)
		}
	}
	const blocked = "Blocked sequences"
	for column, want := range map[int]string{1: "t1", 2: "noted of task/t1", 3: "2", 4: "3"} {
		p.until(fmt.Sprintf(`%s === %q`, cell(blocked, "notes", column), want))
	}
	p.until(cell(blocked, "notes", 6) + `.includes("cannot fold bad </script><img")`)
	p.until(cell(blocked, "mailer", 1) + ` === "task/t1" && ` + cell(blocked, "mailer", 6) + `.startsWith("cannot send")`)
	if n := value[int](p, `document.querySelectorAll("img").length`); n > 0 {
		t.Error("data became an element of the page")
	}
	screenshotAll(p, "console-blocked")
	wantAccessible(p)

	for page, wants := range map[string][]string{
		"processors": {
			cell("Projections and process managers", "notes", 3) + ` === "active"`, cell("Projections and process managers", "notes", 8) + ` === "1"`,
			cell("Segments", "notes", 2) + ` === "dev1"`, `document.body.innerText.includes("This program has no process managers")`,
			`document.body.innerText.includes("This program has no projections in memory")`,
		},
		"processors/notes": {`document.querySelector("[aria-label='Segments of notes'] tbody tr")`},
		"groups":           {cell("Consumer groups", "mailer", 2) + ` === "1"`, cell("Consumer groups", "mailer", 7) + ` === "1"`, cell("Segments", "mailer", 2) + `.endsWith(" at dev1")`},
		"wakeups":          {cell("Wake-ups", "task/t1", 1) + `.startsWith("2099-01-01")`, figure("Due") + ` === "0"`, `document.body.innerText.includes("This program has no schedules")`},
	} {
		value[bool](p, fmt.Sprintf(`location.hash = "#/%s", true`, page))
		for _, want := range wants {
			p.until(want)
		}
		screenshotAll(p, "console-"+strings.ReplaceAll(page, "/", "-"))
		wantAccessible(p)
		p.setAppearance(390, 844, "light")
		if value[bool](p, `document.documentElement.scrollWidth > innerWidth`) {
			t.Errorf("%s is wider than a screen of 390 pixels", page)
		}
	}
	p.wantConsole()

	actOnReadSide(p, &broken)

	// A viewer sees where, and not what.
	broken.Store(true)
	if _, err := client.Do(t.Context(), "task/t1", "note", "again", map[string]any{"text": "bad again"}); err != nil {
		t.Fatal(err)
	}
	value[bool](p, `sessionStorage.setItem("ganglion-console-token", 'dev:vera {"ganglion_role":"viewer"}'), location.hash = "#/blocked", location.reload(), true`)
	p.until(`document.querySelector(".user")?.textContent === "vera, viewer" && ` + cell(blocked, "notes", 2) + ` === "noted of task/t1"`)
	p.until(cell(blocked, "notes", 6) + ` === "for readers" && ` + cell(blocked, "mailer", 6) + ` === "for readers"`)
	if value[bool](p, `document.body.innerText.includes("cannot")`) {
		t.Error("the page shows an error with data to a viewer")
	}
	if value[bool](p, `[...document.querySelectorAll("button")].some((b) => b.textContent === "Retry" || b.textContent === "Skip")`) {
		t.Error("a viewer sees actions")
	}
	p.wantConsole()
}

// press clicks a button in the row of a table that has a text, gives a reason in the
// dialog, confirms, waits for an outcome with a text, and closes the dialog.
func press(p *page, table, row, button, outcome string) {
	p.t.Helper()
	p.until(fmt.Sprintf(`((b) => b && (b.click(), true))([...document.querySelectorAll("[aria-label='%s'] tbody tr")].find((r) => r.innerText.includes(%q))?.querySelectorAll("button").values().find((b) => b.textContent === %q))`, table, row, button))
	if button == "Rebuild" {
		p.until(`document.querySelector("#dry-run")?.textContent.startsWith("A rebuild handles 2 events up to position")`)
	}
	p.until(fmt.Sprintf(`((i) => i && (i.value = "%s in a test", i.dispatchEvent(new Event("input", { bubbles: true })), true))(document.querySelector("dialog [name=reason]"))`, button))
	p.until(`((b) => b && !b.disabled && (b.click(), true))(document.querySelector("dialog form .buttons button:not([type=button])"))`)
	p.until(fmt.Sprintf(`document.querySelector("dialog #outcome")?.textContent.includes(%q)`, outcome))
	p.screenshot("console-" + strings.ToLower(button))
	p.until(`((b) => b && (b.click(), true))(document.querySelector("dialog form .buttons button[type=button]"))`)
	p.until(`!document.querySelector("dialog")`)
}

// actOnReadSide retries what blocks a projection and skips what a group has parked, and
// sees both gone; it pauses and resumes the projection, and builds it again.
func actOnReadSide(p *page, broken *atomic.Bool) {
	const blocked, builds = "Blocked sequences", "Projections and process managers"
	value[bool](p, `location.hash = "#/blocked", true`)
	press(p, blocked, "notes", "Retry", "t1 in build 1 waits at position 2: panic: cannot fold bad")
	broken.Store(false)
	press(p, blocked, "notes", "Retry", "t1 in build 1 shows 1 event that waited")
	p.until(fmt.Sprintf(`document.querySelectorAll("[aria-label='%s'] tbody tr").length === 1`, blocked))
	press(p, blocked, "mailer", "Skip", "mailer: task/t1 continues after position 2")
	p.until(`document.body.innerText.includes("Nothing is blocked.")`)

	value[bool](p, `location.hash = "#/processors", true`)
	press(p, builds, "notes", "Pause", "notes: paused")
	p.until(cell(builds, "notes", 3) + ` === "active, paused"`)
	wantAccessible(p)
	press(p, builds, "notes", "Resume", "notes: resumed")
	p.until(cell(builds, "notes", 3) + ` === "active"`)
	press(p, builds, "notes", "Rebuild", "notes: build 2 has begun")
	p.until(cell(builds, "notes\tprojection\t2", 3) + ` === "active"`)
	value[bool](p, `location.hash = "#/groups", true`)
	press(p, "Consumer groups", "mailer", "Pause", "mailer: paused")
	p.until(cell("Consumer groups", "mailer", 1) + ` === "stopped: paused"`)
	press(p, "Consumer groups", "mailer", "Resume", "mailer: resumed")
	p.until(cell("Consumer groups", "mailer", 1) + ` === "consumed"`)
	p.wantConsole()
}
