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
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
)

// TestClientJS lets 50 clients of client/js talk to three nodes, each behind a
// proxy that cuts, delays, half-closes and swallows. The clients check that
// every subscription gets each event once and in order; the log shows that
// each command happened once, where its answer said, and that those of one
// client to one aggregate kept their order.
func TestClientJS(t *testing.T) {
	program, err := filepath.Abs("../../client/js/build/test/soak.js")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(program); err != nil {
		t.Fatalf("client/js is not built: run scripts/client-js.sh build (%v)", err)
	}
	node, err := exec.LookPath("node")
	if err != nil {
		t.Fatalf("the clients need Node: scripts/client-js.sh installs it (%v)", err)
	}
	seconds := 8 * time.Second
	if long {
		seconds = time.Minute
	}
	s := besiege(t, seconds)

	ctx, cancel := context.WithTimeout(t.Context(), seconds+hungAfter)
	defer cancel()
	cmd := exec.CommandContext(ctx, node, program)
	cmd.Env = append(os.Environ(), "URLS="+strings.Join(s.urls, ","), "CLIENTS=50", "SECONDS="+strconv.Itoa(int(seconds/time.Second)))
	var out, complaints bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaints
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("the clients ended with %v: %s", err, complaints.String())
	}

	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	acknowledged := make([]acknowledgement, len(lines)-1)
	for i, line := range lines[:len(lines)-1] {
		if err := json.Unmarshal([]byte(line), &acknowledged[i]); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
	}
	t.Log(lines[len(lines)-1])
	s.check(acknowledged)
}

// hungAfter is how long after their time clients may take to settle what is
// left, on a machine that may be very busy, before something is taken to hang.
const hungAfter = 4 * time.Minute

// siege is three nodes, each behind a proxy that cuts, delays, half-closes and
// swallows, for a while and then no more.
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
	for i, url := range c.urls() {
		p := newProxy(t, url, 2*time.Second, seed+uint64(i))
		s.proxies, s.urls = append(s.proxies, p), append(s.urls, p.url)
	}
	calm := time.AfterFunc(d, func() {
		for _, p := range s.proxies {
			p.peace()
		}
	})
	t.Cleanup(func() { calm.Stop() })
	return s
}

// acknowledgement is a command's answer.
type acknowledgement struct {
	Stream, Key string
	Position    uint64
}

// check checks that the log has each command once, where its answer said, and
// those of one client to one aggregate in order, and that every kind of fault
// has happened.
func (s *siege) check(acknowledged []acknowledgement) {
	t := s.t
	t.Helper()
	log := readLog(t, s.store)
	for _, a := range acknowledged {
		if at, ok := log.keys[a.Stream+" "+a.Key]; !ok || at != eventstore.Position(a.Position) {
			t.Errorf("command %s to %s was acknowledged at %d; the log has it at %d (%v)", a.Key, a.Stream, a.Position, at, ok)
		}
	}
	if n := len(acknowledged); log.events != n || n == 0 {
		t.Errorf("%d commands were acknowledged and left %d events", n, log.events)
	}
	checkOrder(t, log)
	var cuts, halves, swallows int64
	for _, p := range s.proxies {
		cuts, halves, swallows = cuts+p.cuts.Load(), halves+p.halves.Load(), swallows+p.swallows.Load()
	}
	t.Logf("%d cuts, %d half-closes, %d ways swallowed", cuts, halves, swallows)
	if cuts == 0 || halves == 0 || swallows == 0 {
		t.Error("not every kind of fault happened")
	}
	verified, err := exec.Command(binary, "verify", "--store", s.store).CombinedOutput()
	if err != nil {
		t.Errorf("verify: %v\n%s", err, verified)
	}
}

// checkOrder checks that the commands of one client to one aggregate, whose
// keys are the client and a number that rises, stand in the log in that order.
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
					t.Errorf("%s: command %d is at %d, command %d before it, at %d", name, a.number, a.at, b.number, b.at)
				}
			}
		}
	}
}
