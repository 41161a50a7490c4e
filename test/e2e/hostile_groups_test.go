//go:build hostile

package e2e

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/ganglion-es/ganglion/test/harness"
)

// groupAttacks are requests of a client that has no segment: each gets an error, or
// revoked.
func groupAttacks(n int) (requests []string) {
	frames := []string{
		`{"op":"ack","sub":"g","segment":"0","epoch":1,"cursor":"1"}`,
		`{"op":"ack","sub":"g%d","segment":"~note/1","epoch":18446744073709551615,"cursor":"18446744073709551615"}`,
		`{"op":"ack","sub":"g%d","segment":"-1","epoch":-1,"cursor":"-1"}`,
		`{"op":"ack","sub":"","segment":"","epoch":0,"cursor":""}`,
		`{"op":"park","id":"%d","sub":"g","segment":"0","epoch":1,"position":1,"reason":"r"}`,
		`{"op":"park","id":"%d","sub":"g","segment":"7","epoch":2,"position":18446744073709551615,"reason":"r"}`,
		`{"op":"consume","id":"%d","group":"unicorns","member":"m"}`,
		`{"op":"consume","id":"%d","group":"readers","member":"a/b"}`,
		`{"op":"consume","id":"%d","group":"readers","member":"m","window":1000000000000}`,
		`{"op":"consume","id":"%d","group":"readers","member":"m","window":-1}`,
		`{"op":"consume","id":"%d","group":"readers","member":"` + strings.Repeat("m", 3000) + `"}`,
		`{"op":"unsubscribe","id":"%d","sub":"g"}`,
	}
	for i := range n {
		f := frames[i%len(frames)]
		if strings.Contains(f, "%d") {
			f = fmt.Sprintf(f, i)
		}
		requests = append(requests, f)
	}
	return requests
}

// TestHostileMembersDisturbNoGroup has a member that handles each event once and in
// order, while other clients send 50,000 wrong frames, and join and leave in the same
// message.
func TestHostileMembersDisturbNoGroup(t *testing.T) {
	t.Parallel()
	node := harness.Start(t, programAt(t, "notes-read"), 1, "node", "--name", "n", "--store", t.TempDir(), "--log-level", "warn",
		"--listen", "127.0.0.1:0", "--peer-listen", "127.0.0.1:0", "--gossip-listen", "127.0.0.1:0")
	url := node.URLs[0]
	victim, err := harness.Dial(t.Context(), harness.WS(url), "ada", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer victim.Close()
	const streams, rounds = 20, 30
	frames := make(chan harness.Frame, 10_000)
	if f, err := victim.Consume(t.Context(), "g", "readers", "victim", 20, func(f harness.Frame) { frames <- f }); err != nil || f.Op != "consuming" {
		t.Fatalf("consume: %+v, %v", f, err)
	}
	before := heap(t, url)

	var attacks sync.WaitGroup
	for range 5 {
		attacks.Go(func() {
			requests := groupAttacks(10_000)
			c := dial(t, url)
			c.send(`{"op":"hello","id":"h","client":"mallory"}`)
			c.until("welcome")
			for i := 0; i < len(requests); i += 100 {
				c.send(append(requests[i:i+100:i+100], fmt.Sprintf(`{"op":"ping","id":"after-%d"}`, i))...)
				for {
					f := c.next()
					if f.Op == "pong" {
						break
					}
					if f.Op != "error" && f.Op != "revoked" {
						t.Errorf("got %+v", f)
					}
				}
			}
		})
	}
	attacks.Go(func() {
		for i := range 200 {
			c := dial(t, url)
			id := fmt.Sprint("e", i%9)
			c.send(`{"op":"hello","id":"h","client":"eve"}`, fmt.Sprintf(`{"op":"consume","id":"g","group":"readers","member":%q}`, id), `{"op":"unsubscribe","id":"u","sub":"g"}`)
			c.until("unsubscribed")
			c.conn.CloseNow()
		}
	})
	attacks.Go(func() {
		writer, err := harness.Dial(t.Context(), harness.WS(url), "bob", nil)
		if err != nil {
			t.Error(err)
			return
		}
		defer writer.Close()
		for range rounds {
			for s := range streams {
				f, err := writer.Call(t.Context(), map[string]any{"op": "command", "aggregate": fmt.Sprint("note/", s), "command": "write", "data": map[string]any{"text": "t", "team": "x", "rank": 1}})
				if err != nil || f.Op != "result" {
					t.Errorf("command: %+v, %v", f, err)
					return
				}
			}
		}
	})

	epochs, handled := map[string]uint64{}, map[string]uint64{}
	for done := 0; done < streams*rounds; {
		select {
		case f := <-frames:
			switch f.Op {
			case "assigned":
				epochs[f.Segment] = f.Epoch
			case "revoked":
				if epochs[f.Segment] == f.Epoch {
					delete(epochs, f.Segment)
				}
			case "unsubscribed":
				t.Fatalf("the member lost its place: %+v", f)
			case "event":
				if epochs[f.Segment] == 0 {
					continue
				}
				if f.Version > handled[f.Stream] { // otherwise a repetition, after its segment has moved
					if f.Version != handled[f.Stream]+1 {
						t.Fatalf("got version %d of %s after %d", f.Version, f.Stream, handled[f.Stream])
					}
					handled[f.Stream]++
					done++
				}
				if err := victim.Send(context.WithoutCancel(t.Context()), map[string]any{"op": "ack", "sub": "g", "segment": f.Segment, "epoch": epochs[f.Segment], "cursor": fmt.Sprint(f.Position)}); err != nil {
					t.Fatal(err)
				}
			}
		case <-victim.Done():
			t.Fatalf("the member's session ended: %v", victim.Err())
		}
	}
	attacks.Wait()
	if now := heap(t, url); now > before+hostileMemory {
		t.Errorf("the heap grew from %d to %d MB", before>>20, now>>20)
	}
	harness.Eventually(t, "the hostile members leave", func() error {
		if members := gauge(t, url, "ganglion_consumers"); members != 1 {
			return fmt.Errorf("the gateway has %v members", members)
		}
		return nil
	})
}
