// Package e2e measures Ganglion end to end, with real processes and WebSocket
// clients on a durable PostgreSQL (fsync and synchronous_commit on). It compares
// Ganglion with a bare INSERT per command on the same server.
//
// Run it with "make bench". It has no floors. Absolute figures depend on the
// machine and its load; compare the ratios of one run.
package e2e

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/ganglion-es/ganglion/bench/report"
	"github.com/ganglion-es/ganglion/eventstore/postgres/postgrestest"
	"github.com/ganglion-es/ganglion/test/harness"
)

// inFlight has the numbers of concurrent commands.
var inFlight = []int{1, 64, 512}

var (
	binary string
	server *postgrestest.Server
	table  = results{rates: map[string]float64{}}
)

// results has the rates of one run, for the ratios at its end.
type results struct {
	mu    sync.Mutex
	rates map[string]float64
}

func (r *results) put(name string, rate float64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rates[name] = rate // go test prints the last round of a benchmark, which is the longest
}

func (r *results) print() {
	fmt.Println("\ncommands per second end to end, and of a bare INSERT; COMMIT on the same PostgreSQL:")
	for _, n := range inFlight {
		pg, bare, lite := r.rates[fmt.Sprint("postgres", n)], r.rates[fmt.Sprint("insert", n)], r.rates[fmt.Sprint("sqlite", n)]
		if bare > 0 && pg > 0 {
			fmt.Printf("  %3d in flight: PostgreSQL %7.0f/s = %.2f × bare INSERT (%.0f/s); SQLite %7.0f/s\n", n, pg, pg/bare, bare, lite)
		}
	}
}

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "ganglion-bench")
	if err == nil {
		defer os.RemoveAll(dir)
		binary, err = harness.Build(dir, false)
	}
	if err == nil {
		server, err = postgrestest.StartServer(context.Background(), postgrestest.Options{Durable: true})
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer server.Close()
	code := m.Run()
	table.print()
	return code
}

// newDatabase creates a database, which lives as long as the server.
func newDatabase(b *testing.B) string {
	b.Helper()
	conn, err := pgx.Connect(b.Context(), server.URL("postgres"))
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close(b.Context())
	name := "bench_" + strings.ToLower(rand.Text())
	if _, err := conn.Exec(b.Context(), "create database "+name); err != nil {
		b.Fatal(err)
	}
	return server.URL(name)
}

// BenchmarkCommands measures commands from the WebSocket frame to the reply:
// gateway, ring, owner, log, and back.
func BenchmarkCommands(b *testing.B) {
	for _, store := range []string{"sqlite", "postgres"} {
		b.Run(store, func(b *testing.B) {
			url := b.TempDir()
			if store == "postgres" {
				url = newDatabase(b)
			}
			node := harness.Start(b, binary, 1, "node", "--name", "bench", "--store", url, "--log-level", "error",
				"--listen", "127.0.0.1:0", "--peer-listen", "127.0.0.1:0", "--gossip-listen", "127.0.0.1:0")
			for _, n := range inFlight {
				b.Run(fmt.Sprint(n), func(b *testing.B) { commands(b, store, node.URLs[0], n) })
			}
		})
	}
}

// commands sends b.N commands over at most 64 sessions, n concurrently.
func commands(b *testing.B, store, url string, n int) {
	ctx := b.Context()
	sessions := make([]*harness.Session, min(n, 64))
	for i := range sessions {
		s, err := harness.Dial(ctx, harness.WS(url), fmt.Sprint("client", i), nil)
		if err != nil {
			b.Fatal(err)
		}
		defer s.Close()
		sessions[i] = s
	}
	closedLoop(b, fmt.Sprint(store, n), n, func(worker, i int) error {
		f, err := sessions[worker%len(sessions)].Call(ctx, map[string]any{
			"op": "command", "aggregate": fmt.Sprint("counter/", i%1000), "command": "add", "data": map[string]int{"by": 1},
		})
		if err == nil && f.Op != "result" {
			err = fmt.Errorf("%s: %s", f.Code, f.Message)
		}
		return err
	})
}

