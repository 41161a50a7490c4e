package conversation_test

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	ganglion "github.com/ganglion-es/ganglion/client/go"
	"github.com/ganglion-es/ganglion/test/conversation"
)

// TestClientGo plays every conversation with client/go. Client and gateway run in
// one bubble of package synctest, whose clock moves only by the script's
// "advance", and share an in-memory network.
//
// protocol: close 1012, close 4000, close 4001, close 4004, close 4100, close 4200
// protocol: rule Rolling upgrades
// protocol: rule Refusals reach the application
func TestClientGo(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("../../proto/testdata/conversations/*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, file := range files {
		s, err := conversation.Load(file)
		if err != nil {
			t.Fatal(err)
		}
		t.Run(s.Name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				l := memory{conns: make(chan net.Conn), closed: make(chan struct{}), once: new(sync.Once)}
				if err := conversation.Play(t.Context(), l, s, &application{network: l}); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// memory is a network with one listener.
type memory struct {
	conns  chan net.Conn
	closed chan struct{}
	once   *sync.Once
}

func (m memory) Accept() (net.Conn, error) {
	select {
	case c := <-m.conns:
		return c, nil
	case <-m.closed:
		return nil, net.ErrClosed
	}
}

func (m memory) Close() error   { m.once.Do(func() { close(m.closed) }); return nil }
func (m memory) Addr() net.Addr { return m }
func (memory) Network() string  { return "memory" }
func (memory) String() string   { return "gateway:80" }

func (m memory) dial(ctx context.Context) (net.Conn, error) {
	client, server := net.Pipe()
	select {
	case m.conns <- server:
		return client, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-m.closed:
		return nil, net.ErrClosed
	}
}

// application executes the steps of a script that the application takes, and
// keeps its observations.
type application struct {
	network memory
	client  *ganglion.Client
	dials   atomic.Int64
	began   time.Time
	given   time.Duration // sum of the steps "advance"

	reading       sync.WaitGroup
	reports       chan any
	outcomes      map[string]chan any
	subscriptions map[string]*subscription
	queries       map[string]*liveQuery
	consumers     map[string]*consumer
	aborts        map[string]context.CancelFunc
}

type subscription struct {
	*ganglion.Subscription[json.RawMessage, json.RawMessage]
	seen chan any
}

// maxSeen is more than the observations of one call in any script.
const maxSeen = 100

func (a *application) Open(ctx context.Context, url string, connect json.RawMessage) error {
	var o struct {
		Client string
		Tokens []json.RawMessage
		Log    string
		Queue  int
		Random *float64
	}
	if err := json.Unmarshal(connect, &o); err != nil {
		return err
	}
	a.reports = make(chan any, maxSeen)
	a.outcomes, a.subscriptions = map[string]chan any{}, map[string]*subscription{}
	a.queries = map[string]*liveQuery{}
	a.consumers = map[string]*consumer{}
	a.aborts = map[string]context.CancelFunc{}
	chance := 0.5
	if o.Random != nil {
		chance = *o.Random
	}
	options := ganglion.Options{
		URLs: []string{url}, ClientID: o.Client, Log: o.Log, Queue: o.Queue,
		Random:  func() float64 { return chance },
		OnError: func(e *ganglion.Error) { a.reports <- describe(e) },
		HTTPClient: &http.Client{Transport: &http.Transport{
			DisableKeepAlives: true,
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				a.dials.Add(1)
				return a.network.dial(ctx)
			},
		}},
	}
	if o.Tokens != nil {
		tokens := o.Tokens
		options.Token = func(context.Context) (string, error) {
			if len(tokens) == 0 {
				return "", errors.New("the script has no more tokens")
			}
			var token string
			next := tokens[0]
			tokens = tokens[1:]
			if err := json.Unmarshal(next, &token); err == nil {
				return token, nil
			}
			var fails struct{ Fails string }
			return "", cmp.Or(json.Unmarshal(next, &fails), errors.New(fails.Fails))
		}
	}
	var err error
	a.began = time.Now()
	a.client, err = ganglion.Connect(context.WithoutCancel(ctx), options)
	return err
}

func (a *application) Do(ctx context.Context, step conversation.Step) error {
	// All work that needs no timer is done now, and no time has passed.
	synctest.Wait()
	if passed := time.Since(a.began); passed != a.given {
		return fmt.Errorf("the clock is at %v, but the script advanced it by %v: something waits for a timer", passed, a.given)
	}
	var body map[string]json.RawMessage
	switch step.Verb {
	case "advance":
		var ms int64
		if err := json.Unmarshal(step.Body, &ms); err != nil {
			return err
		}
		d := time.Duration(ms) * time.Millisecond
		a.given += d
		time.Sleep(d)
		synctest.Wait()
		return nil
	case "wake": // Go's clock stops while the machine sleeps
		a.client.Wake()
		return nil
	case "read":
		var o struct {
			Subscription string
			Items        int
		}
		if err := json.Unmarshal(step.Body, &o); err != nil {
			return err
		}
		for range o.Items {
			a.next(ctx, a.subscriptions[o.Subscription])
		}
		return nil
	}
	if err := json.Unmarshal(step.Body, &body); err != nil {
		return err
	}
	if step.Verb == "call" {
		return a.call(body)
	}
	return a.observe(ctx, body)
}

func (a *application) call(body map[string]json.RawMessage) error {
	as := text(body["as"])
	ctx, cancel := context.WithCancel(context.Background())
	if as == "" {
		cancel()
	} else {
		a.aborts[as] = cancel
	}
	var o struct {
		Aggregate, Command, Key string
		Data                    json.RawMessage
		Expect                  *uint64
		TimeoutMS               int64  `json:"timeout_ms"`
		AtLeast                 uint64 `json:"at_least"`
		Strong                  bool
		Stream, Category        string
		From                    json.RawMessage
		State                   any
		Buffer                  int
		Reads                   *bool
	}
	for verb, raw := range body {
		if verb == "as" {
			continue
		}
		switch verb {
		case "unsubscribe":
			a.unsubscribe(text(raw))
			return nil
		case "abort":
			a.aborts[text(raw)]()
			return nil
		case "ack", "park", "finish":
			return a.callConsumer(verb, raw)
		case "close":
			a.client.Close()
			return nil
		}
		if err := json.Unmarshal(raw, &o); err != nil {
			return err
		}
		typ, id, _ := strings.Cut(cmp.Or(o.Aggregate, o.Stream), "/")
		seen := make(chan any, maxSeen)
		switch verb {
		case "send":
			var options []ganglion.SendOption
			if o.Key != "" {
				options = append(options, ganglion.WithKey(o.Key))
			}
			if o.Expect != nil {
				options = append(options, ganglion.WithExpect(*o.Expect))
			}
			if o.TimeoutMS != 0 {
				options = append(options, ganglion.WithTimeout(time.Duration(o.TimeoutMS)*time.Millisecond))
			}
			a.outcomes[as] = seen
			sending := a.client.Aggregate(typ, id).Start(ctx, o.Command, o.Data, options...)
			a.reading.Go(func() { r, err := sending.Wait(); seen <- outcome(r, err) })
		case "get":
			var options []ganglion.GetOption
			if o.AtLeast != 0 {
				options = append(options, ganglion.AtLeast(o.AtLeast))
			}
			if o.Strong {
				options = append(options, ganglion.Strong())
			}
			a.outcomes[as] = seen
			a.reading.Go(func() { s, err := a.client.Aggregate(typ, id).Get(ctx, options...); seen <- outcome(s, err) })
		case "subscribe":
			options, err := from(o.From, o.State == true)
			if err != nil {
				return err
			}
			if o.State == "each" {
				options = append(options, ganglion.WithStates())
			}
			if o.Buffer > 0 {
				options = append(options, ganglion.WithBuffer(o.Buffer))
			}
			s := &subscription{seen: seen}
			a.subscriptions[as] = s
			if o.Stream != "" {
				s.Subscription = a.client.Aggregate(typ, id).Follow(options...)
			} else {
				s.Subscription = a.client.Category(o.Category).Follow(options...)
			}
			if o.Reads == nil || *o.Reads {
				a.reading.Go(func() {
					defer s.Close()
					for a.next(ctx, s) {
					}
				})
			}
		case "query", "live":
			return a.callQuery(ctx, as, verb, raw)
		case "consume", "handle":
			return a.consume(ctx, as, verb, raw)
		default:
			return fmt.Errorf("unknown call %s", verb)
		}
		return nil
	}
	return errors.New("an empty call")
}

func from(from json.RawMessage, state bool) ([]ganglion.SubscribeOption, error) {
	var o struct {
		After  *uint64
		Cursor string
		Last   uint64
	}
	switch {
	case state:
		return []ganglion.SubscribeOption{ganglion.FromState()}, nil
	case len(from) == 0, text(from) == "now":
		return []ganglion.SubscribeOption{ganglion.FromNow()}, nil
	case text(from) == "start":
		return []ganglion.SubscribeOption{ganglion.FromStart()}, nil
	}
	if err := json.Unmarshal(from, &o); err != nil {
		return nil, err
	}
	switch {
	case o.After != nil:
		return []ganglion.SubscribeOption{ganglion.FromVersion(*o.After)}, nil
	case o.Last > 0:
		return []ganglion.SubscribeOption{ganglion.FromLast(o.Last)}, nil
	}
	return []ganglion.SubscribeOption{ganglion.FromCursor(o.Cursor)}, nil
}

// next reads an item, and reports whether more may follow.
func (a *application) next(ctx context.Context, s *subscription) bool {
	item, err := s.Next(ctx)
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, ganglion.ErrClosed): // closed by the application
		s.seen <- map[string]any{"end": nil}
	case err != nil:
		s.seen <- map[string]any{"end": describe(err)}
	case item.Kind == ganglion.KindLive:
		s.seen <- map[string]any{"live": map[string]any{}}
	case item.Kind == ganglion.KindState:
		x := item.State
		s.seen <- map[string]any{"state": map[string]any{
			"kind": "state", "stream": x.Stream, "version": float64(x.Version), "position": float64(x.Position), "data": value(x.Data),
		}}
	default:
		x := item.Event
		s.seen <- map[string]any{"event": map[string]any{
			"kind": "event", "event": x.Name, "data": value(x.Data), "stream": x.Stream, "id": x.ID(), "version": float64(x.Version),
			"position": float64(x.Position), "cursor": x.Cursor(), "time": x.Time.Format(time.RFC3339Nano), "cause": x.Cause,
		}}
	}
	return err == nil
}

