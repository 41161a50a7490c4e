package gateway_test

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/gateway"
	"github.com/ganglion-es/ganglion/gateway/internal/sockettest"
	"github.com/ganglion-es/ganglion/proto/command"
	"github.com/ganglion-es/ganglion/proto/frame"
	"github.com/ganglion-es/ganglion/proto/group"
)

// consume joins the group as a member, with a window.
func (n *node) consume(member string, window int) *client {
	n.w.t.Helper()
	c := n.join("ada")
	c.sendf(`{"op":"consume","id":"g","group":"mailer","member":%q,"window":%d}`, member, window)
	if f := want[frame.Consuming](c); f.ID != "g" || f.Window != window || f.AckWithinMS == 0 {
		c.t.Fatalf("got %s", f.Append(nil))
	}
	return c
}

func (c *client) ack(segment string, epoch uint64, p eventstore.Position) {
	c.t.Helper()
	c.send(string(frame.Ack{Sub: "g", Segment: segment, Epoch: epoch, Cursor: fmt.Sprint(p)}.Append(nil)))
}

// wantAssigned reads the beginning of segments in any order.
func (c *client) wantAssigned(epoch uint64, segments ...string) {
	c.t.Helper()
	var got []string
	for range segments {
		f := want[frame.Assigned](c)
		if f.Sub != "g" || f.Epoch != epoch || f.Log != "log-1" {
			c.t.Fatalf("got %s, want the epoch %d", f.Append(nil), epoch)
		}
		got = append(got, f.Segment)
	}
	slices.Sort(got)
	if !slices.Equal(got, segments) {
		c.t.Fatalf("got the segments %q, want %q", got, segments)
	}
}

// wantPositions reads events of a segment.
func (c *client) wantPositions(segment string, positions ...eventstore.Position) {
	c.t.Helper()
	for _, p := range positions {
		if f := want[frame.Event](c); f.Sub != "g" || f.Segment != segment || f.Position != p {
			c.t.Fatalf("got %s, want the event %d of segment %s", f.Append(nil), p, segment)
		}
	}
}

// wantNothing checks that no frame arrives before the answer to a ping. A ping is
// answered in the next turn of the shard, so what the frames before it caused has been
// sent by then.
func (c *client) wantNothing() {
	c.t.Helper()
	for range 3 {
		c.send(`{"op":"ping","id":"p"}`)
		want[frame.Pong](c)
	}
}

// TestMembersShareTheEventsOfAGroup has members on two gateways with small windows of
// events, of which one begins with the log and one is live.
//
// protocol: client consume, client ack, gateway consuming, gateway assigned, gateway event
// protocol: rule Delivery is at least once
func TestMembersShareTheEventsOfAGroup(t *testing.T) {
	t.Parallel()
	g := newMailer(4)
	w := newWorld(t)
	small := func(c *gateway.Config) { c.WindowEvents, c.PageCommits = 50, 7 }
	gateways := []*node{w.node(consuming(g), small), w.node(consuming(g), small)}
	streams := []string{"auction/1", "auction/2", "counter/1", "counter/2", "counter/3", "client/1"}
	for range 20 {
		for _, s := range streams {
			w.add(s, 2)
		}
	}
	for _, n := range gateways {
		n.catchUp()
	}
	members := map[string]*client{"m1": gateways[0].consume("m1", 3), "m2": gateways[1].consume("m2", 100)}
	epochs := map[string]uint64{"m1": g.give("m1", "0", "2"), "m2": g.give("m2", "1", "3")}
	members["m1"].wantAssigned(epochs["m1"], "0", "2")
	members["m2"].wantAssigned(epochs["m2"], "1", "3")
	for range 20 {
		for _, s := range streams {
			w.add(s, 1)
		}
	}
	versions := map[eventstore.StreamID]eventstore.Version{}
	for name, count := range map[string]int{"m1": 0, "m2": 0} {
		for _, s := range streams[:5] {
			id, _ := eventstore.ParseStreamID(s)
			if isFirst := group.SegmentOf(id, 4)%2 == 0; isFirst == (name == "m1") {
				count += 60
			}
		}
		last := map[string]eventstore.Position{}
		for range count {
			f := want[frame.Event](members[name])
			if number := fmt.Sprint(group.SegmentOf(f.Stream, 4)); number != f.Segment || f.Position <= last[f.Segment] {
				t.Fatalf("%s got %s after %d; the stream is in segment %s", name, f.Append(nil), last[f.Segment], number)
			}
			if f.Version != versions[f.Stream]+1 {
				t.Fatalf("%s got %s after version %d", name, f.Append(nil), versions[f.Stream])
			}
			versions[f.Stream], last[f.Segment] = f.Version, f.Position
			members[name].ack(f.Segment, epochs[name], f.Position)
		}
		for segment, p := range last {
			waitFor(t, func() bool { return g.at(segment) >= p })
		}
		members[name].wantNothing()
	}
	if gateways[0].Stats().Consumers != 1 {
		t.Errorf("the gateway counts %d members", gateways[0].Stats().Consumers)
	}
}

