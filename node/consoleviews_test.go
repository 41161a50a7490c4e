package node_test

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	ganglion "github.com/ganglion-es/ganglion/client/go"
	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/domain/group"
	"github.com/ganglion-es/ganglion/domain/process"
	"github.com/ganglion-es/ganglion/domain/projection"
	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/postgres/postgrestest"
	"github.com/ganglion-es/ganglion/node"
	"github.com/ganglion-es/ganglion/relay"
	"github.com/ganglion-es/ganglion/test/harness"
)

// A task asks to be woken in the year 2099, or immediately if its note is "now": then
// the command for that is rejected.
type task struct {
	Note string `json:"note"`
}

type (
	note struct {
		Text string `json:"text"`
	}
	noted struct {
		Text string `json:"text"`
	}
	wake struct{}
)

func (n note) Decide(aggregate.Call, task) (aggregate.Decision[task], error) {
	return aggregate.Emit(noted(n))
}
func (e noted) Apply(t *task) { t.Note = e.Text }
func (wake) Decide(_ aggregate.Call, t task) (aggregate.Decision[task], error) {
	return nil, aggregate.Reject("not_now", "the note is "+t.Note)
}

type noteRow struct {
	Notes int `json:"notes"`
}

// secret is data that viewers must not see.
const secret = "hunter2"

// workshop has one of everything on the read side. What folds a note that begins with
// "bad" fails while broken, with an error that has the note.
type workshop struct {
	broken  atomic.Bool
	mu      sync.Mutex
	folded  map[uint64]bool // positions of the events that the handler of "notes" has been given
	catalog *aggregate.Catalog
}

func newWorkshop() *workshop {
	w := &workshop{catalog: new(aggregate.Catalog), folded: map[uint64]bool{}}
	c := w.catalog
	w.broken.Store(true)
	fail := func(text string) {
		if w.broken.Load() && strings.HasPrefix(text, "bad") {
			panic("cannot fold " + text)
		}
	}
	aggregate.Define(c, aggregate.Type[task]{
		Name: "task", Access: aggregate.Access{
			Send: aggregate.Anyone, Read: aggregate.Anyone, Commands: map[string]aggregate.Rule{"wake": aggregate.System},
		},
		Commands: aggregate.Commands[task]{"note": note{}, "wake": wake{}}, Events: aggregate.Events[task]{"noted": noted{}},
		Wake: func(t task) (time.Time, aggregate.Command[task]) {
			switch t.Note {
			case "":
				return time.Time{}, nil
			case "now " + secret:
				return time.Unix(0, 0), wake{}
			}
			return time.Date(2099, 1, 1, 0, 0, 0, 0, time.UTC), wake{}
		},
	})
	projection.Define(c, projection.Table[noteRow]{Name: "notes", On: projection.Handlers[noteRow]{
		projection.On(func(at projection.At, e noted, r *noteRow) {
			w.mu.Lock()
			w.folded[at.Position] = true
			w.mu.Unlock()
			fail(e.Text)
			r.Notes++
		}),
	}})
	projection.Define(c, projection.Table[noteRow]{Name: "by_text", On: projection.Handlers[noteRow]{
		projection.OnKey(func(_ projection.At, e noted) string { return e.Text }, func(_ projection.At, e noted, r *noteRow) { fail(e.Text); r.Notes++ }),
	}})
	projection.DefineMemory(c, projection.Memory[noteRow]{Name: "counted", New: func() noteRow { return noteRow{} }, On: projection.Handlers[noteRow]{
		projection.On(func(_ projection.At, _ noted, r *noteRow) { r.Notes++ }),
	}})
	process.Define(c, process.Type[noteRow]{Name: "watcher", On: process.Handlers[noteRow]{
		process.On(func(_ process.At, e noted, r *noteRow) process.Commands { fail(e.Text); r.Notes++; return nil }),
	}, Done: func(noteRow) bool { return false }})
	process.Define(c, process.Every{Name: "yearly", Cron: "@yearly", Run: func(process.At, time.Time) process.Commands { return nil }})
	group.Define(c, group.Group{Name: "mailer", Reads: group.Reads{"task"}, Segments: 2, Access: aggregate.Anyone})
	return w
}

