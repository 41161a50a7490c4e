package gateway_test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/ganglion-es/ganglion/proto/command"
	"github.com/ganglion-es/ganglion/proto/frame"
)

// wantRefusals sends frames of which each must be refused by an error, or by revoked if
// the epoch is over. Parks are refused by an error in any case, and in any order.
func (c *client) wantRefusals(frames []string, parks bool) {
	c.t.Helper()
	var sending sync.WaitGroup
	sending.Go(func() {
		for i := 0; i < len(frames); i += 50 {
			c.send(strings.Join(frames[i:min(i+50, len(frames))], "\n"))
		}
	})
	defer sending.Wait()
	for refused := 0; refused < len(frames); {
		switch f := c.read().(type) {
		case frame.Fault:
			if f.Code != command.CodeBadRequest && f.Code != command.CodeConflict || f.Message == "" {
				c.t.Fatalf("got %s", f.Append(nil))
			}
			refused++
		case frame.Revoked:
			if !parks {
				refused++
			}
		default:
			c.t.Fatalf("got %s, want a refusal", f.Append(nil))
		}
	}
}

// TestHostileMemberMovesNoSegmentOfAnother lets a member acknowledge and park what it
// does not have: 10,000 frames with segments, epochs and cursors of others, of other
// logs, of the past and the future.
func TestHostileMemberMovesNoSegmentOfAnother(t *testing.T) {
	t.Parallel()
	g := newMailer(2)
	w := newWorld(t)
	n := w.node(consuming(g))
	mine := segmentOf("auction/1", 2)
	other := map[string]string{"0": "1", "1": "0"}[mine]
	victim, eve := n.consume("victim", 2), n.consume("eve", 10)
	w.add("auction/1", 4)
	first := g.give("eve", other)
	eve.wantAssigned(first, other)
	epoch := g.give("victim", mine)
	victim.wantAssigned(epoch, mine)
	victim.wantPositions(mine, 1, 2)

	segments := []string{mine, other, "2", "-1", "00", "zero", "~", "~auction/1", "~~auction/1", strings.Repeat("9", 190)}
	epochs := []string{fmt.Sprint(epoch), fmt.Sprint(epoch + 1), "0", "1", "9223372036854775808", "18446744073709551615", "-1", "1.5", `"1"`, "null"}
	cursors := []string{"1", "2", "3", "4", "5", "00", "-1", "+1", "1e3", "18446744073709551616", "log-2:1", "１", " 1", "", strings.Repeat("7", 190)}
	reasons := []string{"", "r", strings.Repeat("ö", 700)}
	const each = 5000
	var acks, parks []string
	for len(acks) < each {
		for _, segment := range segments {
			for _, e := range epochs {
				if segment == other && e == fmt.Sprint(first) {
					continue // what it has
				}
				for i, cursor := range cursors {
					acks = append(acks, fmt.Sprintf(`{"op":"ack","sub":"g","segment":%q,"epoch":%s,"cursor":%q}`, segment, e, cursor))
					parks = append(parks, fmt.Sprintf(`{"op":"park","id":"p%d","sub":"g","segment":%q,"epoch":%s,"position":%d,"reason":%q}`, len(parks), segment, e, i, reasons[i%3]))
				}
			}
		}
	}
	eve.wantRefusals(acks[:each], false)
	eve.wantRefusals(parks[:each], true)
	if at := g.at(mine); at != 0 {
		t.Errorf("the segment of another member is at %d, want 0", at)
	}
	g.mu.Lock()
	if len(g.parked) > 0 {
		t.Errorf("parked: %v", g.parked)
	}
	g.mu.Unlock()
	victim.ack(mine, epoch, 2)
	victim.wantPositions(mine, 3, 4)
	waitFor(t, func() bool { return g.at(mine) == 2 })
	stolen := g.give("eve", mine) // it is still a member in good order
	eve.wantAssigned(stolen, mine)
	eve.wantPositions(mine, 3, 4)
}

// protocol: client consume
func TestWindowsOutsideTheBoundAreRefused(t *testing.T) {
	t.Parallel()
	g := newMailer(1)
	n := newWorld(t).node(consuming(g))
	c := n.join("ada")
	for _, window := range []string{"0", "-1", "1001", "1e300", "9223372036854775808", "1.5", `"1"`, "true", "[1]", "{}"} {
		c.sendf(`{"op":"consume","id":"g","group":"mailer","member":"m","window":%s}`, window)
		if f := want[frame.Fault](c); f.Code != command.CodeBadRequest || !strings.Contains(string(f.Append(nil)), "window") {
			t.Errorf("window %s: got %s", window, f.Append(nil))
		}
	}
	if got := g.present(); len(got) > 0 {
		t.Errorf("the members are %q, want none", got)
	}
	for _, window := range []int{1, 1000} {
		c.sendf(`{"op":"consume","id":"g%d","group":"mailer","member":"m%d","window":%d}`, window, window, window)
		if f := want[frame.Consuming](c); f.Window != window {
			t.Errorf("got %s", f.Append(nil))
		}
	}
}

// TestMembershipsThatEndWhileTheyBeginLeaveNothing unsubscribes, closes and repeats
// memberships in the middle of their consume.
func TestMembershipsThatEndWhileTheyBeginLeaveNothing(t *testing.T) {
	t.Parallel()
	g := newMailer(2)
	w := newWorld(t)
	n := w.node(consuming(g))
	victim := n.consume("victim", 10)
	mine := segmentOf("auction/1", 2)
	epoch := g.give("victim", mine)
	victim.wantAssigned(epoch, mine)
	eve := n.join("eve")
	const rounds = 200
	var sending sync.WaitGroup
	sending.Go(func() {
		for i := range rounds {
			consume := fmt.Sprintf(`{"op":"consume","id":"%d","group":"mailer","member":"e%d"}`, i, i%7)
			leave := fmt.Sprintf(`{"op":"unsubscribe","id":"u%d","sub":"%d"}`, i, i)
			eve.send(strings.Join([]string{consume, consume, leave, leave, fmt.Sprintf(`{"op":"ack","sub":"%d","segment":"0","epoch":%d,"cursor":"1"}`, i, epoch)}, "\n"))
		}
		eve.send(`{"op":"ping","id":"last"}`)
	})
	consuming, left, answered := map[string]bool{}, map[string]bool{}, map[string]bool{}
	for isLast := false; !isLast; {
		switch f := eve.read().(type) {
		case frame.Pong:
			isLast = f.ID == "last"
		case frame.Consuming:
			consuming[f.ID] = true
		case frame.Unsubscribed:
			left[f.Sub] = true // by itself, if a join that came late took its place
			if f.ID != "" && answered[f.ID] {
				t.Errorf("the second answer to unsubscribe is %s", f.Append(nil))
			}
			answered[f.ID] = true
		case frame.Fault, frame.Revoked:
		default:
			t.Fatalf("got %s", f.Append(nil))
		}
	}
	sending.Wait()
	if len(left) != rounds {
		t.Errorf("%d memberships ended, want %d; %d began", len(left), rounds, len(consuming))
	}
	for i := range 20 { // connections that end with their consume
		c := n.join("eve")
		c.sendf(`{"op":"consume","id":"g","group":"mailer","member":"x%d"}`, i)
		_ = c.conn.CloseNow()
	}
	waitFor(t, func() bool { return slices.Equal(g.present(), []string{"victim"}) && n.Stats().Consumers == 1 })
	w.add("auction/1", 2)
	victim.wantPositions(mine, 1, 2)
	victim.ack(mine, epoch, 2)
	waitFor(t, func() bool { return g.at(mine) == 2 })
}
