package engine

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ganglion-es/ganglion/domain"
	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/postgres"
	"github.com/ganglion-es/ganglion/eventstore/postgres/postgrestest"
	"github.com/ganglion-es/ganglion/proto/command"
)

// BenchmarkHot compares commands to one counter, on a PostgreSQL with fsync, with one
// commit for each command. The time of one commit is measured on the same server, in the
// same run, in two ways:
//
//   - µs/insert is a bare INSERT of one row with its commit, the server's shortest
//     commit. insert-times is commands per second times that.
//   - µs/alone is a command with one in flight on the same host. alone-times is the gain
//     of units with several commands.
//
// The aim is 50 at 512 in flight. A row costs the server 10 to 14 µs of processor time in
// any case. On a disk that commits in less than 50 times that, about 0.6 ms, no log
// reaches 50 insert-times, not even with COPY. disk=quick is the disk as it is. For disk=+1ms
// the server waits another millisecond before each flush (commit_delay), as with a network
// disk.
func BenchmarkHot(b *testing.B) {
	for disk, settings := range map[string]map[string]string{
		"quick": nil,
		"+1ms":  {"commit_delay": "1000", "commit_siblings": "0"},
	} {
		b.Run("disk="+disk, func(b *testing.B) { benchmarkHot(b, settings) })
	}
}

func benchmarkHot(b *testing.B, settings map[string]string) {
	server, err := postgrestest.StartServer(b.Context(), postgrestest.Options{Durable: true, Settings: settings})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := server.Close(); err != nil {
			b.Error(err)
		}
	})
	url := server.URL("postgres")
	conn, err := pgx.Connect(b.Context(), url)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { conn.Close(context.Background()) })
	if _, err := conn.Exec(b.Context(), `create table bare (id bigserial primary key, data json not null)`); err != nil {
		b.Fatal(err)
	}
	runs := 0
	for _, inFlight := range []int{1, 64, 512} {
		b.Run(fmt.Sprintf("inflight=%d", inFlight), func(b *testing.B) {
			runs++ // each run has its own log
			store, err := postgres.Open(b.Context(), postgres.Config{URL: url, Schema: fmt.Sprint("run", runs)})
			if err != nil {
				b.Fatal(err)
			}
			b.Cleanup(func() { store.Close() })
			h := start(b, Config{Store: store, Catalog: &domain.Catalog})
			inserts, alone := bareInserts(b, conn), commandsAlone(b, h, "before")
			b.ReportAllocs()
			flow(b, h, 1, inFlight)
			rate := float64(b.N) / b.Elapsed().Seconds()
			insert := median(append(inserts, bareInserts(b, conn)...))
			one := median(append(alone, commandsAlone(b, h, "after")...))
			b.ReportMetric(float64(insert.Microseconds()), "µs/insert")
			b.ReportMetric(float64(one.Microseconds()), "µs/alone")
			b.ReportMetric(rate*insert.Seconds(), "insert-times")
			b.ReportMetric(rate*one.Seconds(), "alone-times")
		})
	}
}

// commandsAlone measures the time of a command with one in flight.
func commandsAlone(b *testing.B, h *Host, key string) []time.Duration {
	b.Helper()
	took := make([]time.Duration, 200)
	for i := range took {
		c := command.Command{
			Stream: eventstore.StreamID{Type: "counter", ID: "alone"}, Name: "add", Data: []byte(`{"by":1}`),
			Key: fmt.Sprint(key, i), Client: "ada", Attempt: 1,
		}
		begin := time.Now()
		if o := do(b, h, c); o.Failure != nil {
			b.Fatal(o.Failure)
		}
		took[i] = time.Since(begin)
	}
	return took
}

// bareInserts measures the time of one INSERT with its commit.
func bareInserts(b *testing.B, conn *pgx.Conn) []time.Duration {
	b.Helper()
	took := make([]time.Duration, 200)
	for i := range took {
		begin := time.Now()
		if _, err := conn.Exec(b.Context(), `insert into bare (data) values ('{"by":1}')`); err != nil {
			b.Fatal(err)
		}
		took[i] = time.Since(begin)
	}
	return took
}

func median(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)/2]
}
