package relay_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/proto/command"
	"github.com/ganglion-es/ganglion/proto/frame"
	"github.com/ganglion-es/ganglion/relay"
)

func TestIntakesAreChecked(t *testing.T) {
	t.Parallel()
	source := func() relay.Source { return nil }
	for _, c := range []struct {
		in   relay.Intake
		want string
	}{
		{relay.Intake{Name: "orders", New: source, Window: 1000}, ""},
		{relay.Intake{New: source}, "the intake has no name: give it 1 to 24 lower-case letters, digits and -"},
		{relay.Intake{Name: "Orders", New: source}, `the intake's name "Orders" has the character 'O'`},
		{relay.Intake{Name: "orders"}, `intake "orders": New is required`},
		{relay.Intake{Name: "orders", New: source, Window: 1001}, `intake "orders": the window is 1001 messages: use 1 to 1000, or leave it out for 64`},
	} {
		err := relay.CheckIntakes([]relay.Intake{c.in})
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%q: got %v, want %q", c.in.Name, err, c.want)
		}
	}
	two := relay.Intake{Name: "orders", New: source}
	if err := relay.CheckIntakes([]relay.Intake{two, two}); err == nil || !strings.Contains(err.Error(), `two intakes have the name "orders"`) {
		t.Errorf("two of a name: %v", err)
	}
}

func TestTextOfMessageBecomesCommand(t *testing.T) {
	t.Parallel()
	good := relay.Text{Key: "k1", Aggregate: "order/42", Command: "place", Expect: "7", Traceparent: "00-1", Data: []byte("{\n\"n\":1}")}
	c, wrong := good.Parse()
	if got := fmt.Sprint(c.Key, c.Aggregate, c.Command, *c.Expect, c.Trace, string(c.Data)); wrong != nil || got != "k1order/42place700-1{\n\"n\":1}" {
		t.Errorf("got %s, %+v", got, wrong)
	}
	for name, c := range map[string]struct {
		change func(*relay.Text)
		want   string
	}{
		"no key":         {func(t *relay.Text) { t.Key = "" }, "bad_request key the message has no key"},
		"long key":       {func(t *relay.Text) { t.Key = strings.Repeat("k", 65) }, "bad_request key key must be a string of 1 to 64"},
		"no aggregate":   {func(t *relay.Text) { t.Aggregate = "" }, "bad_request aggregate aggregate is missing"},
		"bad aggregate":  {func(t *relay.Text) { t.Aggregate = "order" }, "bad_request aggregate"},
		"no command":     {func(t *relay.Text) { t.Command = "" }, "bad_request command command is missing"},
		"bad expect":     {func(t *relay.Text) { t.Expect = `1,"key":"x"` }, "bad_request expect"},
		"large expect":   {func(t *relay.Text) { t.Expect = "9007199254740992" }, "bad_request expect"},
		"no body":        {func(t *relay.Text) { t.Data = nil }, "bad_request data the body is not JSON"},
		"two documents":  {func(t *relay.Text) { t.Data = []byte(`{},"key":"x"`) }, "bad_request data the body is not JSON"},
		"not UTF-8":      {func(t *relay.Text) { t.Command = "\xff" }, "bad_request  the message is not UTF-8"},
		"body not UTF-8": {func(t *relay.Text) { t.Data = []byte("\"\xff\"") }, "bad_request  the message is not UTF-8"},
		"large body":     {func(t *relay.Text) { t.Data = []byte(`"` + strings.Repeat("x", 64<<10) + `"`) }, "too_large data the body has 65538 bytes"},
	} {
		bad := good
		c.change(&bad)
		_, wrong := bad.Parse()
		if wrong == nil {
			t.Errorf("%s: it is a command", name)
			continue
		}
		if got := fmt.Sprint(wrong.Code, " ", wrong.Field, " ", wrong.Message); !strings.HasPrefix(got, c.want) || wrong.Retry != command.RetryNo {
			t.Errorf("%s: got %s", name, got)
		}
	}
}

func TestUsersBecomeClients(t *testing.T) {
	t.Parallel()
	if id, wrong := relay.ClientOf("amqp", "bob"); id != "amqp:bob" || wrong != nil {
		t.Errorf("got %s, %v", id, wrong)
	}
	for _, user := range []string{"a/b", "a\n", strings.Repeat("u", 200)} {
		if id, wrong := relay.ClientOf("amqp", user); wrong == nil || wrong.Code != command.CodeUnauthenticated {
			t.Errorf("%q is the client %q", user, id)
		}
	}
}

// A queue is a relay.Source whose messages a test puts, with a log of what happens.
type queue struct {
	requests chan *relay.Request
	opened   chan int
	err      error // of Open
	broken   error // of Finish

	mu  sync.Mutex
	log []string
}

func newQueue() *queue {
	return &queue{requests: make(chan *relay.Request, 100), opened: make(chan int, 100)}
}

