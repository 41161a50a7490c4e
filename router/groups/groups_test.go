package groups

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/groups"
	"github.com/ganglion-es/ganglion/eventstore/sqlite"
	"github.com/ganglion-es/ganglion/proto/command"
	"github.com/ganglion-es/ganglion/proto/group"
	"github.com/ganglion-es/ganglion/proto/peer"
	"github.com/ganglion-es/ganglion/router/cluster"
	"github.com/ganglion-es/ganglion/router/transport"
	"github.com/ganglion-es/ganglion/test/leaks"
)

func TestMain(m *testing.M) { leaks.Main(m) }

var (
	report = group.Report{Group: "g", Gateway: "n1", Boot: "b", Number: 3, Seen: 4, Sessions: []group.Session{{
		ID: "s", Client: "bob", Member: "m", Known: true, Closed: true,
		Tenures: []group.Tenure{{Segment: "7", Epoch: 5, First: 6, Last: 9, Released: true}},
	}}}
	answer = group.Answer{Age: time.Second, Digest: 4, Sessions: []group.Held{{
		Session: "s", Replaced: true, Holdings: []group.Holding{{
			Segment: "~box/a", Epoch: 5, Segments: 16, Position: 8, Log: "l", Window: 1, Revoking: true, Halt: group.Paused, Sequence: "box/a",
		}},
	}}}
)

// coordinator answers with answer.
type coordinator struct {
	err error

	mu  sync.Mutex
	got []group.Report
}

func (c *coordinator) Exchange(_ context.Context, r group.Report) (group.Answer, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.got = append(c.got, r)
	return answer, c.err
}

// server is a member of the cluster.
type server struct {
	transport.UnimplementedPeer
	coordinator *coordinator
}

func (s server) Groups(ctx context.Context, req *peer.GroupReport) (*peer.GroupAnswer, error) {
	return Serve(ctx, s.coordinator, req)
}

func serve(t *testing.T) (c *coordinator, addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c = new(coordinator)
	s := transport.NewServer(transport.ServerConfig{})
	transport.Register(s, server{coordinator: c})
	go func() { _ = s.Serve(l) }()
	t.Cleanup(s.Stop)
	return c, l.Addr().String()
}

func TestReportsReachTheOwnerAndThenTheNodeThatAnswered(t *testing.T) {
	pool := transport.NewPool(transport.PoolConfig{Logger: slog.New(slog.DiscardHandler), Silence: time.Second})
	t.Cleanup(pool.Close)
	first, firstAddr := serve(t)
	second, secondAddr := serve(t)
	local := new(coordinator)
	owner := "n2"
	e := NewExchanger(ExchangerConfig{
		Self: "n1", Local: local, Owner: func(string) string { return owner }, Peer: pool.Peer,
		View: func() *cluster.View {
			return &cluster.View{Members: []cluster.Member{{ID: "n2", PeerAddr: firstAddr}, {ID: "n3", PeerAddr: secondAddr}}}
		},
	})
	exchange := func(want error) {
		t.Helper()
		a, err := e.Exchange(t.Context(), report)
		if want == nil && (err != nil || a.Age < answer.Age) || want != nil && err == nil {
			t.Fatalf("answered %+v, %v", a, err)
		}
		if a.Age = answer.Age; want == nil && !reflect.DeepEqual(a, answer) {
			t.Errorf("answered %+v, want %+v", a, answer)
		}
	}
	exchange(nil)
	owner = "n3" // the node that answers is asked until it refuses
	exchange(nil)
	first.err = group.ErrNotCoordinator
	exchange(group.ErrNotCoordinator)
	exchange(nil)
	if len(first.got) != 3 || len(second.got) != 1 || !reflect.DeepEqual(second.got[0], report) {
		t.Errorf("the nodes received %+v and %+v", first.got, second.got)
	}
	second.err = group.ErrNotCoordinator
	owner = "n1"
	exchange(group.ErrNotCoordinator)
	exchange(nil)
	if len(local.got) != 1 {
		t.Errorf("this node received %+v", local.got)
	}
	local.err = group.ErrNotCoordinator
	owner = "n4"
	exchange(group.ErrNotCoordinator)
	exchange(errors.New("n4 has left"))
	owner = ""
	exchange(errors.New("there is none"))
}

