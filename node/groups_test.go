package node

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/domain/aggregate"
	domaingroup "github.com/ganglion-es/ganglion/domain/group"
	"github.com/ganglion-es/ganglion/proto/group"
)

type (
	pile  struct{}
	stone struct{}
	lay   struct{}
)

func (lay) Decide(aggregate.Call, pile) (aggregate.Decision[pile], error) {
	return aggregate.Emit[pile](stone{})
}
func (stone) Apply(*pile) {}

// share returns how many segments the members may be sent. The error says that some
// segment has two of them, or none.
func share(members []group.Membership, segments int) (counts []int, err error) {
	sent := map[string]bool{}
	for _, m := range members {
		h := m.Holdings()
		n := 0
		for _, one := range h.List {
			if one.Revoking {
				m.Release(one.Segment, one.Epoch)
			} else if !h.Silent {
				n++
				if sent[one.Segment] {
					err = errors.Join(err, fmt.Errorf("segment %s is held twice", one.Segment))
				}
				sent[one.Segment] = true
			}
		}
		counts = append(counts, n)
	}
	if len(sent) != segments {
		err = errors.Join(err, fmt.Errorf("%d of %d segments are held: %v", len(sent), segments, counts))
	}
	return counts, err
}

// A real cluster of three nodes: members on each gateway share a group, and its
// coordinator leaves.
func TestMembersOnThreeGatewaysShareAGroupAndItsCoordinatorLeaves(t *testing.T) {
	t.Parallel()
	c := new(aggregate.Catalog)
	aggregate.Define(c, aggregate.Type[pile]{
		Name: "pile", Access: aggregate.Access{Send: aggregate.Anyone, Read: aggregate.Anyone},
		Commands: aggregate.Commands[pile]{"lay": lay{}}, Events: aggregate.Events[pile]{"stone": stone{}},
	})
	domaingroup.Define(c, domaingroup.Group{Name: "masons", Reads: domaingroup.Reads{"pile"}, Access: aggregate.Anyone})
	nodes, err := makeDevNodes(t.Context(), Config{Catalog: c, Listen: "127.0.0.1:0", Store: t.TempDir()}, "127.0.0.1", 0, 3)
	if err != nil {
		t.Fatal(err)
	}
	stop := map[*node]func(){}
	for _, n := range nodes {
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- n.run(ctx) }()
		stop[n] = func() {
			cancel()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
		defer func() { stop[n]() }()
	}
	changed := make(chan struct{}, 1)
	until := func(what string, condition func() error) {
		t.Helper()
		late := time.After(time.Minute)
		for err := condition(); err != nil; err = condition() {
			select {
			case <-changed:
			case <-time.After(20 * time.Millisecond): // figures change without a notice
			case <-late:
				t.Fatalf("%s: %v", what, err)
			}
		}
	}
	var members []group.Membership
	for i, n := range nodes {
		m, f := n.consumers.members.Join(t.Context(), group.Member{Group: "masons", Client: "bob", Name: fmt.Sprint("m", i)}, func() {
			select {
			case changed <- struct{}{}:
			default:
			}
		})
		if f != nil {
			t.Fatal(f)
		}
		members = append(members, m)
	}
	until("three members share 16 segments", func() error {
		counts, err := share(members, 16)
		for _, n := range counts {
			if n < 5 {
				return fmt.Errorf("shared as %v, %w", counts, err)
			}
		}
		return err
	})
	leads := func() (found int) {
		found = -1
		for i, n := range nodes {
			if list, _ := n.consumers.coordinators.Stats(); list[0].Leads {
				found = i
			}
		}
		return found
	}
	var first int
	until("the coordinator's figures", func() (err error) {
		if first = leads(); first < 0 {
			return errors.New("no node coordinates the group")
		}
		scraped := httptest.NewRecorder()
		nodes[first].metrics().ServeHTTP(scraped, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", nil))
		for _, want := range []string{
			`ganglion_group_coordinated{group="masons"} 1`, `ganglion_group_members{group="masons"} 3`, `ganglion_group_lag_events{group="masons"} 0`,
			`ganglion_group_vacant_segments{group="masons"} 0`, `ganglion_group_stopped{group="masons",reason="log"} 0`,
			`ganglion_group_gateway_members{group="masons"} 1`, `ganglion_group_silent{group="masons"} 0`, `ganglion_group_takeovers_total{cause="failed",group="masons"} 0`,
		} {
			if !strings.Contains(scraped.Body.String(), want+"\n") {
				err = errors.Join(err, fmt.Errorf("/metrics has no %q", want))
			}
		}
		return err
	})
	members[first].Close()
	stop[nodes[first]]()
	stop[nodes[first]] = func() {}
	members = append(members[:first], members[first+1:]...)
	nodes = append(nodes[:first:first], nodes[first+1:]...)
	until("two members share what the third one had", func() error {
		counts, err := share(members, 16)
		if counts[0] != 8 {
			return fmt.Errorf("shared as %v, %w", counts, err)
		}
		return err
	})
	until("a coordinator", func() error {
		if leads() < 0 {
			return errors.New("no node coordinates the group")
		}
		return nil
	})
}
