package ganglion_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"

	"github.com/coder/websocket"
)

// newGateway stands in for a gateway, with one counter and one client.
func newGateway() *httptest.Server {
	type object = map[string]any
	return httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{"ganglion.v1"}})
		if err != nil {
			return
		}
		defer ws.CloseNow()
		var events []object
		value := 0
		for {
			_, message, err := ws.Read(context.Background())
			if err != nil {
				return
			}
			for line := range bytes.SplitSeq(message, []byte("\n")) {
				var f struct {
					Op, ID, Key string
					Data        struct{ By int }
					State       bool
				}
				if err := json.Unmarshal(line, &f); err != nil {
					return
				}
				head := len(events)
				answers := []object{{"op": "unsubscribed", "id": f.ID}}
				switch {
				case f.Op == "hello":
					answers = []object{{"op": "welcome", "id": f.ID, "log": "log-1", "cursor": "0", "heartbeat_ms": 25000}}
				case f.Op == "command" && f.Data.By == 0:
					answers = []object{{"op": "error", "id": f.ID, "code": "rejected", "reason": "zero", "message": "adding 0 changes nothing", "retry": "no"}}
				case f.Op == "command":
					value += f.Data.By
					events = append(events, object{
						"op": "event", "stream": "counter/clicks", "version": head + 1, "position": head + 1, "event": "added", "data": f.Data,
						"time": "2026-11-22T12:00:00Z", "cause": f.Key,
					})
					answers = []object{{"op": "result", "id": f.ID, "key": f.Key, "version": head + 1, "position": head + 1}}
				case f.Op == "subscribe":
					answers = []object{{"op": "subscribed", "id": f.ID, "cursor": fmt.Sprint(head)}}
					if f.State {
						answers = append(answers, object{"op": "state", "sub": f.ID, "version": head, "position": head, "data": object{"value": value}})
					} else {
						for _, e := range events {
							e["sub"] = f.ID
							answers = append(answers, e)
						}
					}
					answers = append(answers, object{"op": "live", "sub": f.ID, "version": head, "cursor": fmt.Sprint(head)})
				}
				for _, a := range answers {
					text, err := json.Marshal(a)
					if err != nil || ws.Write(context.Background(), websocket.MessageText, text) != nil {
						return
					}
				}
			}
		}
	}))
}