func outcome(x any, err error) any {
	if err != nil {
		return map[string]any{"error": describe(err)}
	}
	switch x := x.(type) {
	case ganglion.Result:
		return map[string]any{"result": map[string]any{
			"key": x.Key, "version": float64(x.Version), "position": float64(x.Position), "replayed": x.Replayed, "data": value(x.Data),
		}}
	case ganglion.Page[json.RawMessage]:
		return map[string]any{"result": map[string]any{
			"rows": rows(x.Rows), "next": x.Next, "position": float64(x.Position), "blocked": float64(x.Blocked),
		}}
	case ganglion.State[json.RawMessage]:
		return map[string]any{"result": map[string]any{"version": float64(x.Version), "position": float64(x.Position), "data": value(x.Data)}}
	}
	return x
}

func describe(err error) map[string]any {
	var e *ganglion.Error
	if !errors.As(err, &e) {
		return map[string]any{"message": err.Error()}
	}
	return map[string]any{
		"code": string(e.Code), "reason": e.Reason, "retry": string(e.Retry), "key": e.Key, "message": e.Message, "version": float64(e.Version), "field": e.Field,
	}
}

func (a *application) observe(ctx context.Context, body map[string]json.RawMessage) error {
	var seen chan any
	var sub *subscription
	what := "report"
	switch {
	case body["outcome"] != nil:
		what = text(body["outcome"])
		seen = a.outcomes[what]
	case body["query"] != nil:
		return a.observeQuery(ctx, text(body["query"]), body)
	case body["consumer"] != nil:
		return a.observeConsumer(ctx, text(body["consumer"]), body)
	case body["subscription"] != nil:
		what = text(body["subscription"])
		sub = a.subscriptions[what]
		seen = sub.seen
	}
	for kind, raw := range body {
		want := value(raw)
		switch kind {
		case "outcome", "subscription":
			continue
		case "none":
			if len(seen) > 0 {
				return fmt.Errorf("%s arrived: %v", what, <-seen)
			}
			return nil
		case "cursor":
			return compare(want, sub.Cursor(), "the cursor")
		case "status":
			for s := range a.client.Statuses(ctx) {
				if s.String() == want {
					return nil
				}
			}
			return fmt.Errorf("the status is %v", a.client.Status())
		case "dials":
			return compare(want, float64(a.dials.Load()), "dials")
		case "log":
			return compare(want, a.client.Log(), "the log")
		case "report":
			seen = a.reports
		default:
			want = map[string]any{kind: want}
		}
		select {
		case got := <-seen:
			return compare(want, got, what)
		case <-ctx.Done():
			return fmt.Errorf("no %s of %s arrives", kind, what)
		}
	}
	return errors.New("the step observes nothing")
}