func (q *queue) Open(_ context.Context, window int) error {
	q.opened <- window
	return q.err
}
func (q *queue) Requests() <-chan *relay.Request { return q.requests }
func (q *queue) Err() error                      { return nil }
func (q *queue) Close()                          {}

func (q *queue) note(words ...any) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.log = append(q.log, fmt.Sprint(words...))
}

func (q *queue) noted() string {
	q.mu.Lock()
	defer q.mu.Unlock()
	return strings.Join(q.log, ", ")
}

func (q *queue) Finish(_ context.Context, r *relay.Request, answer []byte) error {
	q.note("finish ", r.Command.Key)
	return q.broken
}

func (q *queue) Refuse(_ context.Context, r *relay.Request, answer []byte) error {
	q.note("refuse ", r.Command.Key)
	return nil
}

// put puts a command to an aggregate into the queue.
func (q *queue) put(t *testing.T, key, aggregate string) {
	t.Helper()
	c, wrong := relay.Text{Key: key, Aggregate: aggregate, Command: "go", Data: []byte(`{}`)}.Parse()
	if wrong != nil {
		t.Fatal(wrong.Message)
	}
	q.requests <- &relay.Request{Command: c, Client: "amqp:bob"}
}

// serve serves queues, one a run, with execute. The end of the test ends it.
func serve(t *testing.T, execute relay.Execute, queues ...*queue) (s *relay.IntakeServer, stop func() (ended <-chan struct{})) {
	t.Helper()
	next := 0
	s = relay.NewIntakeServer(relay.Intake{Name: "orders", New: func() relay.Source {
		q := queues[min(next, len(queues)-1)]
		next++
		return q
	}}, execute, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.Run(ctx)
	}()
	stop = func() <-chan struct{} { cancel(); return done }
	t.Cleanup(func() { <-stop() })
	return s, stop
}

func result(c frame.Command) frame.Frame { return frame.Result{Key: c.Key} }

func failed(code command.Code, retry command.Retry) frame.Frame {
	return frame.Fault{Code: code, Retry: retry}
}

// TestRetriedCommandKeepsItsPlace has a command that is unavailable twice. The one behind
// it waits, the one to another aggregate does not.
func TestRetriedCommandKeepsItsPlace(t *testing.T) {
	t.Parallel()
	q := newQueue()
	tries, other := 0, make(chan struct{})
	sent := make(chan string, 10)
	s, _ := serve(t, func(_ context.Context, c frame.Command, client string) frame.Frame {
		if client != "amqp:bob" {
			t.Errorf("the client is %q", client)
		}
		sent <- c.Key
		switch {
		case c.Key == "k3":
			defer close(other)
		case c.Key == "k1":
			<-other
			if tries++; tries == 1 {
				return failed(command.CodeUnavailable, command.RetryLater)
			} else if tries == 2 {
				return failed(command.CodeTimeout, command.RetrySameKey)
			}
		}
		return result(c)
	}, q)
	q.put(t, "k1", "order/1")
	q.put(t, "k2", "order/1")
	q.put(t, "k3", "order/2")
	var order []string
	for range 5 {
		if key := <-sent; key != "k3" {
			order = append(order, key)
		}
	}
	if got := fmt.Sprint(order); got != "[k1 k1 k1 k2]" {
		t.Errorf("sent in the order %s", got)
	}
	waitFor(t, func() bool { return s.Stats().Commands["result"] == 3 })
	if st := s.Stats(); st.Retries != 2 || st.Unfinished != 0 || st.State != relay.IntakeWorking {
		t.Errorf("got %+v", st)
	}
	if got := strings.ReplaceAll(q.noted(), "finish k3, ", ""); got != "finish k1, finish k2" {
		t.Errorf("finished: %s", q.noted())
	}
	if window := <-q.opened; window != relay.DefaultIntakeWindow {
		t.Errorf("opened with a window of %d", window)
	}
}

func TestOutcomesAreAnswersOrDeadLetters(t *testing.T) {
	t.Parallel()
	q := newQueue()
	answers := map[string]frame.Frame{
		"k1": failed(command.CodeRejected, command.RetryNo), "k2": failed(command.CodeConflict, command.RetryNo),
		"k3": failed(command.CodeForbidden, command.RetryNo), "k4": failed(command.CodeKeyReused, command.RetryNo),
		"k5": failed(command.CodeInternal, command.RetryNo), "k6": frame.Result{},
	}
	s, _ := serve(t, func(_ context.Context, c frame.Command, _ string) frame.Frame { return answers[c.Key] }, q)
	for i := range len(answers) {
		q.put(t, fmt.Sprint("k", i+1), "order/1")
	}
	waitFor(t, func() bool { return s.Stats().Commands["result"] == 1 })
	if got := q.noted(); got != "finish k1, finish k2, refuse k3, refuse k4, refuse k5, finish k6" {
		t.Error(got)
	}
	q.requests <- &relay.Request{Wrong: &frame.Fault{Code: command.CodeBadRequest}}
	waitFor(t, func() bool { return s.Stats().Commands["dead_letter"] == 4 })
	if c := s.Stats().Commands; c["rejected"] != 1 || c["conflict"] != 1 {
		t.Errorf("got %v", c)
	}
}