// handle parks what fold fails at.
func (w *workshop) handle(_ context.Context, e ganglion.GroupEvent) error {
	if w.broken.Load() && strings.Contains(string(e.Data), "bad") {
		return ganglion.Park("cannot send " + string(e.Data))
	}
	return nil
}

// target is a broker that takes no bad note while the workshop is broken.
type target struct {
	*workshop
	confirmed chan eventstore.Position
	end       sync.Once
	err       error // set before confirmed is closed
}

func (*target) Open(context.Context, string) (eventstore.Position, bool, error) { return 0, false, nil }

func (t *target) Confirmed() <-chan eventstore.Position { return t.confirmed }
func (t *target) Err() error                            { return t.err }
func (*target) Stalled() string                         { return "" }
func (t *target) Close()                                { t.end.Do(func() { close(t.confirmed) }) }

func (t *target) Publish(_ context.Context, m relay.Message) error {
	if t.broken.Load() && strings.Contains(string(m.Data), "bad") {
		t.end.Do(func() {
			t.err = &relay.EventError{Position: m.Position, Reason: "no queue takes " + string(m.Data)}
			close(t.confirmed)
		})
		return t.err
	}
	t.confirmed <- m.Position
	return nil
}

// start runs a node of the workshop, and returns its URL.
func (w *workshop) start(t *testing.T, store string) string {
	t.Helper()
	urls, _ := harness.Serve(t, 1, func(ctx context.Context, ready func(string)) error {
		return node.RunDev(ctx, node.Config{
			Catalog: w.catalog, Listen: "127.0.0.1:0", Store: store, Ready: ready, Consumers: []node.Consumer{{Group: "mailer", Handle: w.handle}},
			Relays: []node.Relay{{Name: "orders", Categories: []string{"task"}, New: func() relay.Target {
				return &target{workshop: w, confirmed: make(chan eventstore.Position, relay.MaxWindow)}
			}}},
		}, 1)
	})
	return urls[0]
}

func (w *workshop) note(t *testing.T, url, id, text string) {
	t.Helper()
	body := fmt.Sprintf(`{"aggregate":"task/%s","command":"note","key":%q,"data":{"text":%q}}`, id, id+" "+text, text)
	if code, answer := post(t, url+"/v1/commands", body); code != http.StatusOK {
		t.Fatalf("a note: %d %s", code, answer)
	}
}

const (
	asOperator = `dev:otto {"ganglion_role":"operator"}`
	asViewer   = `dev:vera {"ganglion_role":"viewer"}`
)

// view decodes what a page shows.
func view[T any](t *testing.T, url, name, token string) (v T, err error) {
	t.Helper()
	code, body := askConsole(t, url+"/_ganglion/api/views/"+name, token)
	if code != http.StatusOK {
		return v, fmt.Errorf("%s: %d %s", name, code, body)
	}
	if token == asViewer && strings.Contains(body, secret) {
		t.Errorf("%s shows data to a viewer: %s", name, body)
	}
	return v, json.Unmarshal([]byte(body), &v)
}

type partsShown struct {
	Name, Kind, State    string
	Own, Paused, Stopped bool
	Build                int64
	Position, Lag        uint64
	Blocked, Members     int
	Segments             []struct{ Segment, Owner, State string }
	List                 []waitingShown // of the page Blocked
	Groups, Builds       []partsShown   // of their pages
	Memories             []struct{ Name, Member, State string }
	Outboxes, Silent     []any
	Kinds                []string
	Wakes                []wakeShown
	Schedules            []struct{ Name, When, Next string }
}

type wakeShown struct {
	Aggregate, Due, Error string
	In                    float64
	Refused               bool
}

type waitingShown struct {
	Kind, Of, Key, Stream, Event, Error string
	Build                               int64
	Position                            uint64
	Tries                               int
}

// TestConsoleShowsTheReadSide looks at a node of which a projection, a process manager
// and a consumer group cannot handle one event, as an operator and as a viewer.
func TestConsoleShowsTheReadSide(t *testing.T) {
	t.Parallel()
	for name, store := range map[string]func(*testing.T) string{
		"embedded": func(t *testing.T) string { return t.TempDir() }, "PostgreSQL": func(t *testing.T) string { return postgrestest.URL(t) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			testReadSide(t, store(t))
		})
	}
}

