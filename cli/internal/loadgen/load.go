// Package loadgen loads a cluster with commands through the client library,
// measures latencies, and checks what the cluster promises:
//
//   - every acknowledged command has its events in its aggregate's history, once,
//     at the version in its acknowledgement;
//   - every subscriber receives that history in order and without a gap.
//
// [Load.Run] applies the load, [Load.Report] has the outcome. A Load is for one
// run; [Load.Progress] is safe to call during it.
//
// Commands are sent at fixed times, whether or not earlier ones were answered: a
// sender that waited for answers would measure a slow cluster less often.
package loadgen

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"golang.org/x/sync/errgroup"

	client "github.com/ganglion-es/ganglion/client/go"
)

const (
	// connectParallel is how many clients connect at a time.
	connectParallel = 64
	// maxLatency is the largest latency that is recorded exactly.
	maxLatency = 10 * time.Minute
	// maxDescribed is how many violations are described in words; later ones are
	// only counted.
	maxDescribed = 20
)

// Config describes a load. The caller must validate it: counts and durations must
// be positive; Subscribers and ReconnectEvery may be 0.
type Config struct {
	URLs  []string // of gateways or load balancers
	Token string   // if "", the clients claim the ids bench-1, bench-2, …

	Duration time.Duration // of sending
	// Timeout bounds connecting, each command with its retries, and, after the
	// last answer, the wait for events.
	Timeout time.Duration
	// ReconnectEvery is the mean time between two cuts of a connection; 0 cuts
	// none.
	ReconnectEvery time.Duration

	Rate        float64 // commands per second over all connections
	Connections int     // connections that send commands
	Subscribers int     // further connections, which follow aggregates
	Aggregates  int     // new aggregates over which commands are spread

	Type, Command string
	Data          json.RawMessage // a JSON object
}

// ConnectOptionsError reports a Config that the client library rejects.
type ConnectOptionsError struct{ Err error }

func (e *ConnectOptionsError) Error() string { return e.Err.Error() }

// Unwrap returns the library's error.
func (e *ConnectOptionsError) Unwrap() error { return e.Err }

// Load is one run.
type Load struct {
	cfg   Config
	begun time.Time

	streams []*stream
	clients []*connection // the first Config.Connections of them send commands

	sent, acked, delivered, connects, cuts atomic.Int64

	mu                sync.Mutex
	command, delivery *hdrhistogram.Histogram // in microseconds
	errors            map[string]int
	violations        int
	described         []string
	refused           int           // refused subscriptions
	sending           time.Duration // how long commands were sent
}

// New returns a Load that has not started.
func New(cfg Config) *Load {
	l := &Load{
		cfg: cfg, begun: time.Now(), errors: map[string]int{},
		command:  hdrhistogram.New(1, maxLatency.Microseconds(), 3),
		delivery: hdrhistogram.New(1, maxLatency.Microseconds(), 3),
	}
	run := strconv.FormatInt(l.begun.UnixMilli(), 36)
	for i := range cfg.Aggregates {
		l.streams = append(l.streams, &stream{load: l, id: fmt.Sprintf("bench-%s-%d", run, i+1)})
	}
	return l
}

// Run connects, sends commands until Config.Duration has passed or ctx ends, and
// then waits for pending answers and events. It returns an error only if a client
// could not connect; that is a [ConnectOptionsError] if the options are wrong.
func (l *Load) Run(ctx context.Context) error {
	all, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	defer func() {
		for _, c := range l.clients {
			c.Close()
		}
	}()
	if err := l.connect(ctx, all); err != nil {
		return err
	}
	var following sync.WaitGroup
	defer following.Wait()
	followed, stopFollowing := context.WithCancel(all)
	defer stopFollowing()
	l.follow(followed, &following)
	l.send(ctx, all)

	waiting, giveUp := context.WithTimeout(all, l.cfg.Timeout)
	defer giveUp()
	for _, s := range l.streams {
		s.awaitFollowers(waiting)
	}
	return nil
}

// connect makes all clients and waits until each has been connected once.
func (l *Load) connect(ctx, all context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, l.cfg.Timeout)
	defer cancel()
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(connectParallel)
	for i := range l.cfg.Connections + l.cfg.Subscribers {
		c, err := l.newConnection(all, i+1)
		if err != nil {
			return &ConnectOptionsError{err}
		}
		l.clients = append(l.clients, c)
		group.Go(func() error { return c.awaitConnected(ctx, i+1, l.cfg.Timeout) })
	}
	return group.Wait()
}

