package engine

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/ganglion-es/ganglion/eventstore/postgres/postgrestest"
	"github.com/ganglion-es/ganglion/proto/command"
)

// All connections of two hosts are cut repeatedly. Clients retry as the failures say, and
// every command must be executed once.
func TestCutConnectionsExecuteEachCommandOnce(t *testing.T) {
	t.Parallel()
	url := postgrestest.URL(t)
	log := onPostgres(t, url)
	hosts := [2]*Host{start(t, Config{Store: log(nil)}), start(t, Config{Store: log(nil)})}

	killer, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer killer.Close(t.Context())
	var done atomic.Int64
	cut := make(chan struct{}, 1)
	kills := make(chan int64)
	go func() {
		n := int64(0)
		defer func() { kills <- n }()
		for range cut {
			tag, err := killer.Exec(t.Context(), `select pg_terminate_backend(pid) from pg_stat_activity
				where datname = current_database() and pid <> pg_backend_pid()`)
			if err != nil {
				t.Error(err)
			}
			n += tag.RowsAffected()
		}
	}()

	const boxes, senders, each = 4, 8, 24
	var wg sync.WaitGroup
	for sender := range senders {
		wg.Go(func() {
			for i := range each {
				c := cmd(fmt.Sprint(i%boxes), fmt.Sprintf("%d-%d", sender, i), "put", m{"by": 1})
				for {
					o := do(t, hosts[rand.N(2)], c)
					if o.Failure == nil {
						break
					}
					if o.Failure.Retry == command.RetryNo {
						t.Errorf("%s: %v", c.Key, o.Failure)
						return
					}
				}
				if done.Add(1)%24 == 0 { // while other commands are in flight
					select {
					case cut <- struct{}{}:
					default:
					}
				}
			}
		})
	}
	wg.Wait()
	close(cut)
	if n := <-kills; n == 0 {
		t.Error("no connection was cut")
	}
	if n := len(assertLog(t, log(nil))); n != senders*each {
		t.Errorf("%d commits for %d commands", n, senders*each)
	}
	for b := range boxes {
		want := senders * each / boxes
		if value, version := get(t, hosts[b%2], command.Get{Stream: box(fmt.Sprint(b)), Strong: true}); value != want || int(version) != want {
			t.Errorf("box %d shows %d at version %d, want %d", b, value, version, want)
		}
	}
}
