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

// newGateway returns a fake gateway with one counter, for one client. Its query
// "counters" has one row for each counter, and each of its consumer groups gets the
// events before it.
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
		states, rows := "", "" // ids of the subscriptions to the states and to the query
		row := func() object {
			return object{"key": "clicks", "rank": "0", "position": len(events), "data": object{"value": value}}
		}
		state := func() object {
			return object{"op": "state", "sub": states, "version": len(events), "position": len(events), "data": object{"value": value}}
		}
		for {
			_, message, err := ws.Read(context.Background())
			if err != nil {
				return
			}
			lines := bytes.Split(message, []byte("\n"))
			for len(lines) > 0 {
				line := lines[0]
				lines = lines[1:]
				var f struct {
					Op, ID, Key string
					Sub         string
					Data        struct{ By int }
					State       any
					Query       string

					Subscriptions []json.RawMessage
				}
				if err := json.Unmarshal(line, &f); err != nil {
					return
				}
				for _, s := range f.Subscriptions {
					lines = append(lines, s)
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
					if states != "" {
						answers = append(answers, state())
					}
					if rows != "" {
						u := row()
						u["op"], u["sub"] = "update", rows
						answers = append(answers, u, object{"op": "synced", "sub": rows, "cursor": fmt.Sprint("c", head+1), "position": head + 1})
					}
				case f.Op == "ack":
					answers = nil
				case f.Op == "consume":
					answers = []object{
						{"op": "consuming", "id": f.ID, "window": 100, "ack_within_ms": 30000},
						{"op": "assigned", "sub": f.ID, "segment": "0", "epoch": 1, "cursor": "0", "log": "log-1"},
					}
					for _, e := range events {
						e["sub"], e["segment"] = f.ID, "0"
						answers = append(answers, e)
					}
				case f.Op == "query":
					answers = []object{{"op": "result", "id": f.ID, "version": 0, "position": head, "data": object{"rows": []object{row()}}}}
				case f.Op == "subscribe" && f.Query != "":
					rows = f.ID
					answers = []object{
						{"op": "subscribed", "id": f.ID, "cursor": fmt.Sprint(head)},
						{"op": "state", "sub": f.ID, "rows": []object{row()}},
						{"op": "live", "sub": f.ID, "cursor": fmt.Sprint("c", head), "position": head},
					}
				case f.Op == "subscribe" && f.State == "only":
					states = f.ID
					answers = []object{
						{"op": "subscribed", "id": f.ID, "cursor": fmt.Sprint(head)},
						{"op": "live", "sub": f.ID, "version": head, "cursor": fmt.Sprint(head)},
						state(),
					}
				case f.Op == "unsubscribe" && (f.Sub == states || f.Sub == rows):
					states, rows = "", ""
				case f.Op == "subscribe":
					answers = []object{{"op": "subscribed", "id": f.ID, "cursor": fmt.Sprint(head)}}
					if f.State == true {
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
