// Command compose loads the cluster of docker-compose.yml through its load
// balancer and kills a domain node in the middle. Writers send commands over
// WebSocket and HTTP and repeat the ones that fail with the same key;
// subscribers follow, some from one session to the next. At the end the log
// must have every command's event exactly once, in order and at the version
// that the writer was told, and every subscriber must have got the log.
//
// run.sh starts it; it ends with status 1 at the first broken promise.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	// share is how many more commands every writer must have answered before
	// the next thing happens to the cluster.
	share = 100
	// sole is how many writers have a counter of their own, half of them one
	// that the victim owns.
	sole = 8
	// sharing is how many writers share one counter, which the victim owns.
	sharing = 4
	// patience bounds each phase of the load.
	patience = time.Minute
)

// load is one run.
type load struct {
	url         string
	id          string // keeps it apart from earlier runs on the same log
	victim      string
	writers     []*writer
	subscribers []*subscriber
	shared      string // the shared counter

	stopping atomic.Bool
	progress chan struct{} // has room for one: something was answered

	mu     sync.Mutex
	counts map[string]int // why commands or sessions were tried again
}

func (l *load) prefix() string { return "counter/" + l.id + "-" }

// lastKey is the key of the last command of all.
func (l *load) lastKey() string { return l.id + "-last-1" }

func (l *load) count(why string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.counts[why]++
}

func (l *load) progressed() {
	select {
	case l.progress <- struct{}{}:
	default:
	}
}

func (l *load) byStream() map[string][]*writer {
	streams := map[string][]*writer{}
	for _, w := range l.writers {
		streams[w.stream] = append(streams[w.stream], w)
	}
	return streams
}

func main() {
	url := flag.String("url", "http://127.0.0.1:8080", "the load balancer")
	victim := flag.String("victim", "domain-2", "the domain node to kill")
	container := flag.String("container", "", "its container")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	l := &load{
		url: *url, victim: *victim, id: strconv.FormatInt(time.Now().UnixMilli(), 36),
		progress: make(chan struct{}, 1), counts: map[string]int{},
	}
	if err := l.run(ctx, *container); err != nil {
		fmt.Fprintln(os.Stderr, "load:", err)
		os.Exit(1)
	}
}

func say(format string, args ...any) { fmt.Printf("load: "+format+"\n", args...) }

func (l *load) run(ctx context.Context, container string) error {
	if err := l.cast(ctx); err != nil {
		return err
	}
	group, groupCtx := errgroup.WithContext(ctx)
	subscribed := make(chan struct{}, len(l.subscribers))
	for _, s := range l.subscribers {
		group.Go(func() error { return s.run(groupCtx, func() { subscribed <- struct{}{} }) })
	}
	group.Go(func() error {
		for range l.subscribers {
			select {
			case <-subscribed:
			case <-groupCtx.Done():
				return groupCtx.Err()
			}
		}
		return l.write(groupCtx, container)
	})
	if err := group.Wait(); err != nil {
		return err
	}
	return l.report(ctx)
}

// write runs the writers while the victim is killed and started again. The
// last event of all tells the subscribers that there is no more.
func (l *load) write(ctx context.Context, container string) error {
	group, groupCtx := errgroup.WithContext(ctx)
	for _, w := range l.writers {
		if w.stream == l.shared {
			group.Go(func() error { return w.overHTTP(groupCtx) })
		} else {
			group.Go(func() error { return w.overWebSocket(groupCtx) })
		}
	}
	group.Go(func() error {
		defer l.stopping.Store(true)
		return l.disturb(groupCtx, container)
	})
	if err := group.Wait(); err != nil {
		return err
	}

	last := &writer{load: l, name: l.id + "-last", stream: l.shared, sent: 1, versions: []uint64{0}}
	l.writers = append(l.writers, last)
	f, err := post(ctx, l.url, last.name, last.command(1))
	if err != nil {
		return err
	}
	done, err := last.take(1, f, time.Now())
	if err == nil && !done {
		err = f.refusal()
	}
	return err
}