// follow starts the subscriptions. With fewer subscribers than aggregates, each
// subscriber follows several aggregates; with more, several subscribers follow the
// same one.
func (l *Load) follow(ctx context.Context, following *sync.WaitGroup) {
	subscribers, aggregates := l.cfg.Subscribers, l.cfg.Aggregates
	for i, c := range l.clients[l.cfg.Connections:] {
		for k, s := range l.streams {
			if k%subscribers == i || subscribers > aggregates && k == i%aggregates {
				f := &follower{stream: s, client: c}
				s.followers = append(s.followers, f)
				following.Go(func() { f.run(ctx) })
			}
		}
	}
}

// send sends commands from all connections and returns once the last one is
// answered.
func (l *Load) send(ctx, all context.Context) {
	sending, stop := context.WithTimeout(ctx, l.cfg.Duration)
	defer stop()
	var senders, cutters, answers sync.WaitGroup
	begun := time.Now()
	for i, c := range l.clients {
		if i < l.cfg.Connections {
			senders.Go(func() { l.sendShare(sending, all, i, &answers) })
		}
		if l.cfg.ReconnectEvery > 0 {
			cutters.Go(func() { l.cutRandomly(sending, c) })
		}
	}
	senders.Wait()
	cutters.Wait()
	l.mu.Lock()
	l.sending = time.Since(begun)
	l.mu.Unlock()
	answers.Wait()
}

// sendShare sends the commands of the i-th connection, each at its time.
func (l *Load) sendShare(sending, all context.Context, i int, answers *sync.WaitGroup) {
	every := time.Duration(float64(l.cfg.Connections) / l.cfg.Rate * float64(time.Second))
	due := time.Now().Add(every * time.Duration(i) / time.Duration(l.cfg.Connections))
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ; ; due = due.Add(every) {
		timer.Reset(time.Until(due))
		select {
		case <-sending.Done():
			return
		case <-timer.C:
		}
		s, due := l.streams[rand.IntN(len(l.streams))], due
		n := s.addCommand(due)
		l.sent.Add(1)
		answers.Go(func() { l.execute(all, l.clients[i], s, n, due) })
	}
}

// execute sends the n-th command of a stream and records its outcome.
func (l *Load) execute(all context.Context, c *connection, s *stream, n int, due time.Time) {
	ctx, cancel := context.WithTimeout(all, l.cfg.Timeout)
	defer cancel()
	result, err := c.Aggregate(l.cfg.Type, s.id).Send(ctx, l.cfg.Command, l.cfg.Data, client.WithKey(newKey(n)))
	if err != nil {
		l.countFailure(err)
		return
	}
	l.acked.Add(1)
	l.record(l.command, time.Since(due))
	s.acknowledge(n, result.Version)
}

// cutRandomly cuts a connection at random times, ReconnectEvery apart on average.
func (l *Load) cutRandomly(ctx context.Context, c *connection) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Duration(2 * rand.Float64() * float64(l.cfg.ReconnectEvery))):
			if c.cut() {
				l.cuts.Add(1)
			}
		}
	}
}

// newKey makes the key of a stream's n-th command: ordered by time, as keys of
// client libraries are, and with the number at its end.
func newKey(n int) string { return client.NewKey() + "." + strconv.Itoa(n) }

// keyNumber returns the number at the end of a key, 0 if it has none.
func keyNumber(key string) int {
	_, number, _ := strings.Cut(key, ".")
	n, _ := strconv.Atoi(number)
	return n
}

// countRefusal counts a subscription that a gateway refused.
func (l *Load) countRefusal(err *client.Error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.refused++
	l.errors["subscribe: "+string(err.Code)]++
}

// countFailure counts a command that was not acknowledged, by its code.
func (l *Load) countFailure(err error) {
	code := "other"
	var failure *client.Error
	if errors.As(err, &failure) {
		code = string(failure.Code)
		if failure.Reason != "" {
			code += " (" + failure.Reason + ")"
		}
	}
	if errors.Is(err, context.DeadlineExceeded) {
		code = "no answer within --timeout"
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.errors[code]++
}

// addViolation counts and describes a broken promise.
func (l *Load) addViolation(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.violations++; len(l.described) < maxDescribed {
		l.described = append(l.described, fmt.Sprintf(format, args...))
	}
}

func (l *Load) record(h *hdrhistogram.Histogram, d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	_ = h.RecordValue(min(max(d, 0), maxLatency).Microseconds()) // in range
}
