package node_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	ganglion "github.com/ganglion-es/ganglion/client/go"
	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/domain/group"
	"github.com/ganglion-es/ganglion/gateway"
	"github.com/ganglion-es/ganglion/node"
	"github.com/ganglion-es/ganglion/test/harness"
)

// reported returns verdicts with a group that no client may join.
func reported() *aggregate.Catalog {
	c, _ := counted()
	group.Define(c, group.Group{
		Name: "reporter", Reads: group.Reads{passed{}}, Segments: 4,
		Access: aggregate.RuleFunc(func(aggregate.Caller, string) bool { return false }),
	})
	return c
}

// journal records the versions that handlers have handled, by stream.
type journal struct {
	mu      sync.Mutex
	handled map[string][]uint64
	failed  map[string]int
	again   int           // events that came again, which is legal until they are acknowledged
	changed chan struct{} // has room for one
	wrong   []string
}

func newJournal() *journal {
	return &journal{handled: map[string][]uint64{}, failed: map[string]int{}, changed: make(chan struct{}, 1)}
}

// handle fails the first two times for each level 1, and parks each level 2.
func (j *journal) handle(ctx context.Context, e ganglion.GroupEvent) error {
	var data struct{ Level int }
	if err := json.Unmarshal(e.Data, &data); err != nil {
		return err
	}
	defer func() {
		select {
		case j.changed <- struct{}{}:
		default:
		}
	}()
	j.mu.Lock()
	defer j.mu.Unlock()
	place := fmt.Sprint(e.Stream, " ", e.Version)
	if ctx.Err() != nil { // another member has the segment
		return context.Cause(ctx)
	}
	if e.Group != "reporter" || e.Log == "" || e.CommandKey(0) != fmt.Sprintf("reporter:%d:0", e.Position) {
		j.wrong = append(j.wrong, fmt.Sprintf("%+v", e))
	}
	list := j.handled[e.Stream]
	switch {
	case len(list) > 0 && e.Version <= list[len(list)-1]:
		j.again++
		return nil
	case data.Level == 1 && j.failed[place] < 2:
		j.failed[place]++
		return errors.New("not yet")
	case data.Level == 2:
		j.failed[place]++
		return ganglion.Park("never")
	}
	j.handled[e.Stream] = append(list, e.Version)
	return nil
}

// await waits until streams were handled up to some versions.
func (j *journal) await(t *testing.T, want map[string][]uint64) {
	t.Helper()
	late := time.After(time.Minute)
	for {
		j.mu.Lock()
		done, now := maps.EqualFunc(j.handled, want, slices.Equal), fmt.Sprint(j.handled)
		j.mu.Unlock()
		if done {
			return
		}
		select {
		case <-j.changed:
		case <-late:
			t.Fatalf("handled %s, want %v", now, want)
		}
	}
}

// TestNodesHandleEventsOfAGroupInProcess has three nodes whose handlers share a group
// that no client may join. It restarts them: what was acknowledged does not come
// again, and what is new does.
func TestNodesHandleEventsOfAGroupInProcess(t *testing.T) {
	t.Parallel()
	const nodes = 3
	dir := t.TempDir()
	j := newJournal()
	run := func(ctx context.Context, ready func(string)) error {
		return node.RunDev(ctx, node.Config{
			Catalog: reported(), Listen: "127.0.0.1:0", Store: dir, Ready: ready,
			Consumers: []node.Consumer{{Group: "reporter", Handle: j.handle, Concurrency: 4}},
		}, nodes)
	}
	passes := 0
	pass := func(url, stream string, level int) {
		t.Helper()
		passes++ // post may send it again
		body := fmt.Sprintf(`{"aggregate":%q,"command":"pass","key":"k%d","data":{"level":%d}}`, stream, passes, level)
		if code, text := post(t, url+"/v1/commands", body); code != http.StatusOK {
			t.Fatalf("a verdict: %d %s", code, text)
		}
	}
	want := map[string][]uint64{}
	urls, stop := harness.Serve(t, nodes, run)
	for i := range 24 {
		stream := fmt.Sprint("verdict/", i%6)
		level := 0
		if i%6 == 3 && i > 6 {
			level = 1 // fails at first, and its stream waits
		}
		if i == 10 {
			level = 2 // verdict/4 is parked from version 2 on
		}
		pass(urls[i%nodes], stream, level)
		if version := uint64(i/6 + 1); i%6 != 4 || version < 2 {
			want[stream] = append(want[stream], version)
		}
	}
	j.await(t, want)
	stop()

	j.again = 0 // no node runs
	urls, stop = harness.Serve(t, nodes, run)
	pass(urls[0], "verdict/0", 0)
	pass(urls[1], "verdict/4", 0) // behind the parked one
	want["verdict/0"] = append(want["verdict/0"], 5)
	j.await(t, want)
	stop()
	if len(j.wrong) > 0 || j.failed["verdict/4 2"] == 0 || j.failed["verdict/3 2"] != 2 || j.again > 0 {
		t.Errorf("failed %v, wrong %v, and %d events came again after the restart", j.failed, j.wrong, j.again)
	}
}