// protocol: rule window bounds what a member holds.
func TestMemberThatNeverAcknowledgesHoldsOneWindow(t *testing.T) {
	t.Parallel()
	g := newMailer(1)
	w := newWorld(t)
	n := w.node(consuming(g))
	c := n.consume("m", 2)
	epoch := g.give("m", "0")
	c.wantAssigned(epoch, "0")
	w.add("auction/1", 5)
	c.wantPositions("0", 1, 2)
	c.wantNothing()
	if got := g.look("0").pending; got[0] != 1 {
		t.Errorf("the coordinator knows of %v", got)
	}
	c.ack("0", epoch, 1)
	c.wantPositions("0", 3)
	g.change("0", func(t *tenure) { t.Window = 1 })
	c.ack("0", epoch, 2)
	c.wantNothing()
	c.ack("0", epoch, 3)
	c.wantPositions("0", 4)
	c.wantNothing()
	c.ack("0", epoch, 4)
	c.wantPositions("0", 5)
	waitFor(t, func() bool { return g.at("0") == 4 && g.look("0").pending == [2]eventstore.Position{5, 5} })
}

func TestIdleSegmentMovesAlong(t *testing.T) {
	t.Parallel()
	g := newMailer(1)
	w := newWorld(t)
	n := w.node(consuming(g))
	c := n.consume("m", 2)
	epoch := g.give("m", "0")
	c.wantAssigned(epoch, "0")
	w.add("client/1", 7) // of a type that the group does not read
	waitFor(t, func() bool { return g.at("0") == 7 })
	c.ack("0", epoch, 0) // the last that the client knows
	c.wantNothing()
}

// protocol: gateway revoking, gateway revoked
// protocol: rule Segments move when members join.
func TestRevokingSegmentIsReleasedOnceAllIsAcknowledged(t *testing.T) {
	t.Parallel()
	g := newMailer(2)
	w := newWorld(t)
	n := w.node(consuming(g))
	c := n.consume("m", 10)
	s := segmentOf("auction/1", 2)
	epoch := g.give("m", "0", "1")
	c.wantAssigned(epoch, "0", "1")
	w.add("auction/1", 2)
	c.wantPositions(s, 1, 2)
	g.change(s, func(t *tenure) { t.Revoking = true })
	if f := want[frame.Revoking](c); f.Sub != "g" || f.Segment != s || f.Epoch != epoch {
		t.Errorf("got %s", f.Append(nil))
	}
	w.add("auction/1", 1)
	n.catchUp()
	c.ack(s, epoch, 1)
	c.wantNothing()
	c.ack(s, epoch, 2)
	if f := want[frame.Revoked](c); f.Sub != "g" || f.Segment != s || f.Epoch != epoch {
		t.Errorf("got %s", f.Append(nil))
	}
	if at := g.at(s); at != 2 {
		t.Errorf("released at %d, want 2", at)
	}
	next := g.give("m", s)
	c.wantAssigned(next, s)
	c.wantPositions(s, 3)
}

