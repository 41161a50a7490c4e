package e2e

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/go-stomp/stomp/v3"

	"github.com/ganglion-es/ganglion/test/harness"
)

// TestSTOMPClientContinuesAtAnotherGateway kills the node at which go-stomp's client
// follows a plain topic. With the cursor of its last message, the client continues at
// another node, and gets each message once and in order.
func TestSTOMPClientContinuesAtAnotherGateway(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	c := startTrio(t, database(t))
	const messages = 300
	published := make(chan error, 1)
	go func() { published <- publishAll(ctx, c.members[2].URLs[0], messages) }()

	read, cursor := followTopic(ctx, t, c.members[0].URLs[0], "after", "0", 0, messages/3)
	c.members[0].Kill()
	read, _ = followTopic(ctx, t, c.members[1].URLs[0], "cursor", cursor, read, messages)
	if err := <-published; err != nil || read != messages {
		t.Errorf("got %d messages of %d, published with %v", read, messages, err)
	}
}

// followTopic subscribes with a header that says from where. It reads messages from
// next on up to end, and returns the next one and the cursor of the last one.
func followTopic(ctx context.Context, t *testing.T, url, header, from string, next, end int) (read int, cursor string) {
	t.Helper()
	ws, _, err := websocket.Dial(ctx, harness.WS(url)+"/v1/stomp", &websocket.DialOptions{Subprotocols: []string{"v12.stomp"}})
	if err != nil {
		t.Fatal(err)
	}
	conn, err := stomp.Connect(websocket.NetConn(ctx, ws, websocket.MessageText), stomp.ConnOpt.Login("ada", ""), stomp.ConnOpt.Host("/"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.MustDisconnect() }) // its node may have been killed
	sub, err := conn.Subscribe("/topic/news", stomp.AckAuto, stomp.SubscribeOpt.Header(header, from))
	if err != nil {
		t.Fatal(err)
	}
	for ; next < end; next++ {
		select {
		case m := <-sub.C:
			if m == nil || m.Err != nil {
				t.Fatalf("the subscription ended before message %d: %+v", next, m)
			}
			if string(m.Body) != fmt.Sprint(next) {
				t.Fatalf("got message %q, want %d", m.Body, next)
			}
			cursor = m.Header.Get("cursor")
		case <-ctx.Done():
			t.Fatalf("no message %d: %v", next, ctx.Err())
		}
	}
	return next, cursor
}

// publishAll sends numbered messages one after another. A message without a result is
// sent again with its key.
func publishAll(ctx context.Context, url string, messages int) error {
	s, err := harness.Dial(ctx, url, "bob", nil)
	if err != nil {
		return err
	}
	defer s.Close()
	for i := range messages {
		for {
			reply, err := s.Call(ctx, map[string]any{
				"op": "command", "aggregate": "topic/news", "command": "publish", "key": fmt.Sprint("message-", i),
				"data": map[string]any{"body": fmt.Sprint(i)},
			})
			if err != nil {
				return err
			}
			if reply.Op == "result" {
				break
			}
			if reply.Retry == "no" {
				return fmt.Errorf("message %d: %s: %s", i, reply.Code, reply.Message)
			}
		}
	}
	return nil
}
