package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
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
	// connectAtOnce is how many clients connect at the same time.
	connectAtOnce = 64
	// openMost is how many commands of one connection may be unanswered; past
	// it they fail with queue_full.
	openMost = 10_000
	// latencyMost is the longest latency that is told from longer ones.
	latencyMost = 10 * time.Minute
	// brokenShown bounds the violations that are told in words.
	brokenShown = 20
)

// bench loads a cluster, and remembers what it is owed.
type bench struct {
	benchCmd
	begun time.Time

	streams []*benchStream
	clients []*benchClient // those that send commands first

	sent, acked, delivered, connects, cuts atomic.Int64

	mu                sync.Mutex
	command, delivery *hdrhistogram.Histogram // in microseconds
	errors            map[string]int
	violations        int
	broken            []string
	refused           int           // subscriptions
	sending           time.Duration // how long commands were sent
}

func newBench(c benchCmd) *bench {
	b := &bench{
		benchCmd: c, begun: time.Now(), errors: map[string]int{},
		command:  hdrhistogram.New(1, latencyMost.Microseconds(), 3),
		delivery: hdrhistogram.New(1, latencyMost.Microseconds(), 3),
	}
	run := strconv.FormatInt(b.begun.UnixMilli(), 36)
	for i := range c.Aggregates {
		b.streams = append(b.streams, &benchStream{bench: b, id: fmt.Sprintf("bench-%s-%d", run, i+1)})
	}
	return b
}

// benchClient is a client and its connection of the moment.
type benchClient struct {
	*client.Client
	mu   sync.Mutex
	conn net.Conn
}

// cut ends the connection as a broken network does.
func (c *benchClient) cut() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn == nil {
		return false
	}
	_ = c.conn.Close()
	c.conn = nil
	return true
}

// run loads the cluster until the duration is over or ctx ends, and then waits
// for what is owed. The error is about a load that did not begin.
func (b *bench) run(ctx context.Context) error {
	all, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	defer func() {
		for _, c := range b.clients {
			c.Close()
		}
	}()
	if err := b.connect(ctx, all); err != nil {
		return err
	}
	var following sync.WaitGroup
	defer following.Wait()
	followed, stopFollowing := context.WithCancel(all)
	defer stopFollowing()
	for i, c := range b.clients[b.Connections:] {
		for k, s := range b.streams {
			// With fewer subscribers than aggregates each follows its part,
			// with more of them several follow the same.
			if k%b.Subscribers == i || b.Subscribers > b.Aggregates && k == i%b.Aggregates {
				f := &benchFollower{stream: s, client: c}
				s.followers = append(s.followers, f)
				following.Go(func() { f.follow(followed) })
			}
		}
	}

	sending, stop := context.WithTimeout(ctx, b.Duration)
	defer stop()
	var senders, answers, cutters sync.WaitGroup
	begun := time.Now()
	for i, c := range b.clients {
		if i < b.Connections {
			senders.Go(func() { b.send(sending, all, i, c, &answers) })
		}
		if b.Reconnect > 0 {
			cutters.Go(func() { b.cutNowAndThen(sending, c) })
		}
	}
	senders.Wait()
	cutters.Wait()
	b.mu.Lock()
	b.sending = time.Since(begun)
	b.mu.Unlock()
	answers.Wait()

	owed, giveUp := context.WithTimeout(all, b.Timeout)
	defer giveUp()
	for _, s := range b.streams {
		s.settle(owed)
	}
	return nil
}

// connect makes all clients and waits until each has been connected once.
func (b *bench) connect(ctx, all context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, b.Timeout)
	defer cancel()
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(connectAtOnce)
	for i := range b.Connections + b.Subscribers {
		c, err := b.newClient(all, i)
		if err != nil {
			return usageError{err}
		}
		b.clients = append(b.clients, c)
		group.Go(func() error {
			for status := range c.Statuses(ctx) {
				if status == client.Live || status == client.CatchingUp {
					return nil
				}
			}
			if err := c.Err(); err != nil {
				return err
			}
			if err := c.ConnErr(); err != nil {
				return fmt.Errorf("no gateway takes client %d: %w", i+1, err)
			}
			return fmt.Errorf("client %d could not connect within %v", i+1, b.Timeout)
		})
	}
	return group.Wait()
}

func (b *bench) newClient(ctx context.Context, i int) (*benchClient, error) {
	c := new(benchClient)
	dialer := net.Dialer{Timeout: 10 * time.Second}
	o := client.Options{
		URLs: b.URL, ClientID: fmt.Sprintf("bench-%d", i+1), Queue: openMost,
		HTTPClient: &http.Client{Transport: &http.Transport{
			Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true,
			DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
				conn, err := dialer.DialContext(ctx, network, addr)
				if err == nil {
					b.connects.Add(1)
					c.mu.Lock()
					c.conn = conn
					c.mu.Unlock()
				}
				return conn, err
			},
		}},
		OnError: func(e *client.Error) {
			if e.Code == client.CodeProtocol || e.Code == client.CodeGap {
				b.breaks("client %d: %s", i+1, e.Message)
			}
		},
	}
	if b.Token != "" {
		o.ClientID, o.Token = "", func(context.Context) (string, error) { return b.Token, nil }
	}
	var err error
	c.Client, err = client.Connect(ctx, o)
	return c, err
}