// members returns the members of a gateway whose coordinator never answers, in a bubble
// of synctest.
func members(t *testing.T, allow bool) *Members {
	t.Helper()
	log, err := sqlite.Open(t.Context(), sqlite.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { log.Close() })
	m, err := NewMembers(Config{
		Self: "n1", Store: log.Groups(), Coordinator: &coordinator{err: errors.New("no")}, Logger: slog.New(slog.DiscardHandler),
		Groups: []group.Group{{Name: "g", Allows: func(string, map[string]any) bool { return allow }}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestJoinRefusesWithReason(t *testing.T) {
	m := members(t, false)
	join := func(who group.Member, want command.Code) {
		t.Helper()
		_, f := m.Join(t.Context(), who, func() {})
		if want == "" && f != nil || want != "" && (f == nil || f.Code != want) {
			t.Errorf("joining as %+v: %v, want %q", who, f, want)
		}
	}
	join(group.Member{Group: "none", Name: "m"}, command.CodeNotFound)
	join(group.Member{Group: "g", Name: "a/b"}, command.CodeBadRequest)
	join(group.Member{Group: "g", Name: "m"}, command.CodeForbidden)
	for i := range group.MaxMembers {
		join(group.Member{Group: "g", Name: fmt.Sprint(i), Internal: true}, "")
	}
	join(group.Member{Group: "g", Name: "m", Internal: true}, command.CodeBusy)
	if _, ok := m.Group("none"); ok {
		t.Error("a group that is not declared was found")
	}
	if g, ok := m.Group("g"); !ok || g.Name != "g" {
		t.Errorf("group: %+v, %v", g, ok)
	}
	if s := m.Stats(); len(s) != 1 || s[0].Members != group.MaxMembers || !s[0].Silent {
		t.Errorf("figures: %+v", s)
	}
}

func TestNewMembersReportsEveryMissingPart(t *testing.T) {
	_, err := NewMembers(Config{})
	for _, part := range []string{"Self", "Store", "Coordinator", "Logger"} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("%v does not name %s", err, part)
		}
	}
}

func TestMemberWithoutAnAnswerIsSilent(t *testing.T) {
	m := members(t, true)
	s, f := m.Join(t.Context(), group.Member{Group: "g", Name: "m"}, func() {})
	if f != nil {
		t.Fatal(f)
	}
	if h := s.Holdings(); !h.Silent || len(h.List) != 0 || h.Replaced {
		t.Errorf("holdings: %+v", h)
	}
	if _, err := s.Parked(t.Context(), "0", 1); !errors.Is(err, group.ErrRevoked) {
		t.Errorf("parked sequences of a segment that is not held: %v", err)
	}
	if err := s.Ack(t.Context(), "0", 1, 1); !errors.Is(err, group.ErrRevoked) {
		t.Errorf("an acknowledgement of a segment that is not held: %v", err)
	}
}

func TestAcknowledgementsThatWaitAreOneBatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var batches [][]groups.Ack
		release := make(chan struct{})
		a := newAcks(func(_ context.Context, batch []groups.Ack) ([]error, error) {
			batches = append(batches, batch)
			<-release
			errs := make([]error, len(batch))
			if len(batches) == 2 {
				errs[1] = groups.ErrRevoked
			}
			if len(batches) == 3 {
				return nil, eventstore.ErrUnavailable
			}
			return errs, nil
		})
		outcomes := make(chan error, 10)
		ack := func(segment string, p eventstore.Position) {
			go func() { outcomes <- a.ack(t.Context(), "g", segment, 7, p) }()
			synctest.Wait()
		}
		ack("0", 1)
		ack("0", 3)
		ack("1", 2)
		ack("0", 2)
		release <- struct{}{}
		synctest.Wait()
		if err := <-outcomes; err != nil || len(outcomes) != 0 {
			t.Errorf("the first: %v", err)
		}
		time.Sleep(ackEvery) // the second batch begins
		synctest.Wait()
		ack("2", 1) // joins the third batch
		release <- struct{}{}
		synctest.Wait()
		var revoked int
		for range 3 {
			if err := <-outcomes; errors.Is(err, groups.ErrRevoked) {
				revoked++
			} else if err != nil {
				t.Error(err)
			}
		}
		release <- struct{}{}
		if err := <-outcomes; !errors.Is(err, eventstore.ErrUnavailable) || revoked != 1 {
			t.Errorf("the last: %v; %d were revoked", err, revoked)
		}
		synctest.Wait()
		want := []groups.Ack{{Group: "g", Segment: "0", Epoch: 7, Position: 3}, {Group: "g", Segment: "1", Epoch: 7, Position: 2}}
		if len(batches) != 3 || !slices.Equal(batches[1], want) || len(batches[0]) != 1 {
			t.Errorf("the batches are %+v", batches)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := a.ack(ctx, "g", "0", 7, 9); !errors.Is(err, context.Canceled) {
			t.Errorf("a caller that gave up: %v", err)
		}
		close(release)
		time.Sleep(2 * ackEvery)
		synctest.Wait()
	})
}

// TestAcknowledgementsAreWrittenAtMostTenTimesASecond acknowledges one event after the
// other for a second.
func TestAcknowledgementsAreWrittenAtMostTenTimesASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var newest eventstore.Position
		batches := 0
		a := newAcks(func(_ context.Context, batch []groups.Ack) ([]error, error) {
			batches, newest = batches+1, batch[0].Position
			return make([]error, len(batch)), nil
		})
		const acked = 1000
		var waiting sync.WaitGroup
		for p := range eventstore.Position(acked) {
			waiting.Go(func() {
				if err := a.ack(t.Context(), "g", "0", 7, p+1); err != nil {
					t.Error(err)
				}
			})
			if p == 0 {
				synctest.Wait()
				if batches != 1 {
					t.Error("the first one was not written immediately")
				}
			}
			time.Sleep(time.Millisecond)
		}
		waiting.Wait()
		if batches > 11 || newest != acked {
			t.Errorf("%d batches were written in a second, the last up to %d", batches, newest)
		}
		time.Sleep(2 * ackEvery)
		synctest.Wait()
	})
}
