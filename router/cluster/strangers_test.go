package cluster

import (
	"bytes"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/memberlist"
)

func TestWhoLacksTheKeyOrTheNameStaysOut(t *testing.T) {
	t.Parallel()
	key := func(b byte) []byte { return bytes.Repeat([]byte{b}, keyBytes) }
	for name, spoil := range map[string]func(*Config){
		"another key":             func(c *Config) { c.Key = key(2) },
		"no key":                  func(c *Config) { c.Key = nil },
		"another name":            func(c *Config) { c.Cluster = "production" },
		"another name and no key": func(c *Config) { c.Cluster, c.Key = "production", nil },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				on := newNetwork(t)
				var said logs
				config := func(i int) Config {
					cfg := member(fmt.Sprintf("n%d", i), "10.0.0.1")
					cfg.Transport = on.listen(fmt.Sprintf("10.0.0.%d:7946", i))
					cfg.Key = key(1)
					return cfg
				}
				ours := []running{run(t, config(1)), run(t, config(2))}
				awaitAll(t, ours, "n1", "n2")
				cfg := config(3)
				cfg.Logger = said.logger(slog.LevelInfo)
				spoil(&cfg)
				stranger := run(t, cfg)
				<-stranger.Joined()
				time.Sleep(4 * rejoinEvery) // of the bubble's
				awaitAll(t, ours, "n1", "n2")
				awaitAll(t, []running{stranger}, "n3")
				if !strings.Contains(said.String(), `msg="a seed is out of reach`) {
					t.Errorf("the stranger is not told: %s", said.String())
				}
			})
		})
	}
}

// Somebody else's program may speak memberlist, too.
func TestStrangeNodesDoNotEnterTheView(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		on := newNetwork(t)
		nodes := hosts(t, on, 2)
		awaitAll(t, nodes, "n1", "n2")
		before := nodes[0].View()
		good := encodeMeta(plain) // of an n1 that began in a far future
		metas := map[string][]byte{
			"nobody":               nil,
			"n9.0123456789abcdef":  []byte("not ours"),
			"n8.0123456789abcdef":  append([]byte{metaVersion + 1}, good[1:]...),
			"n7.0123456789abcdef":  good,                                                              // says that it is n1
			"n1.0123":              good,                                                              // no name of ours
			"n6.0123456789abcdef":  encodeMeta(Member{ID: "n6", Boot: 1, Domain: true, State: Ready}), // no peer address
			strings.Repeat("x", 9): bytes.Repeat([]byte{metaVersion}, metaMax),
		}
		host := 100
		for name, meta := range metas {
			host++
			mc := preset()
			mc.Name = name
			mc.Label = "test"
			mc.Logger = newLogger(slog.New(slog.DiscardHandler))
			mc.Transport = on.listen(fmt.Sprintf("10.0.0.%d:7946", host))
			mc.Delegate = static(meta)
			m, err := memberlist.Create(mc)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { m.Shutdown() })
			if _, err := m.Join([]string{"10.0.0.1:7946"}); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(10 * time.Second) // of the bubble's
		for _, n := range nodes {
			if got := len(n.now.Load().alive); got != len(nodes)+len(metas) {
				t.Errorf("gossip of %s knows %d nodes: the strangers did not get as far as they can", n.cfg.ID, got)
			}
			if got := n.View(); !got.equal(before) {
				t.Errorf("%s sees %+v, before the strangers came %+v", n.cfg.ID, got.Members, before.Members)
			}
		}
		nodes[1].SetState(Draining) // all goes on
		nodes[0].await(t, "n2 draining", func(v *View) bool {
			m, _ := v.Member("n2")
			return m.State == Draining
		})
	})
}

// static is a memberlist.Delegate with metadata and nothing else.
type static []byte

func (s static) NodeMeta(int) []byte           { return slices.Clone(s) }
func (static) NotifyMsg([]byte)                {}
func (static) GetBroadcasts(int, int) [][]byte { return nil }
func (static) LocalState(bool) []byte          { return []byte("state of a stranger") }
func (static) MergeRemoteState([]byte, bool)   {}