func segmentOf(stream string, segments int) string {
	id, _ := eventstore.ParseStreamID(stream)
	return strconv.Itoa(group.SegmentOf(id, segments))
}

// TestNextMemberGetsWhatWasNotAcknowledged ends a member in the middle of its window.
// The acknowledgements of the segment's earlier epoch change nothing.
func TestNextMemberGetsWhatWasNotAcknowledged(t *testing.T) {
	t.Parallel()
	g := newMailer(1)
	w := newWorld(t)
	gateways := []*node{w.node(consuming(g)), w.node(consuming(g))}
	first, second := gateways[0].consume("m1", 10), gateways[1].consume("m2", 10)
	old := g.give("m1", "0")
	first.wantAssigned(old, "0")
	w.add("auction/1", 4)
	first.wantPositions("0", 1, 2, 3, 4)
	first.ack("0", old, 2)
	waitFor(t, func() bool { return g.at("0") == 2 })
	second.wantNothing()

	epoch := g.give("m2", "0") // the coordinator takes it
	if f := want[frame.Revoked](first); f.Segment != "0" || f.Epoch != old {
		t.Errorf("got %s", f.Append(nil))
	}
	if f := want[frame.Assigned](second); f.Cursor != "2" || f.Epoch != epoch {
		t.Errorf("got %s", f.Append(nil))
	}
	second.wantPositions("0", 3, 4)
	first.ack("0", old, 4)
	if f := want[frame.Revoked](first); f.Segment != "0" || f.Epoch != old {
		t.Errorf("got %s", f.Append(nil))
	}
	if at := g.at("0"); at != 2 {
		t.Errorf("an old epoch moved the segment to %d", at)
	}
	_ = second.conn.CloseNow() // dies with events in its hands
	waitFor(t, func() bool { return slices.Equal(g.present(), []string{"m1"}) })
	epoch = g.give("m1", "0")
	first.wantAssigned(epoch, "0")
	first.wantPositions("0", 3, 4)
}

// protocol: rule A newer session takes the place of the older one.
// protocol: gateway unsubscribed, error replaced
func TestNewerSessionReplacesAMember(t *testing.T) {
	t.Parallel()
	g := newMailer(1)
	w := newWorld(t)
	n := w.node(consuming(g))
	older := n.consume("m", 10)
	older.wantAssigned(g.give("m", "0"), "0")
	newer := n.consume("m", 10)
	if f := want[frame.Unsubscribed](older); f.Sub != "g" || f.Code != command.CodeReplaced || f.Message == "" {
		t.Errorf("got %s", f.Append(nil))
	}
	newer.wantAssigned(g.give("m", "0"), "0")
	w.add("auction/1", 1)
	newer.wantPositions("0", 1)
	older.ack("0", 1, 1)
	want[frame.Revoked](older) // the session may have sent it before
	older.wantNothing()
	waitFor(t, func() bool { return n.Stats().Consumers == 1 })
}