func TestConsumersAreChecked(t *testing.T) {
	t.Parallel()
	handle := newJournal().handle
	for want, cfg := range map[string]node.Config{
		`the catalog has no consumer group "mailer"`: {Consumers: []node.Consumer{{Group: "mailer", Handle: handle}}},
		`Handle of the group "reporter" is missing`:  {Consumers: []node.Consumer{{Group: "reporter"}}},
		`is given twice`:        {Consumers: []node.Consumer{{Group: "reporter", Handle: handle}, {Group: "reporter", Handle: handle}}},
		`need the gateway role`: {Consumers: []node.Consumer{{Group: "reporter", Handle: handle}}, Domain: true},
		`the Window 1001`:       {Consumers: []node.Consumer{{Group: "reporter", Handle: handle, Window: 1001}}},
	} {
		cfg.Name, cfg.Store, cfg.Catalog = "n1", t.TempDir(), reported()
		if err := cfg.Check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

// TestClientsOfTheProcessNeedNoToken has a gateway whose authenticator accepts no
// client. The program's own clients send, read and consume as the clients that they
// claim to be, under the rules of the catalog, until the node drains.
func TestClientsOfTheProcessNeedNoToken(t *testing.T) {
	t.Parallel()
	made := make(chan node.Clients, 1)
	urls, stop := harness.Serve(t, 1, func(ctx context.Context, ready func(string)) error {
		return node.RunDev(ctx, node.Config{
			Catalog: reported(), Listen: "127.0.0.1:0", Store: t.TempDir(), Ready: ready, Auth: closed{},
			Clients: func(c node.Clients) { made <- c },
		}, 1)
	})
	clients := <-made
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	stranger, err := ganglion.Connect(ctx, ganglion.Options{URLs: urls, ClientID: "judge"})
	if err != nil {
		t.Fatal(err)
	}
	if <-stranger.Done(); !errors.Is(stranger.Err(), ganglion.ErrUnauthenticated) {
		t.Errorf("a client on the network ends with %v", stranger.Err())
	}
	if _, err := clients.Connect(ctx, "~node", nil); err == nil {
		t.Error("a client with a reserved id was made")
	}
	judge, err := clients.Connect(ctx, "judge", nil)
	if err != nil {
		t.Fatal(err)
	}
	if r, err := judge.Aggregate("verdict", "1").Send(ctx, "pass", passAny{Level: 3}); err != nil || r.Version != 1 {
		t.Fatalf("a command of the process: %+v, %v", r, err)
	}
	j := newJournal()
	handled, end := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- judge.Handle(handled, "reporter", j.handle) }()
	j.await(t, map[string][]uint64{"verdict/1": {1}})
	end()
	<-done
	stop()
	<-judge.Done()
	if _, err := clients.Connect(ctx, "late", nil); err == nil {
		t.Error("a client was made after the node had stopped")
	}
}

// closed is an authenticator that accepts no client.
type closed struct{}

func (closed) Token(context.Context, string) (gateway.Identity, error) {
	return gateway.Identity{}, errors.New("no token is accepted")
}

func (closed) Trust(context.Context, string) (gateway.Identity, error) {
	return gateway.Identity{}, errors.New("no name is accepted")
}