func testReadSide(t *testing.T, store string) {
	w := newWorkshop()
	url := w.start(t, store)
	w.note(t, url, "t1", "good")
	w.note(t, url, "t1", "bad "+secret)
	w.note(t, url, "t2", "now "+secret)

	wantBlocked(t, url)
	for token, want := range map[string]string{asOperator: "the note is now " + secret, asViewer: ""} {
		harness.Eventually(t, "the wake-ups", func() error {
			v, err := view[partsShown](t, url, "wakeups", token)
			switch {
			case err != nil:
				return err
			case len(v.Wakes) != 2 || !v.Wakes[0].Refused || v.Wakes[0].Aggregate != "task/t2" || !strings.HasSuffix(v.Wakes[0].Error, want):
				return fmt.Errorf("wake-ups: %+v, want t2 to be refused with %q", v.Wakes, want)
			case v.Wakes[1].Aggregate != "task/t1" || v.Wakes[1].In < 1e6 || !strings.HasPrefix(v.Wakes[1].Due, "2099-01-01"):
				return fmt.Errorf("the second is %+v", v.Wakes[1])
			case len(v.Kinds) != 1 || v.Kinds[0] != "task":
				return fmt.Errorf("the types with wake-ups are %v", v.Kinds)
			case len(v.Schedules) != 1 || v.Schedules[0].When != "@yearly UTC" || !strings.HasSuffix(v.Schedules[0].Next, "-01-01T00:00:00Z"):
				return fmt.Errorf("schedules: %+v", v.Schedules)
			}
			return nil
		})
	}

	s, err := node.OpenStore(t.Context(), node.StoreConfig{URL: store})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	o, err := node.OperateProcessors(s, w.catalog)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(o.Pause(t.Context(), "by_text", true), node.OperateGroups(s).Pause(t.Context(), "mailer", true)); err != nil {
		t.Fatal(err)
	}
	harness.Eventually(t, "builds with their owners", func() error {
		v, err := view[partsShown](t, url, "processors", asViewer)
		if err != nil {
			return err
		}
		if len(v.Memories) != 1 || v.Memories[0].Member != "dev1" || v.Memories[0].State != "active" || len(v.Outboxes) != 2 || len(v.Silent) != 0 {
			return fmt.Errorf("%+v", v)
		}
		shown := map[string]partsShown{}
		for _, b := range v.Builds {
			shown[b.Name] = b
		}
		for name, kind := range map[string]string{"notes": "projection", "by_text": "projection", "watcher": "process manager", "yearly": "schedule"} {
			state := "active"
			if name == "by_text" {
				state = "active, paused"
			}
			b := shown[name]
			if b.Kind != kind || b.State != state || !b.Own || b.Stopped || b.Paused != (name == "by_text") || len(b.Segments) != 1 || b.Segments[0].Owner != "dev1" {
				return fmt.Errorf("%s: %+v", name, b)
			}
			if b.Position != 3 || b.Lag != 0 || (b.Blocked > 0) != (name != "yearly") {
				return fmt.Errorf("%s: %+v", name, b)
			}
		}
		return nil
	})
	harness.Eventually(t, "a group with its member", func() error {
		v, err := view[partsShown](t, url, "groups", asViewer)
		if err != nil {
			return err
		}
		if len(v.Groups) != 1 {
			return fmt.Errorf("%+v", v)
		}
		g := v.Groups[0]
		if g.Name != "mailer" || g.State != "stopped: paused" || !g.Paused || g.Members != 1 || g.Blocked != 1 || len(g.Segments) != 2 || !strings.HasSuffix(g.Segments[0].Owner, " at dev1") {
			return fmt.Errorf("%+v", g)
		}
		return nil
	})
	if code, body := askConsole(t, url+"/_ganglion/api/views/others", asViewer); code != http.StatusNotFound {
		t.Errorf("a view that does not exist: %d %s", code, body)
	}
	testHealth(t, url, strings.Contains(store, "://"))
	testReadActions(t, w, url)
	if strings.Contains(store, "://") {
		testHeldCommand(t, url, store)
	}
}

// TestConsoleShowsAndSteersRelays looks at a relay that has stopped at an event.
func TestConsoleShowsAndSteersRelays(t *testing.T) {
	t.Parallel()
	w := newWorkshop()
	url := w.start(t, t.TempDir())
	w.note(t, url, "t1", "good")
	w.note(t, url, "t1", "bad "+secret)
	w.note(t, url, "t2", "good")
	testRelays(t, url)
}

