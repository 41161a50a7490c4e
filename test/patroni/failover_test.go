//go:build linux && patroni

package patroni

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/postgres"
	"github.com/ganglion-es/ganglion/test/harness"
	"github.com/ganglion-es/ganglion/test/patronitest"
)

// isLong selects the long form of tests.
var isLong = os.Getenv("GANGLION_FAULTS") == "long"

// A fault harms the PostgreSQL cluster and repairs it.
type fault struct {
	name string
	do   func(w *world)
}

// short faults are also those of the short form.
var short = []fault{
	{"the primary's machine is lost", func(w *world) {
		old := w.primary(nil)
		w.must(old.Kill())
		w.primary(old)
		w.more(50)
		w.must(old.Start())
	}},
	{"a planned switchover", func(w *world) { w.bounded(w.patroni.Switchover) }},
}

var long = []fault{
	{"the primary's processes are killed", func(w *world) {
		old := w.primary(nil)
		w.must(old.Crash())
		w.primary(old)
		w.more(50)
		w.must(old.Kill())
		w.must(old.Start())
	}},
	{"the primary's machine is frozen, and wakes after the failover", func(w *world) {
		old := w.primary(nil)
		asked := w.askStale(old.Address)
		w.must(old.Freeze())
		w.primary(old)
		w.more(50)
		asked(func() { w.must(old.Wake()) })
	}},
	{"the primary is cut off, and returns after the failover", func(w *world) {
		old := w.primary(nil)
		w.must(old.Cut())
		w.primary(old)
		w.more(50)
		w.must(old.Join())
	}},
	{"the synchronous standby's machine is lost", func(w *world) {
		standby := w.synchronous()
		w.must(standby.Kill())
		w.more(50)
		w.must(standby.Start())
	}},
	{"the synchronous standby is frozen", func(w *world) {
		standby := w.synchronous()
		w.must(standby.Freeze())
		w.more(50)
		w.must(standby.Wake())
	}},
	{"the primary's machine is lost, then that of its successor", func(w *world) {
		first := w.primary(nil)
		w.must(first.Kill())
		second := w.primary(first)
		w.more(50) // by the synchronous standby of the second
		w.must(second.Kill())
		w.must(first.Start()) // the third alone acknowledges nothing
		w.primary(second)
		w.more(50)
		w.must(second.Start())
	}},
	{"etcd is lost for 25 s", func(w *world) {
		w.must(w.patroni.Etcd.Kill())
		wait(w.ctx, 25*time.Second)
		w.must(w.patroni.Etcd.Start())
	}},
}

// askStale opens the log at one server, and returns a function that sends an append there
// while it calls wake. The server, which other servers have replaced, must not acknowledge
// it.
func (w *world) askStale(address string) (during func(wake func())) {
	w.Helper()
	url := strings.Replace(w.store, strings.SplitN(strings.SplitN(w.store, "@", 2)[1], "/", 2)[0], address+":5432", 1)
	store, err := postgres.Open(w.ctx, postgres.Config{URL: url, Warm: true})
	w.must(err)
	return func(wake func()) {
		w.Helper()
		defer store.Close()
		answer := make(chan error, 1)
		go func() {
			_, err := store.Append(w.ctx, eventstore.Unit{
				Stream: eventstore.StreamID{Type: "probe", ID: address},
				Commands: []eventstore.Command{{
					Key: "stale", At: time.Now(), Events: []eventstore.Event{{Type: "asked", Data: []byte(`{}`)}},
				}},
			})
			answer <- err
		}()
		wake()
		err := <-answer
		if err == nil {
			w.Errorf("the server %s has acknowledged an append after another one had become the primary", address)
		}
		w.Logf("the old primary's answer: %v", err)
	}
}

// TestFailoversLoseNothing harms a PostgreSQL cluster while nodes serve, and prints the
// longest interval between two acknowledgements for each fault. GANGLION_FAULTS=long adds
// faults.
func TestFailoversLoseNothing(t *testing.T) {
	w := newWorld(t)
	faults := short
	if isLong {
		faults = append(faults, long...)
	}
	w.more(100)
	var table strings.Builder
	for _, f := range faults {
		interval := w.measure(f)
		fmt.Fprintf(&table, "| %s | %.1f s |\n", f.name, interval.Seconds())
	}
	w.finish()
	t.Logf("the longest interval between two acknowledgements:\n%s", &table)
}

