package aggregate_test

import (
	"strings"
	"testing"
	"testing/fstest"

	"github.com/ganglion-es/ganglion/domain/aggregate"
)

// including returns a catalog of one type of stamps.
func including(name string) *aggregate.Catalog {
	c := &aggregate.Catalog{Source: fstest.MapFS{name + ".go": {}}}
	aggregate.Define(c, aggregate.Type[Stamp]{
		Name: name, Access: aggregate.Access{Send: aggregate.Anyone, Read: aggregate.Anyone},
		Commands: aggregate.Commands[Stamp]{"grade": GradeStamp{}}, Events: aggregate.Events[Stamp]{"graded": StampGraded{}},
	})
	return c
}

func TestIncludedTypesBelongToTheCatalog(t *testing.T) {
	t.Parallel()
	letters := including("letter")
	c := including("stamp").Include(letters, including("parcel").Include(letters))
	if err := c.Err(); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, d := range c.Types() {
		names = append(names, d.Name())
	}
	if got := strings.Join(names, " "); got != "letter parcel stamp" || !c.HasCommand("letter", "grade") {
		t.Errorf("the catalog has %s", got)
	}
	if got := len(c.Sources()); got != 4 {
		t.Errorf("it has %d sources, want its own, that of parcels, and twice that of letters", got)
	}
}

func TestIncludedNamesMustNotBeTaken(t *testing.T) {
	t.Parallel()
	c := including("letter")
	for want, err := range map[string]error{
		`type "letter" of an included catalog: the name is already taken`: including("letter").Include(including("letter")).Err(),
		`a catalog includes itself`:                                       c.Include(c).Err(),
		`there are no Commands`: new(aggregate.Catalog).Include(func() *aggregate.Catalog {
			var wrong aggregate.Catalog
			aggregate.Define(&wrong, aggregate.Type[Stamp]{Name: "stamp"})
			return &wrong
		}()).Err(),
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	late := new(aggregate.Catalog).Include(including("letter"))
	aggregate.Define(late, aggregate.Type[Stamp]{
		Name: "letter", Access: aggregate.Access{Send: aggregate.Anyone, Read: aggregate.Anyone},
		Commands: aggregate.Commands[Stamp]{"grade": GradeStamp{}}, Events: aggregate.Events[Stamp]{"graded": StampGraded{}},
	})
	if err := late.Err(); err == nil || !strings.Contains(err.Error(), "already taken") {
		t.Errorf("a type with the name of an included one: %v", err)
	}
}