// compare compares the members that want has. Lists must have the same length.
func compare(want, got any, at string) error {
	if list, ok := want.([]any); ok {
		has, ok := got.([]any)
		if !ok || len(has) != len(list) {
			return fmt.Errorf("%s is %v, want %v", at, got, want)
		}
		for i := range list {
			if err := compare(list[i], has[i], fmt.Sprint(at, ".", i)); err != nil {
				return err
			}
		}
		return nil
	}
	object, ok := want.(map[string]any)
	if !ok {
		if !reflect.DeepEqual(want, got) {
			return fmt.Errorf("%s is %v, want %v", at, got, want)
		}
		return nil
	}
	has, ok := got.(map[string]any)
	if !ok {
		return fmt.Errorf("%s is %v, want %v", at, got, want)
	}
	for k, v := range object {
		x, ok := has[k]
		if !ok {
			return fmt.Errorf("%s has no %s: %v", at, k, got)
		}
		if err := compare(v, x, at+"."+k); err != nil {
			return err
		}
	}
	return nil
}

// Close closes the client. It fails if the application has observations that the
// script did not ask for.
func (a *application) Close(context.Context) error {
	synctest.Wait()
	var left []error
	drain := func(what string, seen chan any) {
		for len(seen) > 0 {
			left = append(left, fmt.Errorf("unexpected %s: %v", what, <-seen))
		}
	}
	for as, seen := range a.outcomes {
		drain("outcome of "+as, seen)
	}
	for as, s := range a.subscriptions {
		drain("item of "+as, s.seen)
	}
	for as, q := range a.queries {
		drain("result of "+as, q.seen)
	}
	for as, k := range a.consumers {
		drain("event of "+as, k.seen)
	}
	drain("report", a.reports)
	a.client.Close()
	for _, k := range a.consumers {
		close(k.gone)
	}
	for _, cancel := range a.aborts {
		cancel()
	}
	a.reading.Wait()
	return errors.Join(left...)
}

func text(raw json.RawMessage) string {
	s, _ := value(raw).(string)
	return s
}

func value(raw json.RawMessage) any {
	var v any
	if len(raw) > 0 {
		if err := json.Unmarshal(raw, &v); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
	}
	return v
}