// protocol: error forbidden, error not_found
func TestInvalidFramesOfAConsumerSayWhatToDo(t *testing.T) {
	t.Parallel()
	g := newMailer(2)
	w := newWorld(t)
	n := w.node(consuming(g))
	anonymous := n.dial()
	anonymous.send(`{"op":"ack","sub":"g","segment":"0","epoch":1,"cursor":"1"}`)
	anonymous.wantFault("", command.CodeBadRequest)
	anonymous.send(`{"op":"hello","id":"h"}` + "\n" + `{"op":"consume","id":"g","group":"mailer","member":"m"}`)
	want[frame.Welcome](anonymous)
	anonymous.wantFault("g", command.CodeForbidden)

	c := n.consume("m", 2)
	s := segmentOf("auction/1", 2)
	w.add("auction/1", 1)
	g.set(func(g *mailer) { g.stored[s] = 1 })
	epoch := g.give("m", s)
	c.wantAssigned(epoch, s)
	w.add("auction/1", 3)
	c.wantPositions(s, 2, 3)
	for _, bad := range []struct {
		frame, id, field string
		code             command.Code
		says             string
	}{
		{`{"op":"consume","id":"x","group":"unicorns","member":"m"}`, "x", "", command.CodeNotFound, "the groups are mailer"},
		{`{"op":"consume","id":"x","group":"mailer","member":"a/b"}`, "x", "member", command.CodeBadRequest, "/"},
		{`{"op":"consume","id":"g","group":"mailer","member":"n"}`, "", "id", command.CodeBadRequest, "in use"},
		{`{"op":"ack","sub":"h","segment":"SEG","epoch":EPOCH,"cursor":"2"}`, "", "sub", command.CodeBadRequest, "give the id of a consume"},
		{`{"op":"ack","sub":"g","segment":"SEG","epoch":99,"cursor":"2"}`, "", "epoch", command.CodeBadRequest, "repeat the epoch"},
		{`{"op":"ack","sub":"g","segment":"zero","epoch":EPOCH,"cursor":"2"}`, "", "segment", command.CodeBadRequest, "repeat the segment"},
		{`{"op":"ack","sub":"g","segment":"SEG","epoch":EPOCH,"cursor":"4"}`, "", "cursor", command.CodeBadRequest, "was not sent"},
		{`{"op":"ack","sub":"g","segment":"SEG","epoch":EPOCH,"cursor":"0"}`, "", "cursor", command.CodeBadRequest, "before the cursor of assigned"},
		{`{"op":"ack","sub":"g","segment":"SEG","epoch":EPOCH,"cursor":"02"}`, "", "cursor", command.CodeBadRequest, "malformed"},
		{`{"op":"park","id":"x","sub":"h","segment":"SEG","epoch":EPOCH,"position":2,"reason":"r"}`, "x", "sub", command.CodeBadRequest, "give the id of a consume"},
		{`{"op":"park","id":"x","sub":"g","segment":"SEG","epoch":EPOCH,"position":4,"reason":"r"}`, "x", "position", command.CodeBadRequest, "was sent and is not acknowledged"},
		{`{"op":"unsubscribe","id":"x","sub":"h"}`, "x", "sub", command.CodeBadRequest, "there is no subscription"},
	} {
		c.send(strings.NewReplacer("SEG", s, "EPOCH", fmt.Sprint(epoch)).Replace(bad.frame))
		if f := c.wantFault(bad.id, bad.code); f.Field != bad.field || !strings.Contains(f.Message, bad.says) {
			t.Errorf("%s: got %s", bad.frame, f.Append(nil))
		}
	}
	c.ack(s, epoch, 1) // the cursor of assigned: "still working"
	c.ack(s, epoch, 3)
	c.wantPositions(s, 4)
	if status, _ := n.do("GET", "/v1/schema", "ada", ""); status != 200 {
		t.Error("the gateway is not well")
	}
	panics := n.dial("Authorization", `Bearer dev:ada {"panic":1}`)
	panics.send(`{"op":"hello","id":"h"}` + "\n" + `{"op":"consume","id":"g","group":"mailer","member":"p"}`)
	want[frame.Welcome](panics)
	panics.wantFault("g", command.CodeForbidden)
	none := w.node().join("ada")
	none.send(`{"op":"consume","id":"g","group":"mailer","member":"m"}`)
	none.wantFault("g", command.CodeUnsupported)
}

