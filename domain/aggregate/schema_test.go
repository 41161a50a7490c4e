package aggregate_test

import (
	"encoding/json"
	"reflect"
	"testing"

	"github.com/ganglion-es/ganglion/domain/aggregate"
)

func undescribed(reflect.Type, string) string { return "" }

// Gallery is an aggregate whose views have types that states may not have.
type Gallery struct{ Hung int }

type (
	hang struct{}
	hung struct{}
)

func (hang) Decide(aggregate.Call, Gallery) (aggregate.Decision[Gallery], error) {
	return aggregate.Emit(hung{})
}
func (hung) Apply(g *Gallery) { g.Hung++ }

func TestViewSchemaIsOpenWhereTheTypeIsUnknown(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		view func(Gallery) any
		want string
	}{
		"none":   {nil, `{"type":"object","properties":{"Hung":{"type":"integer","minimum":-9223372036854775808,"maximum":9223372036854775807}},"required":["Hung"]}`},
		"panics": {func(Gallery) any { panic("no") }, `{}`},
		"nil":    {func(Gallery) any { return nil }, `{}`},
		"loose":  {func(Gallery) any { return map[string]any{} }, `{"anyOf":[{"type":"object","additionalProperties":{}},{"type":"null"}]}`},
		"whole":  {func(g Gallery) any { return g.Hung > 0 }, `{"type":"boolean"}`},
		"embeds": {func(g Gallery) any { return struct{ Gallery }{g} }, `{"type":"object"}`},
		"of any": {func(Gallery) any { return struct{ A any }{} }, `{"type":"object","properties":{"A":{}},"required":["A"]}`},
		"left empty": {func(Gallery) any {
			return struct {
				L []int8 `json:"l,omitempty"`
			}{}
		}, `{"type":"object","properties":{"l":{"type":"array","items":{"type":"integer","minimum":-128,"maximum":127}}}}`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var c aggregate.Catalog
			d := aggregate.Define(&c, aggregate.Type[Gallery]{
				Name: "gallery", Access: aggregate.Access{Send: aggregate.Anyone, Read: aggregate.Anyone},
				Commands: aggregate.Commands[Gallery]{"hang": hang{}}, Events: aggregate.Events[Gallery]{"hung": hung{}}, View: test.view,
			})
			if err := c.Err(); err != nil {
				t.Fatal(err)
			}
			if got, err := json.Marshal(d.Schemas(undescribed)["gallery.state"]); err != nil || string(got) != test.want {
				t.Errorf("got %s %v\nwant %s", got, err, test.want)
			}
		})
	}
}