// BenchmarkInsertCommit measures the simplest way to store an event: one INSERT
// and one commit, on n connections for n concurrent commands (at most 64).
func BenchmarkInsertCommit(b *testing.B) {
	ctx := b.Context()
	config, err := pgxpool.ParseConfig(newDatabase(b))
	if err != nil {
		b.Fatal(err)
	}
	config.MaxConns = 64
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		b.Fatal(err)
	}
	defer pool.Close()
	if _, err := pool.Exec(ctx, `create table bare (pos bigserial primary key, agg text not null, version bigint not null, key text not null, data json not null, unique (agg, version))`); err != nil {
		b.Fatal(err)
	}
	var version atomic.Int64
	for _, n := range inFlight {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			closedLoop(b, fmt.Sprint("insert", n), n, func(_, i int) error {
				_, err := pool.Exec(ctx, `insert into bare (agg, version, key, data) values ($1, $2, $3, $4)`,
					fmt.Sprint("counter/", i%1000), version.Add(1), fmt.Sprint("key", i), `{"by":1}`)
				return err
			})
		})
	}
}

// closedLoop calls do b.N times from n workers, and reports the rate and the
// percentiles of the durations.
func closedLoop(b *testing.B, name string, n int, do func(worker, i int) error) {
	took := make([][]time.Duration, n)
	var next atomic.Int64
	var workers sync.WaitGroup
	failed := make(chan error, n)
	b.ResetTimer()
	for w := range n {
		workers.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= b.N {
					return
				}
				start := time.Now()
				if err := do(w, i); err != nil {
					failed <- err
					return
				}
				took[w] = append(took[w], time.Since(start))
			}
		})
	}
	workers.Wait()
	b.StopTimer()
	close(failed)
	for err := range failed {
		b.Fatal(err)
	}
	all := slices.Concat(took...)
	slices.Sort(all)
	rate := float64(b.N) / b.Elapsed().Seconds()
	table.put(name, rate)
	b.ReportMetric(rate, "commands/s")
	b.ReportMetric(report.MS(report.Percentile(all, 0.5)), "p50-ms")
	b.ReportMetric(report.MS(report.Percentile(all, 0.99)), "p99-ms")
}

// BenchmarkDeliveries measures fan-out: 1,000 sessions subscribe to one stream,
// and each event is delivered to all of them.
func BenchmarkDeliveries(b *testing.B) {
	const sessions = 1000
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	node := harness.Start(b, binary, 1, "node", "--name", "bench", "--store", b.TempDir(), "--log-level", "error",
		"--listen", "127.0.0.1:0", "--peer-listen", "127.0.0.1:0", "--gossip-listen", "127.0.0.1:0")
	url := harness.WS(node.URLs[0])

	var delivered atomic.Int64
	wanted, all := int64(0), make(chan struct{}, 1)
	var target atomic.Int64
	for i := range sessions {
		s, err := harness.Dial(ctx, url, fmt.Sprint("reader", i), nil)
		if err != nil {
			b.Fatal(err)
		}
		defer s.Close()
		_, err = s.Subscribe(ctx, "s", map[string]any{"stream": "counter/hot"}, func(f harness.Frame) {
			if f.Op == "event" && delivered.Add(1) == target.Load() {
				all <- struct{}{}
			}
		})
		if err != nil {
			b.Fatal(err)
		}
	}
	writer, err := harness.Dial(ctx, url, "writer", nil)
	if err != nil {
		b.Fatal(err)
	}
	defer writer.Close()

	b.ResetTimer()
	wanted += int64(b.N) * sessions
	target.Store(delivered.Load() + wanted)
	var workers sync.WaitGroup
	var next atomic.Int64
	for range 16 {
		workers.Go(func() {
			for int(next.Add(1)) <= b.N {
				f, err := writer.Call(ctx, map[string]any{"op": "command", "aggregate": "counter/hot", "command": "add", "data": map[string]int{"by": 1}})
				if err != nil || f.Op != "result" {
					b.Errorf("%v %s", err, strings.TrimSpace(f.Message))
					cancel()
					return
				}
			}
		})
	}
	workers.Wait()
	select {
	case <-all:
	case <-ctx.Done():
		b.Fatal("the benchmark was cancelled before all deliveries")
	}
	b.StopTimer()
	b.ReportMetric(float64(wanted)/b.Elapsed().Seconds(), "deliveries/s")
}