type relayShown struct {
	Name, Owner, State, Problem string
	Position, Lag, Blocked      uint64
	Paused, Stopped             bool
}

// testRelays looks at a relay that has stopped at an event, and steers it.
func testRelays(t *testing.T, url string) {
	t.Helper()
	eventually := func(what, token string, want relayShown) {
		t.Helper()
		harness.Eventually(t, what, func() error {
			v, err := view[struct{ Relays []relayShown }](t, url, "relays", token)
			if err == nil && (len(v.Relays) != 1 || v.Relays[0] != want) {
				err = fmt.Errorf("%+v, want %+v", v.Relays, want)
			}
			return err
		})
	}
	act := func(name, reason string, position int, want string) {
		t.Helper()
		code, a := do(t, url, asOperator, name, reason, map[string]any{"name": "orders", "position": position})
		if code != http.StatusOK || a.Failed || a.Text != want {
			t.Errorf("%s: %d %+v, want %s", name, code, a, want)
		}
	}
	stopped := relayShown{Name: "orders", Owner: "dev1", State: "stopped", Position: 1, Lag: 2, Blocked: 2, Stopped: true}
	eventually("a relay that has stopped, without its reason", asViewer, stopped)
	stopped.Problem = `no queue takes {"text":"bad ` + secret + `"}`
	eventually("a relay that has stopped", asOperator, stopped)
	if code, _ := do(t, url, asOperator, "relay_skip", "", map[string]any{"name": "orders", "position": 2}); code != http.StatusBadRequest {
		t.Errorf("a skip without a reason: %d", code)
	}
	act("relay_skip", "a test", 2, "orders: the event at position 2 is skipped")
	harness.Eventually(t, "the relay continues", func() error {
		v, err := view[struct{ Relays []relayShown }](t, url, "relays", asOperator)
		if err == nil && (len(v.Relays) != 1 || v.Relays[0].State != "active" || v.Relays[0].Lag != 0) {
			err = fmt.Errorf("%+v", v.Relays)
		}
		return err
	})
	act("relay_rewind", "a test", 0, "orders: begins after position 0")
	act("relay_pause", "", 0, "orders: paused")
	harness.Eventually(t, "a paused relay", func() error {
		v, err := view[struct{ Relays []relayShown }](t, url, "relays", asViewer)
		if err == nil && (len(v.Relays) != 1 || !v.Relays[0].Paused || v.Relays[0].State != "paused") {
			err = fmt.Errorf("%+v", v.Relays)
		}
		return err
	})
	act("relay_resume", "", 0, "orders: resumed")
	if code, a := do(t, url, asOperator, "relay_pause", "", map[string]any{"name": "none"}); code != http.StatusOK || !a.Failed || !strings.Contains(a.Text, `no relay "none": use orders`) {
		t.Errorf("an unknown relay: %d %+v", code, a)
	}
}

// testHeldCommand holds a command of a process manager as five failures would, within
// 80 s, and skips it.
func testHeldCommand(t *testing.T, url, store string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), store)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	if _, err := conn.Exec(t.Context(), `insert into process_command (name, pos, k, n, build, segment, sequence, target, command, data, depth, attempts, held, error)
		select name, 2, 9, 0, id, 0, 't1', 'task/t9', 'note', '{}', 1, 5, true, $1 from processor_build where name = 'watcher'`, "no "+secret); err != nil {
		t.Fatal(err)
	}
	for token, want := range map[string]waitingShown{
		asOperator: {Kind: "command", Of: "watcher", Key: "task/t9", Stream: "task/t1", Event: "noted", Position: 2, Tries: 5, Error: "note: no " + secret},
		asViewer:   {Kind: "command", Of: "watcher", Key: "task/t9", Stream: "task/t1", Event: "noted", Position: 2, Tries: 5},
	} {
		harness.Eventually(t, "a held command", func() error {
			v, err := view[partsShown](t, url, "blocked", token)
			if err == nil && (len(v.List) != 1 || v.List[0] != want) {
				err = fmt.Errorf("%+v, want %+v", v.List, want)
			}
			return err
		})
	}
	code, a := do(t, url, asOperator, "processor_skip", "a test", map[string]any{"name": "watcher", "key": "task/t9", "position": 2})
	if code != http.StatusOK || a.Failed || a.Text != "task/t9 is no longer held by the command note of position 2" {
		t.Errorf("the skip of a held command: %d %+v", code, a)
	}
	if v, err := view[partsShown](t, url, "blocked", asOperator); err != nil || len(v.List) != 0 {
		t.Errorf("after the skip: %+v, %v", v.List, err)
	}
}

