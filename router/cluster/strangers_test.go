package cluster

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/memberlist"
)

func TestNodeWithoutKeyOrNameStaysOut(t *testing.T) {
	t.Parallel()
	key := func(b byte) []byte { return bytes.Repeat([]byte{b}, keyBytes) }
	for name, spoil := range map[string]func(*Config){
		"another key":             func(c *Config) { c.Keys = [][]byte{key(2)} },
		"no key":                  func(c *Config) { c.Keys = nil },
		"another name":            func(c *Config) { c.Cluster = "production" },
		"another name and no key": func(c *Config) { c.Cluster, c.Keys = "production", nil },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				on := newNetwork(t)
				var said logs
				config := func(i int) Config {
					cfg := member(fmt.Sprintf("n%d", i), "10.0.0.1")
					cfg.Transport = on.listen(fmt.Sprintf("10.0.0.%d:7946", i))
					cfg.Keys = [][]byte{key(1)}
					return cfg
				}
				ours := []running{run(t, config(1)), run(t, config(2))}
				awaitAll(t, ours, "n1", "n2")
				cfg := config(3)
				cfg.Logger = said.logger(slog.LevelInfo)
				spoil(&cfg)
				stranger := run(t, cfg)
				<-stranger.Joined()
				time.Sleep(4 * rejoinEvery) // of the bubble's clock
				awaitAll(t, ours, "n1", "n2")
				awaitAll(t, []running{stranger}, "n3")
				want := `msg="a seed is out of reach`
				if name == "another key" {
					want = `level=WARN msg="a seed has other gossip keys than this node`
				}
				if !strings.Contains(said.String(), want) {
					t.Errorf("the stranger's log lacks %s: %s", want, said.String())
				}
			})
		})
	}
}

// Strangers that use memberlist get into gossip, but not into a View.
func TestStrangeNodesDoNotEnterTheView(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		on := newNetwork(t)
		nodes := hosts(t, on, 2)
		awaitAll(t, nodes, "n1", "n2")
		before := nodes[0].View()
		good := encodeMeta(plain) // of an n1 with a boot time in the far future
		metas := map[string][]byte{
			"stranger":             nil,
			"n9.0123456789abcdef":  []byte("not ours"),
			"n8.0123456789abcdef":  append([]byte{metaVersion + 1}, good[1:]...),
			"n7.0123456789abcdef":  good,                                                              // claims to be n1
			"n1.0123":              good,                                                              // not a name of this package
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
		time.Sleep(10 * time.Second) // of the bubble's clock
		for _, n := range nodes {
			if got := len(n.now.Load().alive); got != len(nodes)+len(metas) {
				t.Errorf("gossip of %s knows %d nodes: the strangers did not get into gossip", n.cfg.ID, got)
			}
			if got := n.View(); !got.equal(before) {
				t.Errorf("%s sees %+v, before the strangers came %+v", n.cfg.ID, got.Members, before.Members)
			}
		}
		nodes[1].SetState(Draining) // the cluster still works
		nodes[0].await(t, "n2 draining", func(v *View) bool {
			m, _ := v.Member("n2")
			return m.State == Draining
		})
	})
}

// static is a memberlist.Delegate that has only metadata.
type static []byte

func (s static) NodeMeta(int) []byte           { return slices.Clone(s) }
func (static) NotifyMsg([]byte)                {}
func (static) GetBroadcasts(int, int) [][]byte { return nil }
func (static) LocalState(bool) []byte          { return []byte("state of a stranger") }
func (static) MergeRemoteState([]byte, bool)   {}

// The test sends garbage to both sockets of a real node, with and without the
// cluster's name, which a stranger may know.
func TestGarbageChangesNothing(t *testing.T) {
	t.Parallel()
	config := func(id string, join ...string) Config {
		cfg := member(id, join...)
		cfg.Keys = [][]byte{testKey(1)}
		return cfg
	}
	first := run(t, config("n1"))
	nodes := []running{first, run(t, config("n2", first.Addr()))}
	awaitAll(t, nodes, "n1", "n2")
	seen := watchViews(t, nodes)

	const encrypted = 10 // memberlist's message type
	label := append([]byte{244, byte(len("test"))}, "test"...)
	announced := func(length uint32) []byte {
		return binary.BigEndian.AppendUint32(append(slices.Clone(label), encrypted), length)
	}
	noise := rand.New(rand.NewChaCha8([32]byte{1}))
	garbage := func(n int) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(noise.Uint32())
		}
		return b
	}

	packets, err := net.Dial("udp", first.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer packets.Close()
	for i := range 500 {
		p := garbage(noise.IntN(1400))
		switch i % 4 {
		case 1:
			p = append(slices.Clone(label), p...)
		case 2:
			p = append(append(slices.Clone(label), byte(noise.IntN(14))), p...)
		case 3:
			p = append([]byte{244, byte(noise.IntN(255))}, p...)
		}
		if _, err := packets.Write(p); err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]struct {
		says   []byte
		zeroes int64 // zero bytes that follow
		cut    bool  // the node closes before it has read all
	}{
		"nothing":                   {},
		"noise":                     {says: garbage(4 << 10)},
		"the name and noise":        {says: append(slices.Clone(label), garbage(4<<10)...)},
		"a name cut short":          {says: label[:3]},
		"a state in the clear":      {says: append(slices.Clone(label), 6, 0x83)},
		"less than was announced":   {says: announced(1 << 20), zeroes: 1 << 10},
		"a message of 100 MB":       {says: announced(100 << 20), zeroes: 100 << 20, cut: true},
		"one that memberlist takes": {says: announced(19 << 20), zeroes: 19 << 20, cut: true},
	} {
		t.Run(name, func(t *testing.T) {
			var talking sync.WaitGroup
			for range 4 {
				if c.cut {
					talking.Wait() // one by one, so that the node can read all
				}
				talking.Go(func() {
					conn, err := net.Dial("tcp", first.Addr())
					if err != nil {
						t.Error(err)
						return
					}
					defer conn.Close()
					_, err = conn.Write(c.says)
					if err == nil {
						_, err = io.CopyN(conn, zeroes{}, c.zeroes)
					}
					if err == nil {
						err = conn.(*net.TCPConn).CloseWrite()
					}
					if err == nil && c.cut {
						t.Errorf("the node took all of %d bytes", c.zeroes)
					}
					// It closes, and may send something encrypted before.
					answer, _ := io.ReadAll(conn)
					if len(answer) > 0 && answer[0] != encrypted {
						t.Errorf("the node answers %q", answer)
					}
				})
			}
			talking.Wait()
		})
	}

	nodes[1].SetRing(7) // the cluster still works
	first.await(t, "n2 with another ring", func(v *View) bool {
		m, _ := v.Member("n2")
		return m.Ring == 7
	})
	// On a busy machine a member may disappear for a moment. None is added.
	for _, v := range seen() {
		for _, id := range idsOf(v) {
			if id != "n1" && id != "n2" {
				t.Errorf("a node sees %v", idsOf(v))
			}
		}
	}
	awaitAll(t, nodes, "n1", "n2")
}

// zeroes is an endless reader of zero bytes.
type zeroes struct{}

func (zeroes) Read(p []byte) (int, error) { clear(p); return len(p), nil }