// protocol: client park
// protocol: rule park sets one stream aside.
func TestParkedSequenceWaitsAndOthersContinue(t *testing.T) {
	t.Parallel()
	g := newMailer(1)
	w := newWorld(t)
	n := w.node(consuming(g))
	c := n.consume("m", 4)
	epoch := g.give("m", "0")
	c.wantAssigned(epoch, "0")
	w.add("auction/1", 1) // 1
	w.add("auction/2", 1) // 2
	w.add("auction/1", 1) // 3
	w.add("auction/2", 1) // 4
	w.add("auction/1", 1) // 5
	w.add("auction/2", 1) // 6
	c.wantPositions("0", 1, 2, 3, 4)
	c.send(string(frame.Park{ID: "k", Sub: "g", Segment: "0", Epoch: epoch, Position: 1, Reason: "bad address"}.Append(nil)))
	var result bool
	for _, p := range []eventstore.Position{0, 6} { // in either order
		switch f := c.read().(type) {
		case frame.Result:
			result = f.ID == "k" && f.Position == 1
		case frame.Event:
			if f.Position != 6 {
				t.Errorf("got %s", f.Append(nil))
			}
		default:
			t.Errorf("got %s for %d", f.Append(nil), p)
		}
	}
	if !result {
		t.Error("park was not answered")
	}
	waitFor(t, func() bool { return g.look("0").pending[0] == 2 })
	c.send(string(frame.Park{ID: "k", Sub: "g", Segment: "0", Epoch: epoch, Position: 3, Reason: "again"}.Append(nil)))
	c.wantFault("k", command.CodeBadRequest)
	c.ack("0", epoch, 3) // of the parked stream, and sent
	c.ack("0", epoch, 6)
	waitFor(t, func() bool { return g.at("0") == 6 })

	// Another epoch leaves it out, too.
	epoch = g.give("m", "0")
	want[frame.Revoked](c)
	c.wantAssigned(epoch, "0")
	w.add("auction/1", 1) // 7
	w.add("auction/2", 1) // 8
	c.wantPositions("0", 8)

	// An operator retries it.
	retry := g.give("m", "~auction/1")
	if f := want[frame.Assigned](c); f.Segment != "~auction/1" || f.Cursor != "0" {
		t.Errorf("got %s", f.Append(nil))
	}
	c.wantPositions("~auction/1", 1, 3, 5, 7)
	c.ack("~auction/1", retry, 5)
	c.wantNothing()
	c.ack("~auction/1", retry, 7)
	for rejoined := false; !rejoined; { // segment 0 may be past 7: it moves along
		f := want[frame.Revoked](c)
		rejoined = f.Segment == "~auction/1" && f.Epoch == retry
	}
	w.add("auction/1", 1) // 9
	c.wantPositions("0", 9)
}

func TestParkIsRefusedWhileItCannotBeStored(t *testing.T) {
	t.Parallel()
	g := newMailer(1)
	w := newWorld(t)
	n := w.node(consuming(g))
	c := n.consume("m", 4)
	epoch := g.give("m", "0")
	c.wantAssigned(epoch, "0")
	w.add("auction/1", 1)
	c.wantPositions("0", 1)
	park := string(frame.Park{ID: "k", Sub: "g", Segment: "0", Epoch: epoch, Position: 1, Reason: "bad address"}.Append(nil))
	g.set(func(g *mailer) { g.err = eventstore.ErrUnavailable })
	c.send(park)
	c.wantFault("k", command.CodeUnavailable)
	g.set(func(g *mailer) { g.err, g.halt = nil, group.ParkedFull })
	c.send(park)
	if f := c.wantFault("k", command.CodeUnavailable); !strings.Contains(f.Message, "1000 sequences") {
		t.Errorf("got %s", f.Append(nil))
	}
	g.set(func(g *mailer) { g.halt = "" })
	g.give("m2", "0")
	want[frame.Revoked](c)
	c.send(park)
	want[frame.Revoked](c)
	c.wantFault("k", command.CodeConflict)
}