// wantBlocked waits until the console shows what the second note blocks.
func wantBlocked(t *testing.T, url string) {
	t.Helper()
	for _, token := range []string{asOperator, asViewer} {
		data := func(text string) string {
			if token == asViewer {
				return ""
			}
			return text
		}
		failure := data("cannot fold bad " + secret)
		harness.Eventually(t, "four blocked sequences", func() error {
			v, err := view[partsShown](t, url, "blocked", token)
			if err != nil {
				return err
			}
			shown := map[string]waitingShown{}
			for _, w := range v.List {
				if shown[w.Of] = w; w.Position != 2 || w.Stream != "task/t1" || w.Event != "noted" {
					return fmt.Errorf("%+v", w)
				}
			}
			for of, want := range map[string]waitingShown{
				"notes":   {Kind: "projection", Key: "t1", Tries: 3, Error: failure},
				"by_text": {Kind: "projection", Key: data("bad " + secret), Tries: 3, Error: failure},
				"watcher": {Kind: "process manager", Key: "t1", Tries: 3, Error: failure},
				"mailer":  {Kind: "consumer group", Key: "task/t1", Error: data("cannot send ")},
			} {
				got := shown[of]
				if got.Kind != want.Kind || got.Key != want.Key || got.Tries != want.Tries || !strings.Contains(got.Error, want.Error) || (got.Error == "") != (want.Error == "") {
					return fmt.Errorf("%s: %+v, want %+v, of %d", of, got, want, len(v.List))
				}
			}
			return nil
		})
	}
}

// acted is the answer to a request to act.
// testHealth looks at the storage, and checks the log.
func testHealth(t *testing.T, url string, isDatabase bool) {
	t.Helper()
	type shown struct {
		Database, Log, Free int64
		DayEvents           int `json:"day_events"`
		Verify              *struct {
			At, Ended, Text string
			Failed          bool
		}
	}
	v, err := view[shown](t, url, "health", asOperator)
	switch {
	case err != nil || v.Verify != nil || v.DayEvents != 3 || v.Database <= 0:
		t.Fatalf("the health is %+v, %v", v, err)
	case isDatabase && (v.Log <= 0 || v.Log >= v.Database || v.Free != 0), !isDatabase && (v.Log != 0 || v.Free <= 0):
		t.Errorf("the storage is %+v", v)
	}
	const want = "no faults found: 4 events in 4 commits of 3 streams, up to position 4" // one is the request
	if code, a := do(t, url, asOperator, "verify", "", nil); code != http.StatusOK || a.Failed || a.Text != want {
		t.Fatalf("checking the log: %d %+v", code, a)
	}
	if v, err = view[shown](t, url, "health", asOperator); err != nil || v.Verify == nil || v.Verify.Failed || v.Verify.Text != want || v.Verify.Ended <= v.Verify.At || v.DayEvents != 5 {
		t.Errorf("the health is %+v, %v", v, err)
	}
	if v, err = view[shown](t, url, "health", asViewer); err != nil || v.Verify == nil || v.Verify.Text != "" || v.Verify.Ended == "" {
		t.Errorf("a viewer sees %+v, %v", v, err)
	}
}

type acted struct {
	Text, Error string
	Failed      bool
}

// do sends a request to act, and returns the status and the answer.
func do(t *testing.T, url, token, action, reason string, args map[string]any) (int, acted) {
	t.Helper()
	code, body := actOnConsole(t, url, token, action, map[string]any{"key": rand.Text(), "reason": reason, "args": args})
	var a acted
	if err := json.Unmarshal([]byte(body), &a); err != nil {
		t.Fatal(err, body)
	}
	return code, a
}

