package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	ganglion "github.com/ganglion-es/ganglion/client/go"
)

const (
	// sharing is how many writers share a counter, over WebSockets and over HTTP
	// each.
	sharing = 2
	// sole is how many writers have a counter of their own.
	sole = 6
	// pace is how often a writer sends its next command, if it has the answer
	// to the one before.
	pace = 100 * time.Millisecond
	// share is how many more commands every writer must have answered before
	// the next thing happens to the cluster.
	share = 20
	// budget is how long a command may take with all its attempts. One that
	// takes longer is an error that a client would see.
	budget = time.Minute
)

type add struct {
	By int64 `json:"by"`
}

type state struct {
	Value int64 `json:"value"`
}

var counters = ganglion.Type[state, add]{Name: "counter"}

// load is one run of a plan. The names of its counters and writers begin with
// the plan's, so that one log takes several.
type load struct {
	plan, url string
	token     atomic.Pointer[string]
	clients   []*ganglion.Client
	writers   []*writer
	followers []*follower

	progress chan struct{} // has room for one: something was answered
	doubts   chan error    // has room for one: what a client library complained of

	mu     sync.Mutex
	wait   time.Duration  // the longest from a command's first sending to its answer
	waited *writer        // who it was
	again  map[string]int // why commands were sent again over HTTP
}

func newLoad(plan, url, token string) *load {
	l := &load{plan: plan, url: url, progress: make(chan struct{}, 1), doubts: make(chan error, 1), again: map[string]int{}}
	l.token.Store(&token)
	return l
}

// shared is the counter that several writers share.
func (l *load) shared() string { return "counter/" + l.plan + "-shared" }

// last is the key of the last command of all.
func (l *load) last() string { return l.plan + "-last" }

// bearer is the token that clients come with from here on.
func (l *load) bearer() string { return *l.token.Load() }

// cast names the actors. The first writer's counter is one that the victim
// does not own.
func (l *load) cast(ctx context.Context, victim string) error {
	own := 0
	for {
		who, err := owner(ctx, fmt.Sprintf("counter/%s-%d", l.plan, own))
		if err != nil {
			return err
		}
		if who != victim {
			break
		}
		own++
	}
	for i := range sole {
		l.add(fmt.Sprintf("ws%d", i), fmt.Sprintf("counter/%s-%d", l.plan, own+i), l.connect())
	}
	for i := range sharing {
		l.add(fmt.Sprintf("shared-ws%d", i), l.shared(), l.connect())
		l.add(fmt.Sprintf("shared-http%d", i), l.shared(), nil)
	}
	for i := range 4 {
		stream := ""
		if i%2 == 1 {
			stream = l.shared()
		}
		l.followers = append(l.followers, &follower{load: l, name: fmt.Sprintf("follower%d", i), stream: stream, client: l.connect()})
	}
	return nil
}

func (l *load) add(name, stream string, client *ganglion.Client) {
	w := &writer{load: l, name: l.plan + "-" + name, stream: stream, send: l.overHTTP}
	if client != nil {
		w.send = overWebSocket(client)
	}
	l.writers = append(l.writers, w)
}

func (l *load) connect() *ganglion.Client {
	c, err := ganglion.Connect(context.Background(), ganglion.Options{
		URLs: []string{l.url}, Token: func(context.Context) (string, error) { return l.bearer(), nil },
		OnError: func(e *ganglion.Error) {
			if e.Retry != ganglion.RetryNo {
				return // the library deals with it
			}
			select {
			case l.doubts <- e:
			default:
			}
		},
	})
	if err != nil {
		panic(err) // the options are ours
	}
	l.clients = append(l.clients, c)
	return c
}

func (l *load) close() {
	for _, c := range l.clients {
		c.Close()
	}
}

// slowest says who has waited longest for an answer since it was last asked,
// and why commands were sent again over HTTP.
func (l *load) slowest() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := fmt.Sprintf("longest wait for an answer %v (%s)", l.wait.Round(time.Millisecond), l.waited.name)
	if len(l.again) > 0 {
		s += fmt.Sprintf("; sent again over HTTP: %v", l.again)
	}
	l.wait, l.again = 0, map[string]int{}
	return s
}

func (l *load) answered(w *writer, after time.Duration) {
	l.mu.Lock()
	if after > l.wait {
		l.wait, l.waited = after, w
	}
	l.mu.Unlock()
	select {
	case l.progress <- struct{}{}:
	default:
	}
}

// everyone waits until every writer has had share more answers.
func (l *load) everyone(ctx context.Context) error {
	want := map[*writer]int64{}
	for _, w := range l.writers {
		want[w] = w.acked.Load() + share
	}
	return l.wanted(ctx, func() (missing []string) {
		for w, n := range want {
			if w.acked.Load() < n {
				missing = append(missing, w.name+" on "+w.stream)
			}
		}
		return missing
	})
}

// until waits until so many commands have been answered in all.
func (l *load) until(ctx context.Context, commands int) error {
	return l.wanted(ctx, func() []string {
		sum := int64(0)
		for _, w := range l.writers {
			sum += w.acked.Load()
		}
		if sum < int64(commands) {
			return []string{fmt.Sprintf("%d of %d commands", sum, commands)}
		}
		return nil
	})
}