func TestSilentCoordinatorAndHaltedGroupSendNothingNew(t *testing.T) {
	t.Parallel()
	for name, stop := range map[string]func(g *mailer, on bool){
		"silent": func(g *mailer, on bool) { g.silent = on },
		"paused": func(g *mailer, on bool) {
			if g.halt = ""; on {
				g.halt = group.Paused
			}
		},
	} {
		g := newMailer(1)
		w := newWorld(t)
		n := w.node(consuming(g))
		c := n.consume("m", 10)
		epoch := g.give("m", "0")
		c.wantAssigned(epoch, "0")
		w.add("auction/1", 1)
		c.wantPositions("0", 1)
		g.set(func(g *mailer) { stop(g, true) })
		w.add("auction/1", 1)
		n.catchUp()
		c.ack("0", epoch, 1) // what was sent can be acknowledged
		waitFor(t, func() bool { return g.at("0") == 1 })
		c.wantNothing()
		g.set(func(g *mailer) { stop(g, false) })
		c.wantPositions("0", 2)
		if t.Failed() {
			t.Fatal(name)
		}
	}
}

// TestAcknowledgementsWaitForTheDatabase holds a member back while nothing can be
// stored, so that no more than a window is delivered again.
func TestAcknowledgementsWaitForTheDatabase(t *testing.T) {
	t.Parallel()
	g := newMailer(1)
	w := newWorld(t)
	n := w.node(consuming(g))
	c := n.consume("m", 1)
	epoch := g.give("m", "0")
	c.wantAssigned(epoch, "0")
	const stored = 2000
	w.append(eventstore.StreamID{Type: "auction", ID: "1"}, slices.Repeat([]eventstore.Event{{Type: "added", Form: 1, Data: []byte(`{}`)}}, stored)...)
	c.wantPositions("0", 1)
	g.set(func(g *mailer) { g.err = eventstore.ErrUnavailable })
	at := eventstore.Position(1)
	c.ack("0", epoch, at)
	for quiet := 0; quiet < 3 && at < stored; { // a few more, until the gateway has noticed; more on a busy machine
		c.send(`{"op":"ping","id":"p"}`)
		if f, ok := c.read().(frame.Event); ok {
			at, quiet = f.Position, 0
			c.ack("0", epoch, at)
			want[frame.Pong](c)
			continue
		}
		quiet++
	}
	if at > stored/2 {
		t.Errorf("%d events were sent while nothing could be stored", at)
	}
	g.set(func(g *mailer) { g.err = nil })
	c.wantPositions("0", at+1)
	waitFor(t, func() bool { return g.at("0") == at })
}

// protocol: rule A silent member loses its segments.
func TestSilentMemberIsUnsubscribed(t *testing.T) {
	t.Parallel()
	g := newMailer(1)
	g.within = 50 * time.Millisecond
	w := newWorld(t)
	n := w.node(consuming(g))
	c := n.consume("m", 2)
	c.wantAssigned(g.give("m", "0"), "0")
	added := eventstore.Event{Type: "added", Form: 1, Data: []byte(`{}`)}
	w.append(eventstore.StreamID{Type: "auction", ID: "1"}, added, added, added) // together: a later one may be too late
	c.wantPositions("0", 1, 2)
	if f := want[frame.Unsubscribed](c); f.Sub != "g" || f.Code != command.CodeTimeout || !strings.Contains(f.Message, "event 1 of segment 0") {
		t.Errorf("got %s", f.Append(nil))
	}
	waitFor(t, func() bool { return len(g.present()) == 0 })
	c.ack("0", 1, 2) // was on its way
	want[frame.Revoked](c)
	c.send(`{"op":"consume","id":"g","group":"mailer","member":"m"}`) // the client may come again
	want[frame.Consuming](c)
}

