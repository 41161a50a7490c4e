package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
)

// TestClientJS connects 50 clients of client/js to three nodes, each behind a
// proxy that cuts, delays, half-closes and drops. The clients check that every
// subscription receives each event once and in order. The test checks in the
// log that each command was executed once, at the position of its reply, and
// that commands of one client to one aggregate kept their order.
func TestClientJS(t *testing.T) {
	seconds := siegeTime()
	s := besiege(t, seconds)
	lines := strings.Split(strings.TrimSpace(s.run("soak.js", seconds)), "\n")
	acknowledged := make([]acknowledgement, len(lines)-1)
	for i, line := range lines[:len(lines)-1] {
		if err := json.Unmarshal([]byte(line), &acknowledged[i]); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
	}
	t.Log(lines[len(lines)-1])
	s.check(acknowledged)
}

// TestClientJSFollowsQueries follows live queries and aggregates with client/js,
// behind the same proxies. The program checks that rows are in order and positions
// never fall, and compares the last rows and states with reads.
func TestClientJSFollowsQueries(t *testing.T) {
	seconds := siegeTime()
	s := besiege(t, seconds)
	t.Log(strings.TrimSpace(s.run("soaklive.js", seconds)))
	s.checkFaults()
}

func siegeTime() time.Duration {
	if long {
		return time.Minute
	}
	return 6 * time.Second
}

// clientJS returns the command of a test program of client/js.
func clientJS(ctx context.Context, t *testing.T, name string, args ...string) *exec.Cmd {
	t.Helper()
	program, err := filepath.Abs("../../client/js/build/test/" + name)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(program); err != nil {
		t.Fatalf("client/js is not built, run scripts/client-js.sh build: %v", err)
	}
	node, err := exec.LookPath("node")
	if err != nil {
		t.Fatalf("Node is missing, scripts/client-js.sh installs it: %v", err)
	}
	return exec.CommandContext(ctx, node, append([]string{program}, args...)...)
}

// run runs a test program of client/js, and returns its output.
func (s *siege) run(name string, d time.Duration) string {
	t := s.t
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d+hungAfter)
	defer cancel()
	cmd := clientJS(ctx, t, name)
	cmd.Env = append(os.Environ(), "URLS="+strings.Join(s.urls, ","), "CLIENTS=50", "SECONDS="+strconv.Itoa(int(d/time.Second)))
	var out, complaints bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaints
	if err := cmd.Run(); err != nil {
		t.Fatalf("the clients failed: %v: %s", err, complaints.String())
	}
	return out.String()
}

// hungAfter bounds the time that clients on a busy machine need for their
// pending commands and events after the end of the load.
const hungAfter = 4 * time.Minute

// siege has three nodes, each behind a proxy that misbehaves for a limited time.
type siege struct {
	t       *testing.T
	store   string
	urls    []string // of the proxies
	proxies []*proxy
}

func besiege(t *testing.T, d time.Duration) *siege {
	t.Helper()
	c := startTrio(t, database(t))
	s := &siege{t: t, store: c.store}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	begun := make(chan struct{}) // closed at the first connection: the clients need some time to start
	begin := sync.OnceFunc(func() { close(begun) })
	for i, url := range c.urls() {
		p := newProxy(t, url, 2*time.Second, seed+uint64(i), begin)
		s.proxies, s.urls = append(s.proxies, p), append(s.urls, p.url)
	}
	var calming sync.WaitGroup
	calming.Go(func() {
		select {
		case <-begun:
		case <-t.Context().Done():
			return
		}
		select {
		case <-time.After(d):
		case <-t.Context().Done():
			return
		}
		for _, p := range s.proxies {
			p.stopFaults()
		}
	})
	t.Cleanup(calming.Wait)
	return s
}

// acknowledgement is the reply to a command.
type acknowledgement struct {
	Stream, Key string
	Position    uint64
}

// check checks that the log has each command once, at the position of its reply,
// that commands of one client to one aggregate are in order, and that every
// kind of fault occurred.
func (s *siege) check(acknowledged []acknowledgement) {
	t := s.t
	t.Helper()
	log := readLog(t, s.store)
	for _, a := range acknowledged {
		if at, ok := log.keys[a.Stream+" "+a.Key]; !ok || at != eventstore.Position(a.Position) {
			t.Errorf("command %s to %s was acknowledged at position %d; the log has it at %d (found: %v)", a.Key, a.Stream, a.Position, at, ok)
		}
	}
	if n := len(acknowledged); log.events != n || n == 0 {
		t.Errorf("%d commands were acknowledged, and the log has %d events", n, log.events)
	}
	checkOrder(t, log)
	s.checkFaults()
	verified, err := exec.Command(binary, "verify", "--store", s.store).CombinedOutput()
	if err != nil {
		t.Errorf("verify: %v\n%s", err, verified)
	}
}

// checkFaults checks that every kind of fault occurred.
func (s *siege) checkFaults() {
	t := s.t
	t.Helper()
	var cuts, halves, drops int64
	for _, p := range s.proxies {
		cuts, halves, drops = cuts+p.cuts.Load(), halves+p.halves.Load(), drops+p.drops.Load()
	}
	t.Logf("%d cuts, %d half-closes, %d dropped directions", cuts, halves, drops)
	if cuts == 0 || halves == 0 || drops == 0 {
		t.Error("a kind of fault did not occur")
	}
}

// checkOrder checks that the log has the commands of one client to one aggregate
// in the order of their keys, which are CLIENT-NUMBER.
func checkOrder(t *testing.T, log contents) {
	t.Helper()
	type placed struct {
		number int
		at     eventstore.Position
	}
	lanes := map[string][]placed{}
	for k, at := range log.keys {
		stream, key, _ := strings.Cut(k, " ")
		client, number, _ := strings.Cut(key, "-")
		n, err := strconv.Atoi(number)
		if err != nil {
			t.Fatalf("key %q: %v", key, err)
		}
		lanes[stream+" "+client] = append(lanes[stream+" "+client], placed{n, at})
	}
	for name, lane := range lanes {
		for _, a := range lane {
			for _, b := range lane {
				if a.number < b.number && a.at > b.at {
					t.Errorf("%s: command %d is at position %d, after command %d at %d", name, a.number, a.at, b.number, b.at)
				}
			}
		}
	}
}
