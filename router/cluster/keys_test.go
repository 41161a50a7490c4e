package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/memberlist"
)

func testKey(b byte) []byte { return bytes.Repeat([]byte{b}, keyBytes) }

func TestKeyringBecomesWhatIsSet(t *testing.T) {
	t.Parallel()
	pool := make([][]byte, 6)
	for i := range pool {
		pool[i] = testKey(byte(i))
	}
	ring, err := memberlist.NewKeyring(nil, pool[0])
	if err != nil {
		t.Fatal(err)
	}
	// Packets arrive all the time, under the race detector.
	done := make(chan struct{})
	var reading sync.WaitGroup
	reading.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
			}
			for _, key := range ring.GetKeys() {
				if len(key) != keyBytes {
					t.Error("a reader sees half a change")
				}
			}
		}
	})
	r := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		r.Shuffle(len(pool), func(i, j int) { pool[i], pool[j] = pool[j], pool[i] })
		want := pool[:1+r.IntN(len(pool))]
		if err := setKeys(ring, want); err != nil {
			t.Fatal(err)
		}
		have := ring.GetKeys()
		if !bytes.Equal(have[0], want[0]) || len(have) != len(want) {
			t.Fatalf("set to %v, has %v", want, have)
		}
		for _, key := range want {
			if !slices.ContainsFunc(have, func(k []byte) bool { return bytes.Equal(k, key) }) {
				t.Fatalf("set to %v, has %v", want, have)
			}
		}
	}
	close(done)
	reading.Wait()
}

// The test follows the documented steps, node by node, with time for gossip
// between them.
func TestKeysAreChangedWithoutLosingAMember(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		on := newNetwork(t)
		before, after := testKey(1), testKey(2)
		config := func(i int, keys ...[]byte) Config {
			cfg := member(fmt.Sprintf("n%d", i), "10.0.0.1", "10.0.0.2")
			cfg.Transport = on.listen(fmt.Sprintf("10.0.0.%d:7946", i))
			cfg.Keys = keys
			return cfg
		}
		var nodes []running
		for i := range 3 {
			nodes = append(nodes, run(t, config(i+1, before)))
		}
		awaitAll(t, nodes, "n1", "n2", "n3")
		seen := watchViews(t, nodes)
		for _, keys := range [][][]byte{{before, after}, {after, before}, {after}} {
			for _, n := range nodes {
				if err := n.SetKeys(keys); err != nil {
					t.Fatal(err)
				}
				time.Sleep(4 * time.Second) // of the bubble's clock: many probes
			}
		}
		for _, v := range seen() {
			if len(v.Members) != 3 {
				t.Errorf("a member was lost: a view has %v", idsOf(v))
			}
		}

		late := run(t, config(4, after)) // only the new key is in use
		nodes = append(nodes, late)
		awaitAll(t, nodes, "n1", "n2", "n3", "n4")
		stranger := run(t, config(5, before))
		<-stranger.Joined()
		time.Sleep(2 * rejoinEvery)
		awaitAll(t, nodes, "n1", "n2", "n3", "n4")
		awaitAll(t, []running{stranger}, "n5")
	})
}

// watchViews collects every view of some nodes until the returned function is
// called.
func watchViews(t *testing.T, nodes []running) (seen func() []*View) {
	t.Helper()
	var watching sync.WaitGroup
	var mu sync.Mutex
	var views []*View
	ctx, stop := context.WithCancel(context.Background())
	for _, n := range nodes {
		watching.Go(func() {
			for v := range n.Watch(ctx) {
				mu.Lock()
				views = append(views, v)
				mu.Unlock()
			}
		})
	}
	return func() []*View {
		stop()
		watching.Wait()
		return views
	}
}

func TestInvalidKeysAreRefused(t *testing.T) {
	t.Parallel()
	cfg := member("n1")
	cfg.Keys = [][]byte{testKey(1)}
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for name, keys := range map[string][][]byte{
		"none": nil, "a short one": {testKey(1), make([]byte, 16)}, "too many": make([][]byte, maxKeys+1),
	} {
		if err := c.SetKeys(keys); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	open, err := New(member("n2"))
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	if err := open.SetKeys([][]byte{testKey(1)}); !errors.Is(err, ErrOpen) {
		t.Errorf("keys for open gossip: %v", err)
	}
}
