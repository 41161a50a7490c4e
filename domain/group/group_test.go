package group_test

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/domain/group"
)

type (
	shelf struct{}
	put   struct{}
	lent  struct{}
	burnt struct{}
	fill  struct{}
)

func (fill) Decide(aggregate.Call, shelf) (aggregate.Decision[shelf], error) {
	return aggregate.Emit[shelf](put{})
}
func (put) Apply(*shelf)  {}
func (lent) Apply(*shelf) {}

func library() *aggregate.Catalog {
	c := new(aggregate.Catalog)
	for _, name := range []string{"box", "shelf"} {
		aggregate.Define(c, aggregate.Type[shelf]{
			Name:     name,
			Access:   aggregate.Access{Send: aggregate.Anyone, Read: aggregate.Anyone},
			Commands: aggregate.Commands[shelf]{"fill": fill{}},
			Events:   aggregate.Events[shelf]{"put": put{}, "lent": lent{}},
		})
	}
	return c
}

func TestDefineReportsEveryProblemTogether(t *testing.T) {
	t.Parallel()
	c := library()
	var rule aggregate.RuleFunc
	group.Define(c, group.Group{Name: "Mailer", Segments: 257, AckWithin: time.Millisecond, Access: rule})
	group.Define(c, group.Group{Name: strings.Repeat("a", 25), Access: aggregate.Self, Reads: group.Reads{"box"}})
	good := group.Group{Name: "sound", Access: aggregate.Anyone, Reads: group.Reads{"box"}}
	group.Define(c, good)
	group.Define(c, good)
	good.Name, good.Reads = "stranger", group.Reads{"shop", burnt{}, nil, &put{}}
	group.Define(c, good)
	err := c.Err()
	for _, want := range []string{
		`consumer group "Mailer": the Name has the character 'M'`, "Segments is 257: use 1 to 256", "AckWithin is 1ms: use 1s to 1h",
		`"Mailer": Reads is missing`, `"Mailer": Access is missing`, "the Name has 25 bytes: use at most 24", `aaa": Access is missing`,
		`"sound": the name is already taken`, `entry 1 of Reads is "shop", which is no aggregate type`,
		"entry 2 of Reads is a group_test.burnt", "entry 3 of Reads is nil", "entry 4 of Reads is a *group_test.put",
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("no problem %q in:\n%v", want, err)
		}
	}
	if n := len(c.Models(group.Kind)); n != 1 {
		t.Errorf("%d groups are in the catalog, want 1", n)
	}
}

func TestGroupReadsWholeTypesAndListedEvents(t *testing.T) {
	t.Parallel()
	c := library()
	d := group.Define(c, group.Group{Name: "mailer", Doc: "Sends mail.", Access: aggregate.Authenticated, Reads: group.Reads{"box", lent{}}})
	if err := c.Err(); err != nil {
		t.Fatal(err)
	}
	for event, want := range map[aggregate.EventName]bool{
		{Type: "box", Event: "put"}: true, {Type: "box", Event: "later"}: true,
		{Type: "shelf", Event: "lent"}: true, {Type: "shelf", Event: "put"}: false, {Type: "client", Event: "lent"}: false,
	} {
		if got := d.Reads(event); got != want {
			t.Errorf("reads %v: %v, want %v", event, got, want)
		}
	}
	if got := d.Types(); !reflect.DeepEqual(got, []string{"box", "shelf"}) {
		t.Errorf("types are %q", got)
	}
	if got := d.Whole(); !reflect.DeepEqual(got, []string{"box"}) {
		t.Errorf("whole types are %q", got)
	}
	if got := d.Events(); !reflect.DeepEqual(got, []aggregate.EventName{{Type: "box", Event: "lent"}, {Type: "shelf", Event: "lent"}}) {
		t.Errorf("events are %v", got)
	}
	if d.Segments() != 16 || d.AckWithin() != 30*time.Second || d.Name() != "mailer" || d.Doc() != "Sends mail." {
		t.Errorf("got %+v", d)
	}
	if d.Allows(aggregate.Caller{}) || !d.Allows(aggregate.Caller{Client: "bob"}) || d.Access() != aggregate.Authenticated {
		t.Error("Access is not asked")
	}
	if d.Scenarios() != nil || d.Uncovered() != nil {
		t.Error("a group has no code that a scenario could show")
	}
}
