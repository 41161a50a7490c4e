package aggregate_test

import (
	"encoding/json"
	"errors"
	"math/big"
	"os/exec"
	"strings"
	"testing"

	"github.com/ganglion-es/ganglion/domain/aggregate"
)

// Box is an aggregate whose command and event have a member of any type T, including
// types that Define refuses.
type Box[T any] struct{ Value T }

type Put[T any] struct {
	Value T `json:"value"`
}

type Stored[T any] struct {
	Value T `json:"value"`
}

func (c Put[T]) Decide(aggregate.Call, Box[T]) (aggregate.Decision[Box[T]], error) {
	return aggregate.Emit(Stored[T](c))
}

func (e Stored[T]) Apply(s *Box[T]) { s.Value = e.Value }

var everyone = aggregate.Access{Send: aggregate.Anyone, Read: aggregate.Anyone}

// box defines a Box[T] and returns its problems.
func box[T any](change func(*aggregate.Type[Box[T]])) error {
	var c aggregate.Catalog
	typ := aggregate.Type[Box[T]]{
		Name:     "box",
		Access:   everyone,
		Commands: aggregate.Commands[Box[T]]{"put": Put[T]{}},
		Events:   aggregate.Events[Box[T]]{"stored": Stored[T]{}},
	}
	if change != nil {
		change(&typ)
	}
	d := aggregate.Define(&c, typ)
	if (d == nil) != (c.Err() != nil) || c.HasType(typ.Name) != (d != nil) {
		return errors.New("the catalog must have exactly the types without problems")
	}
	return c.Err()
}

type (
	embedded   struct{ Part }
	unexported struct {
		Shown  int `json:"shown"`
		hidden int
	}
	untagged struct{ Name string }
	skipped  struct {
		Name string `json:"-"`
	}
	quoted struct {
		Number int `json:"number,string"`
	}
	badName struct {
		Name string `json:"a.b"`
	}
	twoCases struct {
		One int `json:"one"`
		Two int `json:"ONE"`
	}
	encodesOnly struct{}
	decodesOnly struct{}
)

var _ = unexported{}.hidden // unused, except as an unexported field

func (encodesOnly) MarshalJSON() ([]byte, error)  { return []byte("1"), nil }
func (*decodesOnly) UnmarshalJSON(_ []byte) error { return nil }