// cast finds counters that the victim owns, and others, and names the actors.
func (l *load) cast(ctx context.Context) error {
	var its, others []string
	for i := 0; len(its) < sole/2+1 || len(others) < sole/2; i++ {
		stream := l.prefix() + strconv.Itoa(i)
		status, err := l.cluster(ctx, stream)
		switch {
		case err != nil:
			return err
		case i == 1000:
			return fmt.Errorf("%s owns none of 1000 counters", l.victim)
		case status.Owner.Member == l.victim:
			its = append(its, stream)
		default:
			others = append(others, stream)
		}
	}
	l.shared = its[sole/2]
	for i, stream := range slices.Concat(its[:sole/2], others[:sole/2]) {
		l.writers = append(l.writers, &writer{load: l, name: fmt.Sprintf("%s-ws%d", l.id, i), stream: stream})
	}
	for i := range sharing {
		l.writers = append(l.writers, &writer{load: l, name: fmt.Sprintf("%s-http%d", l.id, i), stream: l.shared})
	}
	for i, stream := range []string{"", "", "", "", l.shared, l.shared} {
		l.subscribers = append(l.subscribers, &subscriber{load: l, name: fmt.Sprintf("%s-sub%d", l.id, i), stream: stream, roams: i%2 == 1})
	}
	return nil
}

// disturb kills the victim under load and starts it again. It returns when
// everybody's commands have gone on after that.
func (l *load) disturb(ctx context.Context, container string) error {
	if err := l.everyone(ctx); err != nil {
		return err
	}
	say("killing %s", l.victim)
	if err := docker(ctx, "kill", container); err != nil {
		return err
	}
	if err := l.everyone(ctx); err != nil {
		return fmt.Errorf("after the kill: %w", err)
	}
	if err := l.await(ctx, "gone", func(state string) bool { return state != "ready" }); err != nil {
		return err
	}
	say("starting it again")
	if err := docker(ctx, "start", container); err != nil {
		return err
	}
	if err := l.await(ctx, "back", func(state string) bool { return state == "ready" }); err != nil {
		return err
	}
	return l.everyone(ctx)
}

// everyone waits until every writer has had share more answers.
func (l *load) everyone(ctx context.Context) error {
	late := time.NewTimer(patience)
	defer late.Stop()
	want := map[*writer]int64{}
	for _, w := range l.writers {
		want[w] = w.acked.Load() + share
	}
	for {
		maps.DeleteFunc(want, func(w *writer, n int64) bool { return w.acked.Load() >= n })
		if len(want) == 0 {
			return nil
		}
		select {
		case <-l.progress:
		case <-late.C:
			var names []string
			for w := range want {
				names = append(names, fmt.Sprintf("%s on %s", w.name, w.stream))
			}
			return fmt.Errorf("writers without %d more answers within %v: %s", share, patience, strings.Join(names, ", "))
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// await asks a gateway about the victim until its state is right.
func (l *load) await(ctx context.Context, what string, right func(state string) bool) error {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	late := time.NewTimer(patience)
	defer late.Stop()
	for {
		status, err := l.cluster(ctx, "")
		if err != nil {
			return err
		}
		state := "absent"
		for _, m := range status.Members {
			if m.ID == l.victim {
				state = m.State
			}
		}
		if right(state) {
			say("%s is %s (%s, says %s)", l.victim, what, state, status.Node)
			return nil
		}
		select {
		case <-tick.C:
		case <-late.C:
			return fmt.Errorf("%s is not %s after %v: %s says %s", l.victim, what, patience, status.Node, state)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// status is what the load reads of GET /v1/cluster.
type status struct {
	Node    string `json:"node"`
	Members []struct {
		ID    string `json:"id"`
		State string `json:"state"`
	} `json:"members"`
	Owner struct {
		Member string `json:"member"`
	} `json:"owner"`
}

func (l *load) cluster(ctx context.Context, aggregate string) (s status, _ error) {
	code, body, err := call(ctx, http.MethodGet, l.url+"/v1/cluster?aggregate="+aggregate, "auditor", nil)
	if err == nil && code != http.StatusOK {
		err = fmt.Errorf("status %d: %.200q", code, body)
	}
	if err == nil {
		err = json.Unmarshal(body, &s)
	}
	if err != nil {
		return s, fmt.Errorf("asking for the cluster: %w", err)
	}
	return s, nil
}

func docker(ctx context.Context, args ...string) error {
	if out, err := exec.CommandContext(ctx, "docker", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("docker %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

func (l *load) report(ctx context.Context) error {
	events, err := l.check(ctx)
	if err != nil {
		return err
	}
	sessions, slowest := 0, time.Duration(0)
	for _, s := range l.subscribers {
		sessions += s.sessions
	}
	for _, w := range l.writers {
		slowest = max(slowest, w.slowest)
	}
	say("%d commands on %d counters: each event once and in order, in the log and for %d subscribers over %d sessions",
		events, len(l.byStream()), len(l.subscribers), sessions)
	say("tried again: %v; longest wait for an answer %v", l.counts, slowest.Round(time.Millisecond))
	return nil
}