func TestRenewedTokenEndsAMembership(t *testing.T) {
	t.Parallel()
	g := newMailer(1)
	w := newWorld(t)
	n := w.node(consuming(g))
	c := n.consume("m", 2)
	c.wantAssigned(g.give("m", "0"), "0")
	c.send(`{"op":"auth","id":"1","token":"dev:ada {\"role\":\"any\"}"}`)
	want[frame.Result](c)
	c.send(`{"op":"auth","id":"2","token":"dev:ada {\"panic\":true}"}`)
	if f := want[frame.Unsubscribed](c); f.Sub != "g" || f.Code != command.CodeForbidden {
		t.Errorf("got %s", f.Append(nil))
	}
	want[frame.Result](c)
	waitFor(t, func() bool { return len(g.present()) == 0 && n.Stats().Consumers == 0 })
}

func TestEndOfASessionEndsItsMemberships(t *testing.T) {
	t.Parallel()
	g := newMailer(1)
	w := newWorld(t)
	n := w.node(consuming(g))
	for name, end := range map[string]func(*client){
		"unsubscribe":           func(c *client) { c.send(`{"op":"unsubscribe","id":"u","sub":"g"}`); want[frame.Unsubscribed](c) },
		"the client leaves":     func(c *client) { _ = c.conn.CloseNow() },
		"an operator closes it": func(*client) { n.KickClient("ada") },
		"the log went back":     func(*client) { n.Begin(0) },
		"a drain":               func(*client) { n.Move(t.Context(), 1) },
	} {
		c := n.consume("m", 2)
		end(c)
		waitFor(t, func() bool { return len(g.present()) == 0 && n.Stats().Consumers == 0 })
		_ = c.conn.CloseNow()
		waitFor(t, func() bool { return n.Stats().Sessions == 0 })
		if t.Failed() {
			t.Fatal(name)
		}
	}
}

// An event counts as tried if its member crashed or hung with it, and not if the member
// or the gateway has stopped in order.
func TestEndInOrderIsNoFailedTry(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		end   func(*node, *client)
		tries int
	}{
		"unsubscribe": {func(_ *node, c *client) {
			c.send(`{"op":"unsubscribe","id":"u","sub":"g"}`)
			want[frame.Unsubscribed](c)
		}, 0},
		"a drain": {func(n *node, _ *client) { n.Move(t.Context(), 1) }, 0},
		"a crash": {func(_ *node, c *client) { _ = c.conn.CloseNow() }, 1},
	} {
		g := newMailer(1)
		w := newWorld(t)
		n := w.node(consuming(g))
		c := n.consume("m", 2)
		epoch := g.give("m", "0")
		c.wantAssigned(epoch, "0")
		w.add("auction/1", 1)
		c.wantPositions("0", 1)
		test.end(n, c)
		waitFor(t, func() bool { return len(g.present()) == 0 })
		g.mu.Lock()
		if g.tries != test.tries {
			t.Errorf("%s: %d failed tries, want %d", name, g.tries, test.tries)
		}
		g.mu.Unlock()
	}
}

// TestAcknowledgementsBeforeTheEndAreStored closes the connection right behind an ack.
func TestAcknowledgementsBeforeTheEndAreStored(t *testing.T) {
	t.Parallel()
	g := newMailer(1)
	w := newWorld(t)
	n := w.node(consuming(g))
	c := n.consume("m", 2)
	epoch := g.give("m", "0")
	c.wantAssigned(epoch, "0")
	w.add("auction/1", 1)
	c.wantPositions("0", 1)
	c.ack("0", epoch, 1)
	_ = c.conn.Close(1000, "")
	waitFor(t, func() bool { return len(g.present()) == 0 })
	if at := g.at("0"); at != 1 {
		t.Errorf("stored %d, want 1", at)
	}
}

