package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/domain/projection"
	"github.com/ganglion-es/ganglion/domain/query"
	"github.com/ganglion-es/ganglion/proto/ask"
	"github.com/ganglion-es/ganglion/proto/command"
)

type (
	// owners counts the parcels of each owner.
	owners map[string]int64

	asked struct {
		Do string `json:"do,omitzero"`
	}
	sums struct {
		Parcels int64            `json:"parcels"`
		Weight  int64            `json:"weight"`
		Owners  map[string]int64 `json:"owners"`
	}
)

// funcCatalog has the projection "parcels", the memory "owners", and the Funcs
// "sums", which reads both and may misbehave, "counts", which reads the memory, and
// "late", which waits for its timeout.
// started gets a value when "sums" blocks; it then ignores its context until free
// is closed.
func funcCatalog(t *testing.T, started, free chan struct{}) *aggregate.Catalog {
	t.Helper()
	c := new(aggregate.Catalog)
	aggregate.Define(c, aggregate.Type[parcel]{
		Name:     "parcel",
		Access:   aggregate.Access{Send: aggregate.Anyone, Read: aggregate.Anyone},
		Commands: aggregate.Commands[parcel]{"ship": ship{}},
		Events:   aggregate.Events[parcel]{"shipped": shipped{}},
	})
	parcels := projection.Define(c, projection.Table[parcelRow]{
		Name: "parcels", Segments: 3,
		On: projection.Handlers[parcelRow]{projection.On(func(at projection.At, e shipped, r *parcelRow) {
			*r = parcelRow{Owner: e.Owner, Weight: e.Weight, Score: e.Score, Fast: e.Fast, At: at.Time}
		})},
		Indexes: [][]string{{"owner", "weight"}},
	})
	stray := projection.Define(c, projection.Table[parcelRow]{
		Name: "stray",
		On:   projection.Handlers[parcelRow]{projection.On(func(projection.At, shipped, *parcelRow) {})},
	})
	memory := projection.DefineMemory(c, projection.Memory[owners]{
		Name: "owners",
		New:  func() owners { return owners{} },
		On: projection.Handlers[owners]{projection.On(func(_ projection.At, e shipped, o *owners) {
			if e.Owner == "panic" {
				panic("boom")
			}
			(*o)[e.Owner]++
		})},
	})
	counts := func(db query.Reader) (o map[string]int64, err error) {
		o = map[string]int64{}
		err = memory.Read(db, func(s *owners, _ uint64) {
			for name, n := range *s {
				o[name] = n
			}
		})
		return o, err
	}
	query.Define(c, query.Func[asked, sums]{
		Name: "sums", Access: aggregate.Authenticated, From: query.From{parcels, memory}, Timeout: query.MaxTimeout,
		Answer: func(ctx context.Context, call query.Call, q asked, db query.Reader) (s sums, err error) {
			switch q.Do {
			case "reject":
				return s, aggregate.Reject("no", "not today").Because("not for %s", call.Client)
			case "panic":
				panic("boom")
			case "fail":
				return s, errors.New("it fails")
			case "stray":
				_, _, err := query.Get(ctx, db, stray, "a")
				return s, err
			case "block":
				started <- struct{}{}
				<-free
			}
			for r, err := range query.Each(ctx, db, parcels, query.Cond{}, "owner", "-weight") {
				if err != nil {
					return s, err
				}
				s.Parcels, s.Weight = s.Parcels+1, s.Weight+r.Row.Weight
			}
			s.Owners, err = counts(db)
			return s, err
		},
	})
	query.Define(c, query.Func[asked, sums]{
		Name: "late", Access: aggregate.Anyone, From: query.From{memory}, Timeout: 200 * time.Millisecond,
		Answer: func(ctx context.Context, _ query.Call, _ asked, _ query.Reader) (sums, error) {
			<-ctx.Done()
			return sums{}, ctx.Err()
		},
	})
	query.Define(c, query.Func[asked, map[string]int64]{
		Name: "counts", Access: aggregate.Anyone, From: query.From{memory}, Timeout: query.MaxTimeout,
		Answer: func(_ context.Context, _ query.Call, _ asked, db query.Reader) (map[string]int64, error) {
			return counts(db)
		},
	})
	if err := c.Err(); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestFuncAnswersFromRowsAndStatesAtAPosition(t *testing.T) {
	t.Parallel()
	r := newReadSideOf(t, funcCatalog(t, nil, nil), true)
	weight := 0
	for i := range 120 { // more than a page of Each
		weight += i
		r.ship(fmt.Sprint("p", i), 0, shipped{Owner: fmt.Sprint("o", i%2), Weight: int64(i)})
		if i%20 > 0 {
			continue
		}
		a := r.ask(ask.Question{Query: "counts", AtLeast: r.head})
		want := fmt.Sprintf(`{"o0":%d}`, i/2+1)
		if i > 0 {
			want = fmt.Sprintf(`{"o0":%d,"o1":%d}`, i/2+1, i/2)
		}
		if string(a.Value) != want || a.Position < r.head || a.Rows != nil {
			t.Fatalf("at position %d the answer is %s at %d, want %s", r.head, a.Value, a.Position, want)
		}
	}
	a := r.ask(ask.Question{Query: "sums", Client: "bob", AtLeast: r.head})
	want := fmt.Sprintf(`{"parcels":120,"weight":%d,"owners":{"o0":60,"o1":60}}`, weight)
	if string(a.Value) != want || a.Position != r.head || a.Next != "" {
		t.Errorf("the answer is %s at %d, want %s at %d", a.Value, a.Position, want, r.head)
	}
}

func TestFuncFailsWithItsReason(t *testing.T) {
	t.Parallel()
	r := newReadSideOf(t, funcCatalog(t, nil, nil), true)
	r.ship("a", 0, shipped{Owner: "bob"})
	r.ask(ask.Question{Query: "sums", Client: "bob", AtLeast: r.head})
	do := func(what string) ask.Question {
		return ask.Question{Query: "sums", Client: "bob", Data: json.RawMessage(`{"do":"` + what + `"}`)}
	}
	fails := func(q ask.Question, code command.Code, field, says string) {
		t.Helper()
		if _, f := r.queries.Ask(t.Context(), q); f == nil || f.Code != code || f.Field != field || !strings.Contains(f.Message, says) {
			t.Errorf("ask %+v: got %v, want %s of the member %q with %q", q, f, code, field, says)
		}
	}
	for range 3 { // each gives its place back
		fails(do("reject"), command.CodeRejected, "", "not for bob")
		fails(do("panic"), command.CodeInternal, "", "log")
		fails(do("fail"), command.CodeInternal, "", "log")
		fails(do("stray"), command.CodeInternal, "", "log")
	}
	fails(ask.Question{Query: "late"}, command.CodeTimeout, "", "in time")
	fails(ask.Question{Query: "sums"}, command.CodeUnauthenticated, "", "identify yourself")
	fails(ask.Question{Query: "sums", Client: "bob", Data: json.RawMessage(`{"do":1}`)}, command.CodeBadRequest, "do", "")
	fails(ask.Question{Query: "sums", Client: "bob", After: "x"}, command.CodeBadRequest, "after", "no pages")
	r.fails(ask.Question{Query: "sums", Client: "bob", AtLeast: r.head + 1}, command.CodeUnavailable, "", "not yet")
	r.fails(ask.Question{Query: "counts", AtLeast: r.head + 1}, command.CodeUnavailable, "", "not yet")
	if _, f := r.queries.compile(r.queries.queries["sums"], ask.Question{Client: "bob"}); f == nil || f.Code != command.CodeUnsupported {
		t.Errorf("subscribing to a Func: %v", f)
	}
}

func TestFuncThatIgnoresItsContextKeepsItsPlaceAlone(t *testing.T) {
	t.Parallel()
	started, free := make(chan struct{}), make(chan struct{})
	r := newReadSideOf(t, funcCatalog(t, started, free), true)
	r.ship("a", 0, shipped{Owner: "bob"})
	r.ask(ask.Question{Query: "sums", Client: "bob", AtLeast: r.head})
	block := ask.Question{Query: "sums", Client: "bob", Data: json.RawMessage(`{"do":"block"}`)}
	failures := make(chan *command.Failure)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for range funcsReadingRows {
		go func() {
			_, f := r.queries.Ask(ctx, block)
			failures <- f
		}()
		<-started
	}
	soon, stop := context.WithCancel(t.Context())
	go func() { <-time.After(100 * time.Millisecond); stop() }()
	if _, f := r.queries.Ask(soon, ask.Question{Query: "sums", Client: "bob"}); f == nil || f.Code != command.CodeBusy && f.Code != command.CodeTimeout {
		t.Errorf("asking while every place is taken: %v", f)
	}
	cancel()
	for range funcsReadingRows {
		if f := <-failures; f == nil || f.Code != command.CodeTimeout {
			t.Errorf("a blocked query: got %v, want timeout", f)
		}
	}
	close(free)
	r.ask(ask.Question{Query: "counts"})
	r.ask(ask.Question{Query: "sums", Client: "bob"})
}

func TestFuncIsUnavailableOnceItsStateHasStopped(t *testing.T) {
	t.Parallel()
	r := newReadSideOf(t, funcCatalog(t, nil, nil), true)
	r.ship("a", 0, shipped{Owner: "bob"})
	r.ask(ask.Question{Query: "counts", AtLeast: r.head})
	r.ship("b", 0, shipped{Owner: "panic"})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for _, q := range []ask.Question{{Query: "counts", AtLeast: r.head}, {Query: "counts"}} {
		_, f := r.queries.Ask(ctx, q)
		if f == nil || f.Code != command.CodeUnavailable || !strings.Contains(f.Message, "is not current") || !strings.Contains(f.Cause, "position 2 cannot be folded: panic: boom") {
			t.Errorf("asking a stopped state: %v", f)
		}
	}
	figures := r.queries.cfg.Projections.Memory()
	if len(figures) != 1 || figures[0] != (MemoryFigures{Projection: "owners", Position: 2, Stopped: true}) {
		t.Errorf("its figures are %+v", figures)
	}
}

func TestGatewayWithoutStatesSaysSo(t *testing.T) {
	t.Parallel()
	r := newReadSideOf(t, funcCatalog(t, nil, nil), false)
	r.fails(ask.Question{Query: "counts"}, command.CodeUnavailable, "", "is not current")
	r.queries.cfg.Projections = nil
	r.fails(ask.Question{Query: "counts"}, command.CodeUnavailable, "", "keeps no state")
	r.fails(ask.Question{Query: "sums", Client: "bob"}, command.CodeUnavailable, "", "being built")
}

func TestProjectionsCatchUpBeforeTheNodeIsReady(t *testing.T) {
	t.Parallel()
	r := newReadSideOf(t, funcCatalog(t, nil, nil), true)
	p := r.queries.cfg.Projections
	select {
	case <-p.CaughtUp():
	case <-time.After(time.Minute):
		t.Fatal("the projections never catch up")
	}
	none := NewProjections(ProjectionsConfig{Catalog: parcelCatalog(t), Logger: slog.New(slog.DiscardHandler)})
	<-none.CaughtUp() // it has nothing in memory
}
