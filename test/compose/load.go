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
	// sharing is the number of writers of the shared counter over WebSocket, and that
	// of writers over HTTP.
	sharing = 2
	// sole is the number of writers with their own counters.
	sole = 6
	// pace is the shortest interval between a writer's commands. A writer also waits
	// for the reply to its previous command.
	pace = 100 * time.Millisecond
	// share is the number of replies that every writer must get after each step.
	share = 20
	// budget bounds a command with all its attempts.
	budget = time.Minute
)

type add struct {
	By int64 `json:"by"`
}

type state struct {
	Value int64 `json:"value"`
}

var counters = ganglion.Type[state, add]{Name: "counter"}

// load is one run of a plan. The names of its counters and writers start with the
// plan's name, so that one log can have several runs.
type load struct {
	plan, url string
	token     atomic.Pointer[string]
	clients   []*ganglion.Client
	writers   []*writer
	followers []*follower

	progress chan struct{} // capacity 1: a writer got a reply
	failures chan error    // capacity 1: a client library reported an error

	mu      sync.Mutex
	wait    time.Duration  // the longest time from a command's first attempt to its reply
	waited  *writer        // its writer
	retries map[string]int // over HTTP, by reason
}

func newLoad(plan, url, token string) *load {
	l := &load{plan: plan, url: url, progress: make(chan struct{}, 1), failures: make(chan error, 1), retries: map[string]int{}}
	l.token.Store(&token)
	return l
}

// shared returns the counter that several writers share.
func (l *load) shared() string { return "counter/" + l.plan + "-shared" }

// last returns the key of the last command.
func (l *load) last() string { return l.plan + "-last" }

// bearer returns the current token of the clients.
func (l *load) bearer() string { return *l.token.Load() }

// cast creates writers and followers. The victim does not own the counter of the
// first writer.
func (l *load) cast(ctx context.Context, victim string) error {
	own := 0
	for {
		other, err := owner(ctx, fmt.Sprintf("counter/%s-%d", l.plan, own))
		if err != nil {
			return err
		}
		if other != victim {
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
				return // the library retries
			}
			select {
			case l.failures <- e:
			default:
			}
		},
	})
	if err != nil {
		panic(err) // the options are valid
	}
	l.clients = append(l.clients, c)
	return c
}

func (l *load) close() {
	for _, c := range l.clients {
		c.Close()
	}
}

// slowest describes the longest wait for a reply, and the retries over HTTP, since
// its last call.
func (l *load) slowest() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := fmt.Sprintf("longest wait for a reply %v (%s)", l.wait.Round(time.Millisecond), l.waited.name)
	if len(l.retries) > 0 {
		s += fmt.Sprintf("; retries over HTTP: %v", l.retries)
	}
	l.wait, l.retries = 0, map[string]int{}
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

// everyone waits until every writer has got share more replies.
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

// until waits until the writers have got the given number of replies.
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
		case err := <-l.failures:
			return fmt.Errorf("a client library reported an error: %w", err)
		case <-late.C:
			return fmt.Errorf("no replies within %v: %s", patience, strings.Join(m, ", "))
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// finish sends the last command, whose event ends the followers. It goes to the
// shared counter, which all of them follow.
func (l *load) finish(ctx context.Context) error {
	w := &writer{load: l, name: l.last(), once: true, stream: l.shared(), send: l.overHTTP}
	l.writers = append(l.writers, w)
	return w.one(ctx, w.key(1))
}

// sender sends a command until its outcome is known.
type sender func(ctx context.Context, stream, key string, by int64) (version uint64, err error)

// writer sends "add" commands to one counter in turn. The i-th adds i with the key
// "<name>-<i>". With once it sends one command, whose key is the name.
type writer struct {
	load         *load
	name, stream string
	once         bool
	send         sender

	versions []uint64 // versions[i-1] is the version in the reply to command i
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

// overWebSocket sends commands with the client library.
func overWebSocket(client *ganglion.Client) sender {
	return func(ctx context.Context, stream, key string, by int64) (uint64, error) {
		r, err := counters.Aggregate(client, strings.TrimPrefix(stream, "counter/")).Send(ctx, "add", add{by}, ganglion.WithKey(key))
		return r.Version, err
	}
}

// overHTTP sends a command with the same key until it has a result.
func (l *load) overHTTP(ctx context.Context, stream, key string, by int64) (uint64, error) {
	body, err := json.Marshal(map[string]any{"id": "1", "aggregate": stream, "command": "add", "data": add{by}, "key": key})
	if err != nil {
		return 0, err
	}
	for {
		version, reason, err := l.post(ctx, body)
		if err == nil || reason == "" {
			return version, err
		}
		l.mu.Lock()
		l.retries[reason]++
		l.mu.Unlock()
		select {
		case <-time.After(pace):
		case <-ctx.Done():
			return 0, errors.Join(ctx.Err(), err)
		}
	}
}

// post sends a command once. If it fails, retry is the reason for a retry, or "" if
// a retry is useless.
func (l *load) post(ctx context.Context, body []byte) (version uint64, retry string, _ error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, l.url+"/v1/commands", bytes.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	req.Header.Set("Authorization", "Bearer "+l.bearer())
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, "no reply", err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, "no reply", err
	}
	var reply struct {
		Op, Code, Retry string
		Version         uint64
	}
	failure := fmt.Errorf("status %d: %.300s", resp.StatusCode, raw)
	switch err := json.Unmarshal(raw, &reply); {
	case err != nil && resp.StatusCode >= 500: // a page of the load balancer
		return 0, resp.Status, failure
	case reply.Retry == "same_key" || reply.Retry == "later":
		return 0, reply.Code, failure
	case err != nil || reply.Op != "result":
		return 0, "", failure
	}
	return reply.Version, "", nil
}

// event has the fields of an event that the load checks.
type event struct {
	stream, cause     string
	version, position uint64
	by                int64
}

// follower keeps the events of one stream, or of all counters, up to the last event
// of the load.
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
			continue // of another plan, or of "ganglion bench", which checks its own events
		}
		f.got = append(f.got, event{stream: e.Stream, cause: e.Cause, version: e.Version, position: e.Position, by: e.Data.By})
		if e.Cause == f.load.last() {
			return nil
		}
	}
	return fmt.Errorf("%s: its subscription ended", f.name)
}