func TestUnshownEventEndsAMembership(t *testing.T) {
	t.Parallel()
	g := newMailer(1)
	w := newWorld(t)
	n := w.node(consuming(g))
	c := n.consume("m", 10)
	c.wantAssigned(g.give("m", "0"), "0")
	w.append(eventstore.StreamID{Type: "client", ID: "1"}, eventstore.Event{Type: "added", Form: 2, Data: []byte(`{}`)}) // the group does not read it
	w.add("auction/1", 1)
	c.wantPositions("0", 2)
	w.append(eventstore.StreamID{Type: "auction", ID: "1"}, eventstore.Event{Type: "added", Form: 2, Data: []byte(`{}`)})
	if f := want[frame.Unsubscribed](c); f.Sub != "g" || f.Code != command.CodeUnavailable {
		t.Errorf("got %s", f.Append(nil))
	}
}

func TestSessionIsInAtMost16Groups(t *testing.T) {
	t.Parallel()
	n := newWorld(t).node(consuming(newMailer(1)))
	c := n.join("ada")
	for i := range 16 {
		c.sendf(`{"op":"consume","id":"%d","group":"mailer","member":"m%d"}`, i, i)
		want[frame.Consuming](c)
	}
	c.send(`{"op":"consume","id":"16","group":"mailer","member":"m16"}`)
	if f := c.wantFault("16", command.CodeRateLimited); f.Retry != command.RetryNo {
		t.Errorf("got %s", f.Append(nil))
	}
	n.wantLimited("subscriptions", 1)
}

// TestSlowConsumerCostsNoQueue does not read from a socket while more events are stored
// than fit. The gateway holds one message for it, and others are served. When it reads
// again, it gets every event in order.
func TestSlowConsumerCostsNoQueue(t *testing.T) {
	t.Parallel()
	g := newMailer(2)
	w := newWorld(t)
	n := w.node(consuming(g), func(c *gateway.Config) { c.SendBuffer, c.WindowEvents = 4<<10, 100 })
	slow, quick := n.openRaw(), n.consume("quick", 1000)
	if err := slow.conn.SetReadBuffer(64 << 10); err != nil {
		t.Fatal(err)
	}
	slow.send(sockettest.Text(`{"op":"hello","id":"h","client":"eve"}` + "\n" + `{"op":"consume","id":"g","group":"mailer","member":"slow","window":1000}`))
	for op := ""; op != "consuming"; op = slow.answer().Op() {
	}
	mine, other := segmentOf("auction/1", 2), "0"
	if mine == other {
		other = "1"
	}
	epoch := g.give("slow", mine)
	if _, ok := slow.answer().(frame.Assigned); !ok {
		t.Fatal("no assigned")
	}
	quick.wantAssigned(g.give("quick", other), other)
	neighbour := "counter/1"
	for i := 2; segmentOf(neighbour, 2) != other; i++ {
		neighbour = fmt.Sprint("counter/", i)
	}
	stored := 0
	for n.Stats().Full == 0 || stored < 300 {
		if stored > 900 {
			t.Fatal("the socket takes everything")
		}
		w.append(eventstore.StreamID{Type: "auction", ID: "1"}, slices.Repeat([]eventstore.Event{
			{Type: "added", Form: 1, Data: []byte(`{"text":"` + strings.Repeat("x", 5_000) + `"}`)},
		}, 10)...)
		stored += 10
		n.catchUp()
		w.add(neighbour, 1)
		if f := want[frame.Event](quick); f.Stream.String() != neighbour {
			t.Fatalf("got %s", f.Append(nil))
		}
	}
	if held := n.Stats().Outbound; held > 100<<10 {
		t.Errorf("the gateway holds %d bytes", held)
	}
	for v := range stored {
		if err := slow.conn.SetDeadline(time.Now().Add(patience)); err != nil { // extend it
			t.Fatal(err)
		}
		f, ok := slow.answer().(frame.Event)
		if !ok || int(f.Version) != v+1 {
			t.Fatalf("got version %d, want %d", f.Version, v+1)
		}
		slow.send(sockettest.Text(string(frame.Ack{Sub: "g", Segment: mine, Epoch: epoch, Cursor: fmt.Sprint(f.Position)}.Append(nil))))
	}
}
