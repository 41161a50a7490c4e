package sqlprojection_test

import (
	"context"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/domain/projection"
	"github.com/ganglion-es/ganglion/engine/sqlprojection"
)

type (
	lamp     struct{}
	turn     struct{}
	turned   struct{}
	stranger struct{}
)

func (turn) Decide(aggregate.Call, lamp) (aggregate.Decision[lamp], error) {
	return aggregate.Emit[lamp](turned{})
}
func (turned) Apply(*lamp) {}

func lamps() *aggregate.Catalog {
	c := new(aggregate.Catalog)
	aggregate.Define(c, aggregate.Type[lamp]{
		Name:     "lamp",
		Access:   aggregate.Access{Send: aggregate.Anyone, Read: aggregate.Anyone},
		Commands: aggregate.Commands[lamp]{"turn": turn{}},
		Events:   aggregate.Events[lamp]{"turned": turned{}},
	})
	return c
}

func nothing[E any](context.Context, pgx.Tx, projection.At, E) error { return nil }

func turns() sqlprojection.SQL {
	return sqlprojection.SQL{Name: "turns", Setup: []string{"create table t ()"}, On: sqlprojection.Handlers{sqlprojection.On(nothing[turned])}}
}

func TestDefineReportsEveryProblemTogether(t *testing.T) {
	t.Parallel()
	c := lamps()
	sqlprojection.Define(c, sqlprojection.SQL{Name: "An-odd name", On: sqlprojection.Handlers{sqlprojection.On[turned](nil)}})
	sqlprojection.Define(c, sqlprojection.SQL{Name: strings.Repeat("x", 31), Setup: []string{"select 1"}})
	foreign := turns()
	foreign.Name, foreign.On = "foreign", sqlprojection.Handlers{sqlprojection.On(nothing[stranger])}
	sqlprojection.Define(c, foreign)
	projection.Define(c, projection.Table[stranger]{Name: "turns", On: projection.Handlers[stranger]{projection.On(func(projection.At, turned, *stranger) {})}})
	sqlprojection.Define(c, turns())
	err := c.Err()
	if err == nil {
		t.Fatal("nothing is reported")
	}
	for _, want := range []string{
		`SQL projection "An-odd name": the Name is no stored name`, "Setup is missing", "handler 1 of On, of sqlprojection_test.turned, is nil",
		`SQL projection "` + strings.Repeat("x", 31) + `": the Name is no stored name`, "On has no handlers",
		"handler 1 takes a sqlprojection_test.stranger, which no aggregate",
		`SQL projection "turns": the name is already taken`,
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the problems lack %q:\n%v", want, err)
		}
	}
}

func TestFingerprintCoversWhatTablesDependOn(t *testing.T) {
	t.Parallel()
	prints := map[string]string{}
	for name, change := range map[string]func(*sqlprojection.SQL){
		"as it is":      func(*sqlprojection.SQL) {},
		"another Setup": func(s *sqlprojection.SQL) { s.Setup = append(s.Setup, "create table u ()") },
		"a revision":    func(s *sqlprojection.SQL) { s.Revision = 1 },
	} {
		for range 2 {
			s := turns()
			change(&s)
			c := lamps()
			d := sqlprojection.Define(c, s)
			if err := c.Err(); err != nil {
				t.Fatal(err)
			}
			if other, ok := prints[d.Fingerprint()]; ok && other != name {
				t.Errorf("%q and %q have one fingerprint", name, other)
			}
			prints[d.Fingerprint()] = name
		}
	}
	if len(prints) != 3 {
		t.Errorf("three definitions have %d fingerprints", len(prints))
	}
}