func (l *load) wanted(ctx context.Context, missing func() []string) error {
	late := time.NewTimer(patience)
	defer late.Stop()
	for {
		m := missing()
		if len(m) == 0 {
			return nil
		}
		select {
		case <-l.progress:
		case err := <-l.doubts:
			return fmt.Errorf("a client library complained: %w", err)
		case <-late.C:
			return fmt.Errorf("not answered within %v: %s", patience, strings.Join(m, ", "))
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// finish sends the last command, which tells the followers that there is no
// more. All see it: the counter is the shared one.
func (l *load) finish(ctx context.Context) error {
	w := &writer{load: l, name: l.last(), once: true, stream: l.shared(), send: l.overHTTP}
	l.writers = append(l.writers, w)
	return w.one(ctx, w.key(1))
}

// sender gets one command done, however often it has to be sent.
type sender func(ctx context.Context, stream, key string, by int64) (version uint64, err error)

// writer sends "add" commands to one counter, one after another. The i-th adds
// i under the key "<name>-<i>"; one that sends but once has the name as its key.
type writer struct {
	load         *load
	name, stream string
	once         bool
	send         sender

	versions []uint64 // versions[i-1] is what command i was answered with
	acked    atomic.Int64
}

func (w *writer) key(i int) string {
	if w.once {
		return w.name
	}
	return fmt.Sprintf("%s-%d", w.name, i)
}

// write sends commands until writing ends.
func (w *writer) write(ctx, writing context.Context) error {
	tick := time.NewTicker(pace)
	defer tick.Stop()
	for i := 1; ; i++ {
		if err := w.one(ctx, w.key(i)); err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-writing.Done():
			return ctx.Err()
		}
	}
}

func (w *writer) one(ctx context.Context, key string) error {
	ctx, cancel := context.WithTimeout(ctx, budget)
	defer cancel()
	since := time.Now()
	version, err := w.send(ctx, w.stream, key, int64(len(w.versions)+1))
	if err != nil {
		return fmt.Errorf("command %s to %s, after %v: %w", key, w.stream, time.Since(since).Round(time.Millisecond), err)
	}
	w.versions = append(w.versions, version)
	w.acked.Add(1)
	w.load.answered(w, time.Since(since))
	return nil
}

// overWebSocket leaves everything to the client library.
func overWebSocket(client *ganglion.Client) sender {
	return func(ctx context.Context, stream, key string, by int64) (uint64, error) {
		r, err := counters.Aggregate(client, strings.TrimPrefix(stream, "counter/")).Send(ctx, "add", add{by}, ganglion.WithKey(key))
		return r.Version, err
	}
}

// overHTTP sends a command again until it is answered, with the same key.
func (l *load) overHTTP(ctx context.Context, stream, key string, by int64) (uint64, error) {
	body, err := json.Marshal(map[string]any{"id": "1", "aggregate": stream, "command": "add", "data": add{by}, "key": key})
	if err != nil {
		return 0, err
	}
	for {
		version, why, err := l.post(ctx, body)
		if err == nil || why == "" {
			return version, err
		}
		l.mu.Lock()
		l.again[why]++
		l.mu.Unlock()
		select {
		case <-time.After(pace):
		case <-ctx.Done():
			return 0, errors.Join(ctx.Err(), err)
		}
	}
}

// post sends a command once. With an error it says why to send it again, if
// that is what to do.
func (l *load) post(ctx context.Context, body []byte) (version uint64, again string, _ error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, l.url+"/v1/commands", bytes.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	req.Header.Set("Authorization", "Bearer "+l.bearer())
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, "no answer", err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, "no answer", err
	}
	var answer struct {
		Op, Code, Retry string
		Version         uint64
	}
	said := fmt.Errorf("status %d: %.300s", resp.StatusCode, raw)
	switch err := json.Unmarshal(raw, &answer); {
	case err != nil && resp.StatusCode >= 500: // the load balancer's own page
		return 0, resp.Status, said
	case answer.Retry == "same_key" || answer.Retry == "later":
		return 0, answer.Code, said
	case err != nil || answer.Op != "result":
		return 0, "", said
	}
	return answer.Version, "", nil
}

// event is what the load keeps of one.
type event struct {
	stream, cause     string
	version, position uint64
	by                int64
}

// follower keeps what it gets of one stream, or of all counters, until the
// load's last event.
type follower struct {
	load   *load
	name   string
	stream string // empty for all
	client *ganglion.Client
	got    []event
}

func (f *follower) follow(ctx context.Context) error {
	events := counters.Category(f.client).Subscribe(ctx, ganglion.FromStart())
	if f.stream != "" {
		events = counters.Aggregate(f.client, strings.TrimPrefix(f.stream, "counter/")).Subscribe(ctx, ganglion.FromStart())
	}
	for e, err := range events {
		if err != nil {
			return fmt.Errorf("%s: %w", f.name, err)
		}
		if !strings.HasPrefix(e.ID(), f.load.plan+"-") {
			continue // another plan's, or those of "ganglion bench", which looks after them itself
		}
		f.got = append(f.got, event{stream: e.Stream, cause: e.Cause, version: e.Version, position: e.Position, by: e.Data.By})
		if e.Cause == f.load.last() {
			return nil
		}
	}
	return fmt.Errorf("%s: its subscription ended", f.name)
}
