package process_test

import (
	"strings"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/domain/process"
	"github.com/ganglion-es/ganglion/domain/projection"
)

func TestErrReportsAllProblemsTogether(t *testing.T) {
	t.Parallel()
	c := library()
	type bad struct {
		Untagged int
		F        func() `json:"f"`
	}
	type never struct{}
	process.Define(c, process.Type[bad]{
		Name: "Not A Name", Segments: 65, MaxDepth: -1,
		Wake: func(bad) time.Time { return time.Time{} },
		On:   process.Handlers[bad]{process.On[lent, bad](nil), process.OnKey(nil, func(process.At, returned, *bad) process.Commands { return nil })},
	})
	process.Define(c, process.Type[loan]{Name: "empty"})
	process.Define(c, process.Type[loan]{
		Name: "unknown_event",
		On:   process.Handlers[loan]{process.On(func(process.At, never, *loan) process.Commands { return nil })},
	})
	process.Define(c, process.Type[loan]{
		Name: "two_types",
		On: process.Handlers[loan]{
			process.On(func(process.At, lent, *loan) process.Commands { return nil }),
			process.On(func(process.At, written, *loan) process.Commands { return nil }),
		},
	})
	text := c.Err().Error()
	for _, want := range []string{
		`process manager "Not A Name": the Name has the character 'N'`, "Segments is 65: use 1 to 64", "MaxDepth is -1: use 1 to 10000",
		"it has only one of Wake and Woken", "handler 1 of On, of process_test.lent, is nil", "handler 2 of On, of process_test.returned, is nil, or its key is", "Untagged has no json tag", "bad.F is a func()",
		`process manager "empty": On has no handlers`, "handler 1 takes a process_test.never, which no aggregate of the catalog registers",
		`process manager "two_types": its events are of several aggregate types (book, letters), whose ids may be the same: give every handler its sequence with OnKey`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("missing: %s\n%s", want, text)
		}
	}
	if len(process.All(c)) != 0 {
		t.Error("definitions with problems are in the catalog")
	}
}

