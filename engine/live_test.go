package engine

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/proto/ask"
	"github.com/ganglion-es/ganglion/proto/command"
)

// follow follows a question, once the projection has its first build.
func (r *readSide) follow(q ask.Question, cursor string) (ask.Live, chan struct{}) {
	r.t.Helper()
	r.ask(ask.Question{Query: q.Query, Client: q.Client, Data: q.Data})
	woken := make(chan struct{}, 1)
	l, f := r.queries.Follow(r.t.Context(), q, cursor, func() {
		select {
		case woken <- struct{}{}:
		default:
		}
	})
	if f != nil {
		r.t.Fatal(f)
	}
	r.t.Cleanup(l.Close)
	return l, woken
}

// parts returns the next parts until one of an operation.
func parts(t *testing.T, l ask.Live, woken chan struct{}, last string) string {
	t.Helper()
	var b strings.Builder
	deadline := time.After(time.Minute)
	for {
		for more := true; more; {
			var list []ask.Part
			list, more = l.Next(1000)
			for _, p := range list {
				frame := p.Append(nil, "1")
				if !json.Valid(frame) {
					t.Fatalf("the frame is not JSON: %s", frame)
				}
				b.Write(append(frame, '\n'))
				if p.Op == last {
					return b.String()
				}
			}
		}
		select {
		case <-woken:
		case <-deadline:
			t.Fatalf("no part %s after %s", last, b.String())
		}
	}
}

func TestLiveQueryFollowsTheLog(t *testing.T) {
	t.Parallel()
	r := newReadSide(t, true)
	p := r.ship("a", 0, shipped{Owner: "bob", Weight: 1})
	l, woken := r.follow(ask.Question{Query: "mine", Client: "bob", AtLeast: p}, "")
	if got := parts(t, l, woken, "live"); strings.Count(got, "\n") != 2 || !strings.Contains(got, `"rows":[{"key":"a",`) {
		t.Errorf("the state is %s", got)
	}
	r.ship("b", 0, shipped{Owner: "bob", Weight: 2})
	if got := parts(t, l, woken, "synced"); !strings.Contains(got, `"op":"update","sub":"1","key":"b",`) {
		t.Errorf("the update is %s", got)
	}
	r.ship("a", 1, shipped{Owner: "eve", Weight: 3})
	if got := parts(t, l, woken, "synced"); !strings.Contains(got, `"key":"a","gone":true}`) {
		t.Errorf("a row that changes its owner leaves with %s", got)
	}
	cursor, _ := l.Cursor()
	l.Close()
	r.ship("c", 0, shipped{Owner: "bob", Weight: 4})
	l, woken = r.follow(ask.Question{Query: "mine", Client: "bob", AtLeast: r.head}, cursor)
	if got := parts(t, l, woken, "synced"); strings.Count(got, "\n") != 2 || !strings.Contains(got, `"key":"c"`) {
		t.Errorf("the resume sends %s", got)
	}
	if n := r.queries.LiveStats(); n.Live != 1 || n.Questions != 1 {
		t.Errorf("the figures are %+v", n)
	}
}

func TestLiveQueryOfAnotherClientIsReset(t *testing.T) {
	t.Parallel()
	r := newReadSide(t, true)
	r.ship("a", 0, shipped{Owner: "bob", Weight: 1})
	r.ship("e", 0, shipped{Owner: "eve", Weight: 1})
	l, woken := r.follow(ask.Question{Query: "mine", Client: "bob", AtLeast: r.head}, "")
	parts(t, l, woken, "live")
	if f := l.Renew(t.Context(), "eve", nil); f != nil {
		t.Fatal(f)
	}
	got := parts(t, l, woken, "live")
	if !strings.HasPrefix(got, `{"op":"reset","sub":"1","reason":"access"}`) || strings.Contains(got, `"key":"a"`) || !strings.Contains(got, `"key":"e"`) {
		t.Errorf("other rights are answered with %s", got)
	}
	if f := l.Renew(t.Context(), "", nil); f == nil || f.Code != command.CodeUnauthenticated {
		t.Errorf("an anonymous client gets %v", f)
	}
	r.ship("e", 1, shipped{Owner: "eve", Weight: 2})
	if list, _ := l.Next(1000); len(list) > 0 {
		t.Errorf("without rights the client gets %s", list[0].Tail)
	}
}

func TestLiveQueriesAreRefusedWithTheirReason(t *testing.T) {
	t.Parallel()
	r := newReadSide(t, true)
	for _, test := range []struct {
		q    ask.Question
		code command.Code
	}{
		{ask.Question{Query: "nosuch"}, command.CodeNotFound},
		{ask.Question{Query: "mine"}, command.CodeUnauthenticated},
		{ask.Question{Query: "parcels", Data: json.RawMessage(`{"least":"x"}`)}, command.CodeBadRequest},
	} {
		if _, f := r.queries.Follow(t.Context(), test.q, "", func() {}); f == nil || f.Code != test.code {
			t.Errorf("%+v: got %v, want %s", test.q, f, test.code)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, f := r.queries.Follow(ctx, ask.Question{Query: "parcels"}, "", func() {}); f == nil {
		t.Error("Follow does not end with its context")
	}
}