// TestAsynchronousFailoverIsNoticed promotes asynchronous standbys that lack acknowledged
// commands. Every node must stop serving until an operator accepts the loss, and continue
// then without a restart.
func TestAsynchronousFailoverIsNoticed(t *testing.T) {
	w := newWorld(t)
	w.more(100)
	w.bounded(func(ctx context.Context) error {
		return w.patroni.Configure(ctx, map[string]any{
			"synchronous_mode": false, "synchronous_mode_strict": false,
			"maximum_lag_on_failover": 1 << 30, // otherwise the standbys might lag too far
		})
	})
	old := w.primary(nil)
	w.eventually("the cluster is asynchronous", func() bool { return w.patroni.Synchronous(w.ctx) == nil && w.commitsAlone() })
	w.more(50)
	var standbys []*patronitest.Machine
	for _, m := range w.patroni.Servers {
		if m != old {
			standbys = append(standbys, m)
			w.must(m.Cut())
		}
	}
	w.more(200) // which the primary alone has
	w.must(old.Kill())
	for _, m := range standbys {
		w.must(m.Join())
	}
	w.primary(old)
	for i := range w.nodes {
		w.eventually(fmt.Sprintf("node %d refuses to serve", i+1), func() bool { return w.readyz(i) == http.StatusServiceUnavailable })
	}
	w.end()
	w.mu.Lock()
	acked := w.acked
	w.mu.Unlock()
	missing := w.missing(acked)
	if len(missing) == 0 {
		t.Errorf("none of %d acknowledged commands is lost", len(acked))
	}
	t.Logf("%d of %d acknowledged commands are lost, and every node has noticed it", len(missing), len(acked))
	for i := range w.nodes {
		if !strings.Contains(w.nodes[i].Output(), "the log went back") {
			t.Errorf("node %d does not log that the log went back", i+1)
		}
	}
	w.must(old.Start()) // it has the lost commands, and must follow the new primary
	w.ctx, w.stop = context.WithCancel(context.Background())
	w.bounded(w.patroni.Healthy)
	out, err := exec.CommandContext(t.Context(), binary, "log", "accept-loss", "--yes", "--store", w.store).CombinedOutput()
	if err != nil {
		t.Fatalf("accept-loss: %v: %s", err, out)
	}
	for i := range w.nodes {
		w.eventually(fmt.Sprintf("node %d is ready", i+1), func() bool { return w.readyz(i) == http.StatusOK })
	}
	client := &harness.Client{ID: "writer", URLs: w.urls}
	defer client.Leave()
	if _, err := client.Do(w.ctx, "counter/after", "add", "after", map[string]any{"by": 1}); err != nil {
		t.Error(err)
	}
}

// commitsAlone reports whether the primary waits for no standby.
func (w *world) commitsAlone() bool {
	conn, err := pgx.Connect(w.ctx, w.patroni.URL("postgres"))
	if err != nil {
		return false
	}
	defer conn.Close(w.ctx)
	var names string
	return conn.QueryRow(w.ctx, `show synchronous_standby_names`).Scan(&names) == nil && names == ""
}

// measure does a fault and waits until the cluster is healthy again. It returns the
// longest interval between two acknowledgements.
func (w *world) measure(f fault) time.Duration {
	w.Helper()
	w.Log(f.name)
	w.mu.Lock()
	w.longest = 0
	w.mu.Unlock()
	f.do(w)
	w.more(50)
	w.bounded(w.patroni.Healthy)
	for i := range w.nodes {
		w.eventually(fmt.Sprintf("node %d is ready", i+1), func() bool { return w.readyz(i) == http.StatusOK })
	}
	w.more(50)
	w.check()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.Logf("the longest interval was %.1f s", w.longest.Seconds())
	return w.longest
}

// readyz returns the status of a node on /readyz, 0 if it does not answer.
func (w *world) readyz(i int) int {
	ctx, cancel := context.WithTimeout(w.ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http"+strings.TrimPrefix(w.urls[i], "ws")+"/readyz", nil)
	w.must(err)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0
	}
	resp.Body.Close()
	return resp.StatusCode
}