// TestStoppedIntakeFinishesWhatItHasSent stops an intake while one command is sent, one
// waits behind it, and one is tried again.
func TestStoppedIntakeFinishesWhatItHasSent(t *testing.T) {
	t.Parallel()
	q := newQueue()
	sent, answer := make(chan string, 10), make(chan struct{})
	var ended context.Context
	s, stop := serve(t, func(ctx context.Context, c frame.Command, _ string) frame.Frame {
		sent <- c.Key
		if c.Key == "k3" {
			return failed(command.CodeBusy, command.RetryLater)
		}
		ended = ctx
		<-answer
		return result(c)
	}, q)
	q.put(t, "k1", "order/1")
	q.put(t, "k2", "order/1")
	if key := <-sent; key != "k1" {
		t.Fatalf("%s was sent first", key)
	}
	q.put(t, "k3", "order/2")
	<-sent
	waitFor(t, func() bool { return s.Stats().Unfinished == 3 && s.Stats().Retries > 0 })
	stopped := stop()
	close(answer)
	<-stopped
	if got := q.noted(); got != "finish k1" || ended.Err() == nil {
		t.Errorf("got %s, and the context is %v", got, ended.Err())
	}
	for len(sent) > 0 {
		if key := <-sent; key == "k2" {
			t.Error("a command was begun after the stop")
		}
	}
}

func TestBrokenRunIsFollowedByAnother(t *testing.T) {
	t.Parallel()
	away, broken, closed, good := newQueue(), newQueue(), newQueue(), newQueue()
	away.err, broken.broken = errors.New("away"), errors.New("broken")
	close(closed.requests)
	s, _ := serve(t, func(_ context.Context, c frame.Command, _ string) frame.Frame { return result(c) }, away, broken, closed, good)
	broken.put(t, "k1", "order/1")
	good.put(t, "k1", "order/1")
	waitFor(t, func() bool { return s.Stats().Commands["result"] == 1 })
	if got := good.noted(); got != "finish k1" {
		t.Errorf("got %s", got)
	}
	if len(away.opened) != 1 || len(broken.opened) != 1 || len(closed.opened) != 1 {
		t.Error("a run was left out or repeated")
	}
}

func waitFor(t *testing.T, holds func() bool) {
	t.Helper()
	for began := time.Now(); !holds(); time.Sleep(time.Millisecond) {
		if time.Since(began) > time.Minute {
			t.Fatal("it never happens")
		}
	}
}

// TestStateOfIntakeSaysWhatItDoes has a broker that is away, one that accepts connections
// and ends them, and then a queue that is empty until a message arrives.
func TestStateOfIntakeSaysWhatItDoes(t *testing.T) {
	t.Parallel()
	away, ended, good := newQueue(), newQueue(), newQueue()
	away.err = errors.New("connection refused")
	close(ended.requests)
	proceed := make(chan struct{})
	s, stop := serve(t, func(_ context.Context, c frame.Command, _ string) frame.Frame { <-proceed; return result(c) }, away, ended, good)
	waitFor(t, func() bool { return s.Stats().State == relay.IntakeWaiting && len(good.opened) == 1 })
	st := s.Stats()
	if st.Failures != 2 || st.Problem != "the connection to the broker has ended" || st.ProblemAt.IsZero() || st.Since.Before(st.ProblemAt) || !st.Connected() {
		t.Errorf("after two failures: %+v", st)
	}
	good.put(t, "k1", "order/1")
	waitFor(t, func() bool { return s.Stats().State == relay.IntakeWorking })
	if st := s.Stats(); st.Unfinished != 1 || st.Commands["result"] != 0 {
		t.Errorf("while a command is executed: %+v", st)
	}
	close(proceed)
	waitFor(t, func() bool { return s.Stats().Commands["result"] == 1 })
	<-stop()
	if st := s.Stats(); st.State != relay.IntakeStopped || st.Unfinished != 0 || st.Connected() {
		t.Errorf("at the end: %+v", st)
	}
}

// TestConnectionsThatEndSoonDoNotEndTheStateAway has a broker that ends each connection
// before a message was finished.
func TestConnectionsThatEndSoonDoNotEndTheStateAway(t *testing.T) {
	t.Parallel()
	ended := newQueue()
	close(ended.requests)
	s, _ := serve(t, func(_ context.Context, c frame.Command, _ string) frame.Frame { return result(c) }, ended)
	away := func(failures uint64) (since time.Time) {
		waitFor(t, func() bool {
			st := s.Stats()
			since = st.Since
			return st.Failures >= failures && st.State == relay.IntakeAway
		})
		return since
	}
	if first, third := away(1), away(3); !first.Equal(third) {
		t.Errorf("it is away since %s after one connection, and since %s after three", first, third)
	}
}