// send sends the i-th connection's share of the commands, each at its time. It
// does not wait for answers: a slow cluster would otherwise choose when it is
// measured.
func (b *bench) send(sending, all context.Context, i int, c *benchClient, answers *sync.WaitGroup) {
	every := time.Duration(float64(b.Connections) / b.Rate * float64(time.Second))
	due := time.Now().Add(every * time.Duration(i) / time.Duration(b.Connections))
	timer := time.NewTimer(0)
	defer timer.Stop()
	data := json.RawMessage(b.Data)
	for ; ; due = due.Add(every) {
		timer.Reset(time.Until(due))
		select {
		case <-sending.Done():
			return
		case <-timer.C:
		}
		s, due := b.streams[rand.IntN(len(b.streams))], due
		n := s.begin(due)
		b.sent.Add(1)
		answers.Go(func() {
			ctx, cancel := context.WithTimeout(all, b.Timeout)
			defer cancel()
			result, err := c.Aggregate(b.Type, s.id).Send(ctx, b.Command, data, client.WithKey(benchKey(n)))
			if err != nil {
				b.fails(err)
				return
			}
			b.acked.Add(1)
			b.record(b.command, time.Since(due))
			s.acknowledged(n, result.Version)
		})
	}
}

// cutNowAndThen cuts a connection off at random times, Reconnect apart on
// average.
func (b *bench) cutNowAndThen(ctx context.Context, c *benchClient) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Duration(2 * rand.Float64() * float64(b.Reconnect))):
			if c.cut() {
				b.cuts.Add(1)
			}
		}
	}
}

// benchKey is the key of a stream's n-th command: ordered by time, as those of
// client libraries are, and with the number at its end.
func benchKey(n int) string { return client.NewKey() + "." + strconv.Itoa(n) }

// numberOf is the number at the end of a key, 0 if there is none.
func numberOf(key string) int {
	_, number, _ := strings.Cut(key, ".")
	n, _ := strconv.Atoi(number)
	return n
}

// refuses counts a subscription that a gateway refused.
func (b *bench) refuses(err *client.Error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.refused++
	b.errors["subscribe: "+string(err.Code)]++
}

func (b *bench) fails(err error) {
	code := "other"
	var said *client.Error
	if errors.As(err, &said) {
		code = string(said.Code)
		if said.Reason != "" {
			code += " (" + said.Reason + ")"
		}
	}
	if errors.Is(err, context.DeadlineExceeded) {
		code = "no answer within --timeout"
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.errors[code]++
}

func (b *bench) breaks(format string, args ...any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.violations++; len(b.broken) < brokenShown {
		b.broken = append(b.broken, fmt.Sprintf(format, args...))
	}
}

func (b *bench) record(h *hdrhistogram.Histogram, d time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	_ = h.RecordValue(min(max(d, 0), latencyMost).Microseconds()) // in range
}

func (b *bench) progress() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	failed := -b.refused
	for _, n := range b.errors {
		failed += n
	}
	sent, acked := b.sent.Load(), b.acked.Load()
	return fmt.Sprintf("bench: %.0fs: %d sent, %d acknowledged, %d open, %d failed, %d delivered; p99 %.1f and %.1f ms; %d cut off, %d promises broken",
		time.Since(b.begun).Seconds(), sent, acked, sent-acked-int64(failed), failed, b.delivered.Load(),
		ms(b.command.ValueAtQuantile(99)), ms(b.delivery.ValueAtQuantile(99)), b.cuts.Load(), b.violations)
}

func ms(us int64) float64 { return float64(us) / 1000 }

func percentilesOf(h *hdrhistogram.Histogram) percentiles {
	return percentiles{
		P50: ms(h.ValueAtQuantile(50)), P90: ms(h.ValueAtQuantile(90)), P99: ms(h.ValueAtQuantile(99)),
		P999: ms(h.ValueAtQuantile(99.9)), Max: ms(h.Max()),
	}
}

// report is for after run.
func (b *bench) report() benchReport {
	for _, s := range b.streams {
		s.check()
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	r := benchReport{
		Seconds: b.sending.Seconds(), Sent: int(b.sent.Load()), Acknowledged: int(b.acked.Load()),
		Delivered: int(b.delivered.Load()), Cuts: int(b.cuts.Load()), Connects: int(b.connects.Load()),
		Command: percentilesOf(b.command), Delivery: percentilesOf(b.delivery),
		Errors: b.errors, Violations: b.violations, Broken: b.broken, Refused: b.refused,
	}
	r.Rate = float64(r.Acknowledged) / r.Seconds
	return r
}
