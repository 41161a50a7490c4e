package query_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/domain/projection"
	"github.com/ganglion-es/ganglion/domain/query"
)

type (
	worth struct {
		Least int64 `json:"least,omitzero"`
	}
	total struct {
		Cars int64    `json:"cars"`
		Sum  int64    `json:"sum"`
		IDs  []string `json:"ids"`
	}
	banned map[string]bool
)

var errGreedy = aggregate.Reject("greedy", "ask for less")

// garage returns a catalog with the projection "cars", the memory "banned" and a
// Func that reads both.
func garage(change func(*query.Func[worth, total])) (*aggregate.Catalog, *query.Definition) {
	c := new(aggregate.Catalog)
	aggregate.Define(c, aggregate.Type[car]{
		Name:     "car",
		Access:   aggregate.Access{Send: aggregate.Anyone, Read: aggregate.Anyone},
		Commands: aggregate.Commands[car]{"buy": buy{}},
		Events:   aggregate.Events[car]{"bought": bought{}},
	})
	type price struct {
		Price int64 `json:"price"`
	}
	from := projection.Define(c, projection.Table[price]{
		Name: "prices",
		On: projection.Handlers[price]{
			projection.On(func(_ projection.At, e bought, r *price) { r.Price = e.Price }),
		},
		Indexes: [][]string{{"price"}},
	})
	ban := projection.DefineMemory(c, projection.Memory[banned]{
		Name: "banned",
		On: projection.Handlers[banned]{
			projection.On(func(projection.At, bought, *banned) {}),
		},
	})
	f := query.Func[worth, total]{
		Name: "worth", Access: aggregate.Authenticated, From: query.From{from, ban},
		Answer: func(ctx context.Context, call query.Call, q worth, db query.Reader) (t total, err error) {
			if q.Least < 0 {
				return t, errGreedy
			}
			isBanned := false
			if err := ban.Read(db, func(b *banned, _ uint64) { isBanned = (*b)[call.Client] }); err != nil {
				return t, err
			}
			if isBanned {
				return t, errGreedy
			}
			for r, err := range query.Each(ctx, db, from, query.AtLeast("price", q.Least), "-price") {
				if err != nil {
					return t, err
				}
				again, ok, err := query.Get(ctx, db, from, r.Key)
				if err != nil || !ok || again != r.Row {
					return t, errors.Join(err, errors.New("a row cannot be read again"))
				}
				t.Cars, t.Sum, t.IDs = t.Cars+1, t.Sum+r.Row.Price, append(t.IDs, r.Key)
			}
			return t, nil
		},
		Scenarios: query.Scenarios[worth]{
			"all": query.Ask(worth{Least: 5}, query.WithRows(from, map[string]price{"a": {5}, "b": {7}, "c": {4}})).By("bob").
				Gives(`{"cars": 2, "sum": 12, "ids": ["b", "a"]}`),
			"banned":    query.Ask(worth{}, query.WithState(ban, banned{"bob": true})).By("bob").Rejects("greedy"),
			"greedy":    query.Ask(worth{Least: -1}).By("bob").Rejects("greedy"),
			"anonymous": query.Ask(worth{}).Forbid(),
		},
	}
	change(&f)
	return c, query.Define(c, f)
}

func TestScenariosOfFuncRun(t *testing.T) {
	t.Parallel()
	c, d := garage(func(*query.Func[worth, total]) {})
	if err := c.Err(); err != nil {
		t.Fatal(err)
	}
	for _, s := range d.Scenarios() {
		if err := s.Run(); err != nil {
			t.Errorf("%s: %v", s.Name, err)
		}
	}
	if !d.IsFunc() || d.From() != nil || len(d.Sources()) != 2 || d.Timeout() != query.DefaultTimeout {
		t.Errorf("it reads %v and %v within %v", d.From(), d.Sources(), d.Timeout())
	}
	if _, err := d.Question(query.Call{}, nil); err == nil {
		t.Error("a Func has a question about rows")
	}
}

func TestScenariosOfFuncFail(t *testing.T) {
	t.Parallel()
	for want, s := range map[string]query.Scenario[worth]{
		"it should be {}":              query.Ask(worth{}).By("bob").Gives(`{}`),
		"not JSON":                     query.Ask(worth{}).By("bob").Gives(`{`),
		`rejected with "greedy"`:       query.Ask(worth{}).By("bob").Rejects("greedy"),
		"greedy: ask for less":         query.Ask(worth{Least: -1}).By("bob").Gives(`{}`),
		"ends with Gives, Rejects":     query.Ask(worth{}).By("bob").Answers("1"),
		"should be forbidden":          query.Ask(worth{}).By("bob").Forbid(),
		"has rows by WithRows, states": query.Ask(worth{}, query.Among(worth{})).By("bob").Gives(`{}`),
	} {
		c, d := garage(func(f *query.Func[worth, total]) { f.Scenarios = query.Scenarios[worth]{"s": s} })
		if err := c.Err(); err != nil {
			t.Fatal(err)
		}
		if err := d.Scenarios()[0].Run(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

func TestDefineFuncReportsEveryProblemTogether(t *testing.T) {
	t.Parallel()
	var missing *projection.InMemory[banned]
	c, _ := garage(func(f *query.Func[worth, total]) {
		f.Name, f.Access, f.From, f.Answer, f.Timeout = "A", nil, query.From{nil, missing}, nil, time.Minute
	})
	type odd struct{ Bare string }
	query.Define(c, query.Func[worth, odd]{Name: "odd", Access: aggregate.Anyone})
	err := c.Err()
	if err == nil {
		t.Fatal("nothing is reported")
	}
	for _, want := range []string{
		`query "A": the Name has the character 'A'`, "Access is missing", "projection 1 of From is nil", "projection 2 of From is nil",
		"Answer is missing", "Timeout is 1m0s: use at most 30s", `query "odd": From is missing`, "Bare has no json tag",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the problems lack %q:\n%v", want, err)
		}
	}
}

func TestAnswerOfFuncIsBounded(t *testing.T) {
	t.Parallel()
	c, d := garage(func(f *query.Func[worth, total]) {
		f.Answer = func(context.Context, query.Call, worth, query.Reader) (total, error) {
			return total{IDs: []string{strings.Repeat("x", query.MaxAnswerBytes)}}, nil
		}
	})
	if err := c.Err(); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Answer(t.Context(), query.Call{}, nil, nil); err == nil || !strings.Contains(err.Error(), "at most 1048576 are allowed") {
		t.Errorf("got %v", err)
	}
	if _, err := d.Answer(t.Context(), query.Call{}, []byte(`{"least":"x"}`), nil); err == nil {
		t.Error("wrong parameters are accepted")
	}
}