func TestNameBelongsToOneTypeOfStreams(t *testing.T) {
	t.Parallel()
	for what, define := range map[string]func(*aggregate.Catalog){
		"an aggregate before": func(c *aggregate.Catalog) {
			p := loans()
			p.Name = "book"
			process.Define(c, p)
		},
		"an aggregate after": func(c *aggregate.Catalog) {
			process.Define(c, loans())
			aggregate.Define(c, aggregate.Type[letters]{
				Name: "loans", Access: aggregate.Access{Send: aggregate.Anyone, Read: aggregate.Anyone},
				Commands: aggregate.Commands[letters]{"write": write{}}, Events: aggregate.Events[letters]{"written": written{}},
			})
		},
		"a schedule": func(c *aggregate.Catalog) {
			process.Define(c, loans())
			e := weekly()
			e.Name = "loans"
			process.Define(c, e)
		},
	} {
		c := library()
		define(c)
		if err := c.Err(); err == nil || !strings.Contains(err.Error(), "the name is already taken by another type") {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// TestNamesAreSharedWithProjections defines a process manager and a schedule with the
// names of projections, before and after them.
func TestNamesAreSharedWithProjections(t *testing.T) {
	t.Parallel()
	type row struct {
		N int `json:"n"`
	}
	project := func(c *aggregate.Catalog, name string) {
		projection.Define(c, projection.Table[row]{
			Name: name, On: projection.Handlers[row]{projection.On(func(_ projection.At, _ lent, r *row) { r.N++ })},
		})
	}
	for want, define := range map[string]func(*aggregate.Catalog){
		`process manager "loans": the name is already taken by a projection`: func(c *aggregate.Catalog) {
			project(c, "loans")
			process.Define(c, loans())
		},
		`projection "loans": the name is already taken by a process manager`: func(c *aggregate.Catalog) {
			process.Define(c, loans())
			project(c, "loans")
		},
		`schedule "weekly": the name is already taken by a projection`: func(c *aggregate.Catalog) {
			project(c, "weekly")
			process.Define(c, weekly())
		},
	} {
		c := library()
		define(c)
		if err := c.Err(); err == nil || err.Error() != want {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

func TestStreamTypeIsClosedToClients(t *testing.T) {
	t.Parallel()
	c := library()
	d := defined(t, c, loans())
	def, ok := c.Type("loans")
	if !ok || strings.Join(def.Commands(), " ") != "rejected ticked woken" {
		t.Fatalf("the engine finds %v", def)
	}
	for _, typ := range c.Types() {
		if typ.Name() == "loans" {
			t.Error("Types has it")
		}
	}
	claims := map[string]any{"admin": true}
	if c.HasType("loans") || c.HasCommand("loans", "woken") || c.MaySend("ada", claims, "loans", "emma", "woken") ||
		c.MaySend("~loans", claims, "loans", "emma", "woken") || c.MayRead("ada", claims, "loans", "emma") ||
		c.MayReadAll("ada", claims, "loans") || c.ShowsCaller("loans") {
		t.Error("a client can use it")
	}
	if _, err := c.CheckCommand("loans", "woken", nil); err == nil {
		t.Error("its commands can be checked")
	}
	if a := def.Access(); a.Send.Allows(aggregate.Caller{Client: "~loans"}, "emma") || a.Read.Allows(aggregate.Caller{Client: "~loans"}, "emma") {
		t.Error("its rules allow a client")
	}
	if d.Name() != "loans" || len(process.All(c)) != 1 {
		t.Errorf("the catalog has %v", process.All(c))
	}
}

// Logs hold these events permanently.
func TestStoredFormsOfBuiltInEventsStay(t *testing.T) {
	t.Parallel()
	c := library()
	d := defined(t, c, loans())
	def, _ := c.Type("loans")
	woken, err := d.RecordWoken("emma", 7, noon.Add(time.Microsecond))
	if err != nil {
		t.Fatal(err)
	}
	refused, err := d.RecordRejected("emma", 1, 2, process.Rejection{
		Position: 7, Type: "letters", ID: "ada", Command: "write", Code: "rejected", Reason: "no_text", Message: "a letter has a text",
	})
	if err != nil {
		t.Fatal(err)
	}
	ticked, err := d.RecordTicked(noon)
	if err != nil {
		t.Fatal(err)
	}
	for want, r := range map[string]process.Record{
		`woken 1 {"due":"2026-05-01T12:00:00.000001Z"}`: woken,
		`rejected 1 {"position":7,"k":1,"n":2,"target":"letters/ada","command":"write","code":"rejected","reason":"no_text","message":"a letter has a text"}`: refused,
		`ticked 1 {"schedule":"loans","at":"2026-05-01T12:00:00Z"}`: ticked,
	} {
		command, err := def.DecodeCommand(r.Command, r.Data)
		if err != nil {
			t.Fatal(err)
		}
		events, err := def.Decide(aggregate.Call{}, def.NewState(), command)
		if err != nil {
			t.Fatal(err)
		}
		name, form, data, err := def.EncodeEvent(events[0])
		if got := name + " 1 " + string(data); err != nil || form != 1 || got != want {
			t.Errorf("got  %s %d %s, %v\nwant %s", name, form, data, err, want)
		}
	}
}

func TestFingerprintCoversWhatStatesDependOn(t *testing.T) {
	t.Parallel()
	print := func(change func(*process.Type[loan])) string {
		p := loans()
		change(&p)
		return defined(t, library(), p).Fingerprint()
	}
	same := print(func(*process.Type[loan]) {})
	on := func(h process.Handler[loan]) func(*process.Type[loan]) {
		return func(p *process.Type[loan]) { p.On = append(p.On[:1:1], h) }
	}
	handle := func(process.At, returned, *loan) process.Commands { return nil }
	for what, change := range map[string]func(*process.Type[loan]){
		"another body":     on(process.On(handle)),
		"Done":             func(p *process.Type[loan]) { p.Done = nil },
		"FromTheBeginning": func(p *process.Type[loan]) { p.FromTheBeginning = true },
		"MaxDepth":         func(p *process.Type[loan]) { p.MaxDepth = 7 },
	} {
		if print(change) != same {
			t.Errorf("%s makes another build", what)
		}
	}
	for what, change := range map[string]func(*process.Type[loan]){
		"a key":    on(process.OnKey(func(at process.At, _ returned) string { return at.ID }, handle)),
		"an event": func(p *process.Type[loan]) { p.On = p.On[:1] },
		"Woken":    func(p *process.Type[loan]) { p.Wake, p.Woken = nil, nil },
		"Rejected": func(p *process.Type[loan]) { p.Rejected = nil },
		"Segments": func(p *process.Type[loan]) { p.Segments = 2 },
		"Revision": func(p *process.Type[loan]) { p.Revision = 1 },
	} {
		if print(change) == same {
			t.Errorf("%s makes no other build", what)
		}
	}
}

func TestEffectsAreSortedAndChecked(t *testing.T) {
	t.Parallel()
	keys := []string{"b", "a", "b"}
	count := func(_ process.At, _ lent, s *loan) process.Commands { s.Refused++; return nil }
	f := follow(t, library("magazine"), process.Type[loan]{
		Name: "several",
		On: process.Handlers[loan]{
			process.OnKeys(func(process.At, lent) []string { return keys }, count),
			process.OnKey(func(process.At, lent) string { return "c" }, count),
			process.OnKey(func(process.At, lent) string { return "a" }, count),
			process.OnKey(func(process.At, lent) string { return "" }, count),
		},
	})
	name := aggregate.EventName{Type: "magazine", Event: "lent"}
	effects, err := f.d.Effects(process.At{ID: "emma"}, name, toAda)
	if err != nil || len(effects) != 3 || effects[0].Sequence != "a" || effects[1].Sequence != "b" || effects[2].Sequence != "c" {
		t.Fatalf("effects %+v, %v", effects, err)
	}
	state := f.d.NewState()
	if _, err := f.d.Handle(process.At{}, effects[0], toAda, state); err != nil || state.(*loan).Refused != 2 {
		t.Errorf("two handlers of a made %+v, %v", state, err)
	}
	for _, key := range []string{"~a", "a/b", "..", strings.Repeat("x", 201), "a\x00"} {
		keys = []string{key}
		if _, err := f.d.Effects(process.At{}, name, toAda); err == nil || !strings.Contains(err.Error(), "the name of a sequence") {
			t.Errorf("%q: %v", key, err)
		}
	}
	keys = nil
	for i := range process.MaxSequences + 1 {
		keys = append(keys, strings.Repeat("k", i%100+1)+string(rune('a'+i/100)))
	}
	if _, err := f.d.Effects(process.At{}, name, toAda); err == nil || !strings.Contains(err.Error(), "at most 1000") {
		t.Errorf("too many: %v", err)
	}
}

func TestHandleRefusesCommandsThatNoAggregateTakes(t *testing.T) {
	t.Parallel()
	var commands process.Commands
	c := library()
	process.Define(c, weekly())
	f := follow(t, c, process.Type[loan]{
		Name: "free",
		On:   process.Handlers[loan]{process.On(func(process.At, lent, *loan) process.Commands { return commands })},
	})
	long := write{Text: strings.Repeat("x", 1<<20)}
	for want, send := range map[string]process.Commands{
		`there is no aggregate type "post"`:               {process.Send("post", "ada", write{})},
		`there is no aggregate type "weekly"`:             {process.Send("weekly", "ticks", write{})},
		"its id is empty":                                 {process.Send("letters", "", write{})},
		"process_test.lend cannot be sent to letters/ada": {process.Send("letters", "ada", lend{})},
		"<nil> cannot be sent to letters/ada":             {process.Send("letters", "ada", nil)},
		"*process_test.write cannot be sent to":           {process.Send("letters", "ada", &write{})},
		"is not valid: data.text":                         {process.Send("letters", "ada", write{Text: "a\x00b"})},
		"causes 1001 commands, at most 1000 are allowed":  make(process.Commands, 1001),
		"have more than 4194304 bytes of data together":   {process.Send("letters", "a", long), process.Send("letters", "a", long), process.Send("letters", "a", long), process.Send("letters", "a", long)},
	} {
		commands = send
		if sent, err := f.event("book/emma", toAda); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: sent %q, %v", want, sent, err)
		}
	}
}

func TestStateMustBeStorable(t *testing.T) {
	t.Parallel()
	d := defined(t, library(), loans())
	for want, s := range map[string]*loan{
		"at most 16384 are allowed": {To: strings.Repeat("x", process.MaxStateBytes)},
		"U+0000":                    {To: "a\x00"},
	} {
		if _, err := d.EncodeState(s); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
	if _, err := d.Due(&loan{Remind: time.Date(1969, 1, 1, 0, 0, 0, 0, time.UTC)}); err == nil || !strings.Contains(err.Error(), "the year 1969") {
		t.Errorf("got %v", err)
	}
	if _, err := d.DecodeState([]byte(`{"refused": "x"}`)); err == nil {
		t.Error("a wrong state is decoded")
	}
	if !d.Finished(&loan{}) || d.Finished(&loan{To: "ada"}) || !d.Finished(&loan{To: "ada", Back: true}) {
		t.Error("Finished is wrong")
	}
}
