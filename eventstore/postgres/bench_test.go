package postgres_test

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/postgres"
	"github.com/ganglion-es/ganglion/eventstore/postgres/postgrestest"
	"github.com/ganglion-es/ganglion/eventstore/storetest"
)

// durable starts a server that waits for the disk, with the settings of a small
// production server.
func durable(b *testing.B) string {
	b.Helper()
	server, err := postgrestest.StartServer(b.Context(), postgrestest.Options{
		Durable:  true,
		Settings: map[string]string{"shared_buffers": "1GB", "max_wal_size": "8GB", "wal_buffers": "64MB"},
	})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := server.Close(); err != nil {
			b.Error(err)
		}
	})
	return server.URL("postgres")
}

// BenchmarkAppend compares appends with COPY of the same rows into the same table
// over one connection, an upper bound of what the server can store.
func BenchmarkAppend(b *testing.B) {
	url := durable(b)
	s, err := postgres.Open(b.Context(), postgres.Config{URL: url})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	for _, events := range []int{1, 5} {
		for _, callers := range []int{1, 64, 512} {
			b.Run(fmt.Sprintf("events=%d/callers=%d", events, callers), func(b *testing.B) {
				storetest.BenchmarkAppend(b, s, callers, events)
			})
		}
	}
	b.Run("copy", func(b *testing.B) { benchmarkCopy(b, url) })
}

func benchmarkCopy(b *testing.B, url string) {
	conn, err := pgx.Connect(b.Context(), url)
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close(context.Background())
	if _, err := conn.Exec(b.Context(), `create table if not exists copied (like commit including all); truncate copied`); err != nil {
		b.Fatal(err)
	}
	data := fmt.Sprintf(`[{"t":"added","d":{"item":"%0160d","amount":1250}}]`, 1)
	b.ResetTimer()
	var buf bytes.Buffer
	for done := 0; done < b.N; {
		buf.Reset()
		for range min(20_000, b.N-done) {
			done++
			// The streams and keys of 512 callers, in the order of their
			// commands.
			caller, n := done*7919%512, done/512
			fmt.Fprintf(&buf, "%d\t%d\t2026-03-01 12:00:00Z\t1\t\\\\x01020300000000000000000000000000\tcounter\trun-1-%d-%d\t0190b5c0-%04x-7000-8000-%012x\t{\"client\":\"ada\"}\t%s\n",
				done, n/100+1, caller, n%100, caller, n, data)
		}
		if _, err := conn.PgConn().CopyFrom(b.Context(), &buf, `copy copied (pos, version, at, n, hash, agg_type, agg_id, key, meta, events) from stdin`); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "commands/s")
}

// BenchmarkRead reads the log in pages of 1,000 commits.
func BenchmarkRead(b *testing.B) {
	s := postgrestest.New(b)
	storetest.BenchmarkAppend(b, s, 64, 1)
	b.ResetTimer()
	read := 0
	for read < b.N {
		page, err := s.Read(b.Context(), 0, 1000)
		for err == nil && len(page) > 0 && read < b.N {
			read += len(page)
			page, err = s.Read(b.Context(), page[len(page)-1].Position, 1000)
		}
		if err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(read)/b.Elapsed().Seconds(), "commands/s")
}

// BenchmarkLoad loads streams of ten commits, like a node that takes over
// aggregates. If there are as many callers as connections, no loads share a round
// trip: that measures a single load.
func BenchmarkLoad(b *testing.B) {
	const streams, commits = 1000, 10
	url := postgrestest.URL(b)
	name := func(n int64) eventstore.StreamID {
		return eventstore.StreamID{Type: "counter", ID: fmt.Sprint(n % streams)}
	}
	open := func(b *testing.B, cfg postgres.Config) *postgres.Store {
		cfg.URL = url
		s, err := postgres.Open(b.Context(), cfg)
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { s.Close() })
		return s
	}
	filler := open(b, postgres.Config{})
	for i := range int64(streams) {
		u := eventstore.Unit{Stream: name(i)}
		for n := range commits {
			u.Commands = append(u.Commands, eventstore.Command{
				Key: fmt.Sprint(i, "-", n), At: time.Now(), Events: []eventstore.Event{{Type: "added", Data: []byte(`{"by":1}`)}},
			})
		}
		if _, err := filler.Append(b.Context(), u); err != nil {
			b.Fatal(err)
		}
	}
	for _, c := range []struct{ conns, callers int }{{1, 1}, {4, 4}, {1, 64}, {2, 64}, {4, 64}} {
		b.Run(fmt.Sprintf("conns=%d/callers=%d", c.conns, c.callers), func(b *testing.B) {
			s := open(b, postgres.Config{ReadConns: c.conns, Warm: true})
			var next atomic.Int64
			var all sync.WaitGroup
			b.ResetTimer()
			for range c.callers {
				all.Go(func() {
					for n := next.Add(1); n <= int64(b.N); n = next.Add(1) {
						if got, err := s.Load(b.Context(), eventstore.LoadRequest{Stream: name(n), Limit: 100}); err != nil || len(got.Commits) != commits {
							b.Errorf("%d commits, %v", len(got.Commits), err)
							return
						}
					}
				})
			}
			all.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "loads/s")
		})
	}
}