// testReadActions repairs what testReadSide has looked at.
func testReadActions(t *testing.T, w *workshop, url string) {
	of := func(name, key string, position int) map[string]any {
		return map[string]any{"name": name, "key": key, "position": position}
	}
	wantDone := func(text, action string, args map[string]any) {
		t.Helper()
		if code, a := do(t, url, asOperator, action, "a test", args); code != http.StatusOK || a.Failed || !strings.Contains(a.Text, text) {
			t.Errorf("%s of %v: %d %+v, want %q", action, args, code, a, text)
		}
	}
	wantFailed := func(text, action string, args map[string]any) {
		t.Helper()
		if code, a := do(t, url, asOperator, action, "a test", args); code != http.StatusOK || !a.Failed || !strings.Contains(a.Text, text) {
			t.Errorf("%s of %v: %d %+v, want the failure %q", action, args, code, a, text)
		}
	}
	for _, action := range []string{
		"processor_pause", "processor_resume", "processor_dry_run", "processor_rebuild", "processor_retry", "processor_skip",
		"group_pause", "group_resume", "group_retry", "group_skip", "wakes_pause", "wakes_resume", "wake_retry",
	} {
		for _, token := range []string{asViewer, `dev:rita {"ganglion_role":"reader"}`} {
			if code, a := do(t, url, token, action, "a test", of("notes", "t1", 2)); code != http.StatusForbidden {
				t.Errorf("%s with %s: %d %+v", action, token, code, a)
			}
		}
	}
	if code, a := do(t, url, asOperator, "processor_skip", " ", of("notes", "t1", 2)); code != http.StatusBadRequest || !strings.Contains(a.Error, "needs a reason") {
		t.Errorf("a skip without a reason: %d %+v", code, a)
	}
	wantFailed("the argument key is missing", "processor_retry", of("notes", "", 2))
	wantFailed("the argument position is missing", "group_skip", of("mailer", "task/t1", 0))
	wantFailed(`no projection and no process manager "others"`, "processor_rebuild", of("others", "", 0))
	wantFailed("waits at position 2: panic: cannot fold bad "+secret, "processor_retry", of("notes", "t1", 0))

	w.broken.Store(false)
	wantDone("t1 in build", "processor_retry", of("notes", "t1", 0))
	wantFailed("is blocked at position 2, not 3", "processor_skip", of("by_text", "bad "+secret, 3))
	wantDone("shows 1 event that waited", "processor_retry", of("by_text", "bad "+secret, 0))
	wantDone("t1 in build", "processor_skip", of("watcher", "t1", 2))
	wantDone("by_text: resumed", "processor_resume", of("by_text", "", 0))
	wantDone("mailer: task/t1 is retried", "group_retry", of("mailer", "task/t1", 0))
	wantDone("mailer: resumed", "group_resume", of("mailer", "", 0))
	harness.Eventually(t, "nothing is blocked", func() error {
		v, err := view[partsShown](t, url, "blocked", asOperator)
		if err == nil && len(v.List) > 0 {
			err = fmt.Errorf("%+v", v.List)
		}
		return err
	})

	wantDone("1 wake-up now due", "wake_retry", of("", "task/t2", 0))
	wantFailed("", "wake_retry", of("", "task/t1", 0))
	wantDone("wake-ups: paused", "wakes_pause", nil)
	if v, err := view[struct{ Paused bool }](t, url, "wakeups", asViewer); err != nil || !v.Paused {
		t.Errorf("the page shows %+v, %v", v, err)
	}
	wantDone("wake-ups: resumed", "wakes_resume", nil)

	// The rebuild handles the events that its dry run has counted: not those of the
	// actions.
	wantDone("A rebuild handles 3 events up to position", "processor_dry_run", of("notes", "", 0))
	wantDone("A rebuild handles 3 events up to position", "processor_dry_run", of("watcher", "", 0))
	w.mu.Lock()
	clear(w.folded)
	w.mu.Unlock()
	wantDone("has begun", "processor_rebuild", of("notes", "", 0))
	harness.Eventually(t, "the new build answers", func() error {
		v, err := view[partsShown](t, url, "processors", asViewer)
		if err != nil {
			return err
		}
		active := 0
		for _, b := range v.Builds {
			if b.Name == "notes" && b.State == "active" && b.Build > 4 {
				active++
			}
		}
		if active != 1 {
			return fmt.Errorf("%+v", v.Builds)
		}
		return nil
	})
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.folded) != 3 {
		t.Errorf("the rebuild has handled the events at %v, want 3", w.folded)
	}
}