func TestEachDefinitionProblemIsReported(t *testing.T) {
	t.Parallel()
	type (
		typ      = aggregate.Type[Box[int]]
		commands = aggregate.Commands[Box[int]]
		events   = aggregate.Events[Box[int]]
	)
	change := func(f func(t *typ)) error { return box(f) }
	keep := aggregate.Upcast(func(old Stored[int]) Stored[int] { return old })
	tests := map[string]struct {
		err  error
		want string
	}{
		"no name":                   {change(func(t *typ) { t.Name = "" }), "the Name is empty"},
		"a name with a slash":       {change(func(t *typ) { t.Name = "a/b" }), "the Name has the character '/'"},
		"a long name":               {change(func(t *typ) { t.Name = strings.Repeat("x", 65) }), "has 65 bytes: use at most 64"},
		"no access":                 {change(func(t *typ) { t.Access = aggregate.Access{} }), "Access.Send is missing"},
		"no rule to read":           {change(func(t *typ) { t.Access.Read = nil }), "Access.Read is missing"},
		"a nil function":            {change(func(t *typ) { t.Access.Read = aggregate.RuleFunc(nil) }), "Access.Read is missing"},
		"a rule for no command":     {change(func(t *typ) { t.Access.Commands = map[string]aggregate.Rule{"push": aggregate.Self} }), `a rule for "push", which is not a command`},
		"no rule for a command":     {change(func(t *typ) { t.Access.Commands = map[string]aggregate.Rule{"put": nil} }), `has no rule for "put"`},
		"no commands":               {change(func(t *typ) { t.Commands = nil }), "there are no Commands"},
		"no events":                 {change(func(t *typ) { t.Events = nil }), "there are no Events"},
		"a command's name":          {change(func(t *typ) { t.Commands = commands{"Put": Put[int]{}} }), `command "Put" has a stored name that has the character 'P'`},
		"an event's name":           {change(func(t *typ) { t.Events = events{"": Stored[int]{}} }), `event "" has a stored name that is empty`},
		"a nil command":             {change(func(t *typ) { t.Commands = commands{"put": nil} }), `command "put" is nil`},
		"a pointer":                 {change(func(t *typ) { t.Commands = commands{"put": &Put[int]{}} }), `command "put" is registered as a pointer`},
		"one type for two events":   {change(func(t *typ) { t.Events = events{"a": Stored[int]{}, "b": Stored[int]{}} }), `event "b" is a aggregate_test.Stored[int], as event "a" is`},
		"no struct":                 {change(func(t *typ) { t.Events = events{"a": number(1)} }), "use a struct without a JSON form"},
		"upcasters for no event":    {change(func(t *typ) { t.Upcasters = aggregate.Upcasters{"gone": {keep}} }), `Upcasters for "gone", which is not an event`},
		"a nil upcaster":            {change(func(t *typ) { t.Upcasters = aggregate.Upcasters{"stored": {keep, nil}} }), `the upcaster of event "stored" from form 2 is nil`},
		"an interface":              {box[any](nil), "is a interface {}: JSON does not say which type to decode"},
		"a channel":                 {box[chan int](nil), "is a chan int, which JSON cannot represent"},
		"a function":                {box[func()](nil), "is a func(), which JSON cannot represent"},
		"a map of numbers":          {box[map[int]int](nil), "the keys of a map must be strings"},
		"pointers to pointers":      {box[**int](nil), "a pointer to nil from nil"},
		"an embedded struct":        {box[embedded](nil), "Part is embedded"},
		"an unexported member":      {box[unexported](nil), "hidden is unexported, so JSON would lose it"},
		"a member without tag":      {box[untagged](nil), "Name has no json tag"},
		"a member left out":         {box[skipped](nil), "Name is hidden from JSON"},
		"a number in quotes":        {box[quoted](nil), "json option 'string'"},
		"a member's name":           {box[badName](nil), `has the stored name "a.b", which has the character '.'`},
		"names that differ in case": {box[twoCases](nil), `has the stored name "ONE", as One does`},
		"only MarshalJSON":          {box[encodesOnly](nil), "cannot decode itself: give it UnmarshalJSON"},
		"only UnmarshalJSON":        {box[decodesOnly](nil), "cannot encode itself: give it MarshalJSON"},
		"pointer receivers":         {box[big.Int](nil), "use a pointer, since encoding a value does not call them"},
		"a json.Number":             {box[json.Number](nil), "use int64, float64 or string"},
		"deep inside":               {box[map[string][]struct{ X *untagged }](nil), "Value.X has no json tag"},
	}
	for name, test := range tests {
		if test.err == nil || !strings.Contains(test.err.Error(), test.want) {
			t.Errorf("%s: got %v,\nwant …%s…", name, test.err, test.want)
		}
	}
	for name, err := range map[string]error{
		"no problem": box[int](nil), "a big number": box[*big.Int](nil), "a tree": box[*Tree](nil), "a type of bytes": box[[]byte](nil),
		"optional JSON": box[*json.RawMessage](nil),
	} {
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

type number int

func (number) Apply(*Box[int]) {}

func TestCatalogReportsAllProblemsTogether(t *testing.T) {
	t.Parallel()
	var c aggregate.Catalog
	aggregate.Define(&c, aggregate.Type[Seat]{Name: "Seat", Access: everyone})
	aggregate.Define(&c, aggregate.Type[Seat]{
		Name: "seat", Access: everyone,
		Commands: aggregate.Commands[Seat]{"reserve": ReserveSeat{}}, Events: aggregate.Events[Seat]{"reserved": SeatReserved{}},
	})
	aggregate.Define(&c, aggregate.Type[Box[any]]{Name: "seat"})
	err := c.Err()
	if err == nil {
		t.Fatal("Err returned nil")
	}
	for _, want := range []string{
		`type "Seat" (aggregate_test.Seat): the Name`, "no Commands", "no Events",
		`type "seat" (aggregate_test.Box[interface {}]): Access.Send is missing`, "Access.Read is missing",
		"the name is already taken", "the state Box[interface {}].Value is a interface {}",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in:\n%v", want, err)
		}
	}
	if d, ok := c.Type("seat"); !ok || len(d.Commands()) != 1 {
		t.Error("the first of two types with one name is missing")
	}
	if _, ok := c.Type("Seat"); ok {
		t.Error("a type with problems is in the catalog")
	}
}

func TestEmptyCatalogAllowsNothing(t *testing.T) {
	t.Parallel()
	var c aggregate.Catalog
	_, showErr := c.Show("seat", "reserved", 1, nil)
	if c.Err() != nil || len(c.Types()) != 0 || c.HasType("seat") || c.HasCommand("seat", "reserve") || c.ShowsCaller("seat") ||
		c.MaySend("ada", nil, "seat", "1", "reserve") || c.MayRead("ada", nil, "seat", "1") || c.MayReadAll("ada", nil, "seat") ||
		!errors.Is(showErr, aggregate.ErrUnknownEvent) {
		t.Error("the zero catalog is not empty, or allows something")
	}
}

func TestEmittingAnotherAggregatesEventDoesNotCompile(t *testing.T) {
	t.Parallel()
	out, err := exec.Command("go", "vet", "./testdata/wrong").CombinedOutput()
	if err == nil {
		t.Fatal("a command of Seat that emits an event of Show compiles")
	}
	if !strings.Contains(string(out), "ShowOver does not implement aggregate.Event[Seat]") &&
		!strings.Contains(string(out), "cannot use aggregate.Emit") {
		t.Errorf("compiling failed for another reason: %s", out)
	}
}

func TestAccessRulesDecideWhoSendsAndReads(t *testing.T) {
	t.Parallel()
	var c aggregate.Catalog
	admin := aggregate.RuleFunc(func(c aggregate.Caller, id string) bool {
		return c.Claims["role"] == "admin" && id != "secret"
	})
	for name, access := range map[string]aggregate.Access{
		"open":    {Send: aggregate.Anyone, Read: aggregate.Anyone},
		"named":   {Send: aggregate.Authenticated, Read: aggregate.Authenticated},
		"own":     {Send: aggregate.Authenticated, Read: aggregate.Self, Commands: map[string]aggregate.Rule{"put": aggregate.Self}},
		"closed":  {Send: aggregate.System, Read: aggregate.System},
		"managed": {Send: admin, Read: admin},
		"staffed": {Send: admin, Read: aggregate.Self, ReadAll: func(c aggregate.Caller) bool { return c.Claims["role"] == "admin" }},
	} {
		aggregate.Define(&c, aggregate.Type[Box[int]]{
			Name: name, Access: access,
			Commands: aggregate.Commands[Box[int]]{"put": Put[int]{}},
			Events:   aggregate.Events[Box[int]]{"stored": Stored[int]{}},
		})
	}
	if err := c.Err(); err != nil {
		t.Fatal(err)
	}
	claims := map[string]any{"role": "admin"}
	tests := []struct {
		client          string
		claims          map[string]any
		typ, id         string
		send, read, all bool
	}{
		{"", nil, "open", "1", true, true, true},
		{"", nil, "named", "1", false, false, false},
		{"ada", nil, "named", "1", true, true, true},
		{"ada", nil, "own", "ada", true, true, false},
		{"ada", nil, "own", "bob", false, false, false},
		{"", nil, "own", "", false, false, false},
		{"ada", nil, "closed", "ada", false, false, false},
		{"", nil, "closed", "", false, false, false},
		{"ada", nil, "managed", "1", false, false, false},
		{"ada", claims, "managed", "1", true, true, false},
		{"ada", claims, "managed", "secret", false, false, false},
		{"ada", claims, "missing", "1", false, false, false},
		{"", nil, "staffed", "1", false, false, false},
		{"ada", nil, "staffed", "ada", false, true, false},
		{"ada", nil, "staffed", "bob", false, false, false},
		{"ada", claims, "staffed", "bob", true, true, true},
	}
	for _, test := range tests {
		send := c.MaySend(test.client, test.claims, test.typ, test.id, "put")
		read := c.MayRead(test.client, test.claims, test.typ, test.id)
		all := c.MayReadAll(test.client, test.claims, test.typ)
		if send != test.send || read != test.read || all != test.all {
			t.Errorf("%+v: may send %t, read %t, read all %t", test, send, read, all)
		}
		if system := c.IsSystem(test.typ, "put"); system != (test.typ == "closed") {
			t.Errorf("%+v: the system alone may send: %t", test, system)
		}
		if c.MaySend(test.client, test.claims, test.typ, test.id, "take") {
			t.Errorf("%+v: may send a command that does not exist", test)
		}
	}
}

// Three forms of an event. The last is the current one.
type (
	movedV1 struct {
		X int `json:"x"`
	}
	movedV2 struct {
		X int `json:"x"`
		Y int `json:"y"`
	}
	Moved struct {
		To []int `json:"to"`
	}
	Move   struct{}
	Figure struct{ At []int }
)

func (Move) Decide(aggregate.Call, Figure) (aggregate.Decision[Figure], error) {
	return aggregate.Emit(Moved{To: []int{1, 2}})
}
func (e Moved) Apply(s *Figure) { s.At = e.To }

func figure() aggregate.Type[Figure] {
	return aggregate.Type[Figure]{
		Name: "figure", Access: everyone, ShowsCaller: true, SnapshotEvery: -1,
		Commands: aggregate.Commands[Figure]{"move": Move{}},
		Events:   aggregate.Events[Figure]{"moved": Moved{}},
		Upcasters: aggregate.Upcasters{"moved": {
			aggregate.Upcast(func(old movedV1) movedV2 { return movedV2{X: old.X, Y: 7} }),
			aggregate.Upcast(func(old movedV2) Moved { return Moved{To: []int{old.X, old.Y}} }),
		}},
		View: func(f Figure) any { return map[string]any{"fields": len(f.At)} },
	}
}

func TestUpcastersConvertOlderFormsToTheCurrentOne(t *testing.T) {
	t.Parallel()
	var c aggregate.Catalog
	d := aggregate.Define(&c, figure())
	if err := c.Err(); err != nil {
		t.Fatal(err)
	}
	if name, form, _, err := d.EncodeEvent(Moved{}); name != "moved" || form != 3 || err != nil {
		t.Errorf("stored as %s of form %d, %v", name, form, err)
	}
	if d.Form("moved") != 3 || d.Form("lost") != 0 || d.SnapshotEvery() != 0 || !c.ShowsCaller("figure") {
		t.Error("the definition differs from its Type")
	}
	tests := []struct {
		form         int
		stored, show string
		want         error
	}{
		{0, `{"x":1}`, `{"to":[1,7]}`, nil},
		{1, `{"x":1}`, `{"to":[1,7]}`, nil},
		{2, `{"x":1,"y":2}`, `{"to":[1,2]}`, nil},
		{3, `{ "to": [1, 2], "by a newer program": 1 }`, `{ "to": [1, 2], "by a newer program": 1 }`, nil},
		{4, `{}`, ``, aggregate.ErrUnknownEvent},
	}
	for _, test := range tests {
		show, err := c.Show("figure", "moved", test.form, json.RawMessage(test.stored))
		if string(show) != test.show || !errors.Is(err, test.want) {
			t.Errorf("form %d: shows %s, %v, want %s", test.form, show, err, test.show)
		}
		event, err := d.DecodeEvent("moved", test.form, json.RawMessage(test.stored))
		if !errors.Is(err, test.want) {
			t.Errorf("form %d: %v", test.form, err)
		}
		if err != nil {
			continue
		}
		state := d.NewState()
		d.Apply(state, event)
		if view, err := d.View(state); string(view) != `{"fields":2}` || err != nil {
			t.Errorf("form %d: the state shows %s, %v", test.form, view, err)
		}
	}
	if _, err := c.Show("figure", "lost", 1, nil); !errors.Is(err, aggregate.ErrUnknownEvent) {
		t.Error(err)
	}
	if _, err := d.DecodeEvent("moved", 1, json.RawMessage(`{"x":"1"}`)); err == nil || errors.Is(err, aggregate.ErrUnknownEvent) {
		t.Errorf("damaged data: %v", err)
	}
	if _, _, _, err := d.EncodeEvent(SeatReserved{}); err == nil || !strings.Contains(err.Error(), "add it to the Events of figure") {
		t.Error(err)
	}
}

func TestFingerprintChangesOnlyWithStateAndEvents(t *testing.T) {
	t.Parallel()
	fingerprint := func(change func(*aggregate.Type[Figure])) string {
		var c aggregate.Catalog
		typ := figure()
		change(&typ)
		d := aggregate.Define(&c, typ)
		if err := c.Err(); err != nil {
			t.Fatal(err)
		}
		return d.Fingerprint()
	}
	base := fingerprint(func(*aggregate.Type[Figure]) {})
	for name, change := range map[string]func(*aggregate.Type[Figure]){
		"revision":       func(t *aggregate.Type[Figure]) { t.Revision = 1 },
		"forms":          func(t *aggregate.Type[Figure]) { t.Upcasters = nil },
		"one more event": func(t *aggregate.Type[Figure]) { t.Events["jumped"] = Jumped{} },
	} {
		if fingerprint(change) == base {
			t.Errorf("%s: the fingerprint did not change", name)
		}
	}
	for name, change := range map[string]func(*aggregate.Type[Figure]){
		"view":   func(t *aggregate.Type[Figure]) { t.View = nil },
		"access": func(t *aggregate.Type[Figure]) { t.Access.Read = aggregate.Self },
		"name":   func(t *aggregate.Type[Figure]) { t.Name = "piece" },
	} {
		if fingerprint(change) != base {
			t.Errorf("%s: the fingerprint changed", name)
		}
	}
	seen := map[string]string{}
	for name, print := range map[string]string{
		"int": boxPrint[int](t), "int32": boxPrint[int32](t), "uint": boxPrint[uint](t), "float": boxPrint[float64](t),
		"string": boxPrint[string](t), "list": boxPrint[[]int](t), "array": boxPrint[[2]int](t), "longer array": boxPrint[[3]int](t),
		"map": boxPrint[map[string]int](t), "pointer": boxPrint[*int](t), "raw": boxPrint[json.RawMessage](t), "tree": boxPrint[Tree](t),
		"part": boxPrint[Part](t), "another member": boxPrint[another](t), "another name": boxPrint[renamed](t),
	} {
		if other, ok := seen[print]; ok {
			t.Errorf("%s and %s have the same fingerprint", name, other)
		}
		seen[print] = name
	}
	if boxPrint[Part](t) != boxPrint[reordered](t) {
		t.Error("the order of Go fields changes the fingerprint")
	}
}

type (
	Jumped  struct{}
	another struct {
		Name   string `json:"name"`
		Amount *int64 `json:"amount,omitempty"`
		More   bool   `json:"more"`
	}
	renamed struct {
		Title  string `json:"title"`
		Amount *int64 `json:"amount,omitempty"`
	}
	reordered struct {
		Sum   *int64 `json:"amount,omitempty"`
		Title string `json:"name"`
	}
)

func (Jumped) Apply(*Figure) {}

func boxPrint[T any](t *testing.T) string {
	t.Helper()
	var c aggregate.Catalog
	d := aggregate.Define(&c, aggregate.Type[Box[T]]{
		Name: "box", Access: everyone,
		Commands: aggregate.Commands[Box[T]]{"put": Put[T]{}},
		Events:   aggregate.Events[Box[T]]{"stored": Stored[T]{}},
	})
	if err := c.Err(); err != nil {
		t.Fatal(err)
	}
	return d.Fingerprint()
}

func TestCatalogAllowsAnonymousOnlyWithAnOpenRule(t *testing.T) {
	t.Parallel()
	closed := aggregate.Access{Send: aggregate.Authenticated, Read: aggregate.Self}
	for name, c := range map[string]struct {
		access aggregate.Access
		want   bool
	}{
		"closed":     {closed, false},
		"the system": {aggregate.Access{Send: aggregate.System, Read: closed.Read}, false},
		"read":       {aggregate.Access{Send: closed.Send, Read: aggregate.Anyone}, true},
		"send":       {aggregate.Access{Send: aggregate.Anyone, Read: closed.Read}, true},
		"command":    {aggregate.Access{Send: closed.Send, Read: closed.Read, Commands: map[string]aggregate.Rule{"put": aggregate.Anyone}}, true},
		"a function": {aggregate.Access{Send: closed.Send, Read: aggregate.RuleFunc(func(aggregate.Caller, string) bool { return false })}, true},
	} {
		var catalog aggregate.Catalog
		aggregate.Define(&catalog, aggregate.Type[Box[int]]{
			Name: "box", Access: c.access,
			Commands: aggregate.Commands[Box[int]]{"put": Put[int]{}},
			Events:   aggregate.Events[Box[int]]{"stored": Stored[int]{}},
		})
		if err := catalog.Err(); err != nil {
			t.Fatal(err)
		}
		if got := catalog.AllowsAnonymous(); got != c.want {
			t.Errorf("%s: got %v", name, got)
		}
	}
}

func TestClosedTypeExistsOnlyForTheEngine(t *testing.T) {
	t.Parallel()
	var c, other aggregate.Catalog
	typ := aggregate.Type[Box[int]]{
		Name: "box", Access: everyone, ShowsCaller: true,
		Commands: aggregate.Commands[Box[int]]{"put": Put[int]{}},
		Events:   aggregate.Events[Box[int]]{"stored": Stored[int]{}},
	}
	d := aggregate.Define(&other, typ)
	if err := c.AddClosed(d); err != nil {
		t.Fatal(err)
	}
	found, ok := c.Type("box")
	if !ok || found != d {
		t.Error("Type does not find it")
	}
	if data, err := c.Show("box", "stored", 1, []byte(`{"value":1}`)); err != nil || string(data) != `{"value":1}` {
		t.Errorf("its events are shown as %s, %v", data, err)
	}
	if len(c.Types()) != 0 || c.HasType("box") || c.HasCommand("box", "put") || c.ShowsCaller("box") || c.AllowsAnonymous() ||
		c.MaySend("ada", nil, "box", "1", "put") || c.MayRead("ada", nil, "box", "1") || c.MayReadAll("ada", nil, "box") {
		t.Error("it exists for clients")
	}
	if err := c.AddClosed(d); err == nil {
		t.Error("its name can be taken twice")
	}
	if aggregate.Define(&c, typ); c.Err() == nil || !strings.Contains(c.Err().Error(), "already taken") {
		t.Errorf("an aggregate takes its name: %v", c.Err())
	}
}
