package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/coder/websocket"
)

// silenceMost is how long a client waits for a sign of life, a little over one
// heartbeat, before it takes its connection for dead.
const silenceMost = 30 * time.Second

// client keeps a connection for each actor that speaks HTTP.
var client = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 2 * sharing}}

// frame has the members of all frames that the load uses, in both directions.
// It is written from the protocol's page and not from package frame, so that
// the two check each other.
type frame struct {
	Op        string          `json:"op,omitempty"`
	ID        string          `json:"id,omitempty"`
	Client    string          `json:"client,omitempty"`
	Aggregate string          `json:"aggregate,omitempty"`
	Command   string          `json:"command,omitempty"`
	Data      json.RawMessage `json:"data,omitempty"`
	Key       string          `json:"key,omitempty"`

	Category string  `json:"category,omitempty"`
	Stream   string  `json:"stream,omitempty"`
	After    *uint64 `json:"after,omitempty"`
	Cursor   string  `json:"cursor,omitempty"`

	Sub      string `json:"sub,omitempty"`
	Version  uint64 `json:"version,omitempty"`
	Position uint64 `json:"position,omitempty"`
	Event    string `json:"event,omitempty"`
	Cause    string `json:"cause,omitempty"`

	Code    string `json:"code,omitempty"`
	Reason  string `json:"reason,omitempty"`
	Message string `json:"message,omitempty"`
	Retry   string `json:"retry,omitempty"`
	AfterMS int    `json:"after_ms,omitempty"`
}

// refusal is an error frame as a Go error.
func (f frame) refusal() error {
	return fmt.Errorf("%s %s: %s (retry: %s)", f.Code, f.Reason, f.Message, f.Retry)
}

// pause is a client's wait before it tries again: as long as it was told, or
// 50 ms.
func pause(ctx context.Context, ms int) error {
	if ms == 0 {
		ms = 50
	}
	select {
	case <-time.After(time.Duration(ms) * time.Millisecond):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// session is one WebSocket connection, for one goroutine.
type session struct {
	conn   *websocket.Conn
	unread []frame
}

// connect opens a session and waits until its hello is welcome.
func connect(ctx context.Context, url string, hello frame) (*session, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	conn, _, err := websocket.Dial(ctx, "ws"+strings.TrimPrefix(url, "http")+"/v1/ws",
		&websocket.DialOptions{Subprotocols: []string{"ganglion.v1"}})
	if err != nil {
		return nil, err
	}
	conn.SetReadLimit(8 << 20)
	s := &session{conn: conn}
	if err = s.send(ctx, hello); err == nil {
		var f frame
		if f, err = s.receive(ctx); err == nil && f.Op != "welcome" {
			err = fmt.Errorf("hello was answered by %q: %w", f.Op, f.refusal())
		}
	}
	if err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func (s *session) close() { s.conn.CloseNow() }

// send sends frames as one message, one a line.
func (s *session) send(ctx context.Context, frames ...frame) error {
	var message bytes.Buffer
	enc := json.NewEncoder(&message) // ends each frame with a newline
	for _, f := range frames {
		if err := enc.Encode(f); err != nil {
			return err
		}
	}
	return s.conn.Write(ctx, websocket.MessageText, bytes.TrimSuffix(message.Bytes(), []byte("\n")))
}

// receive returns the next frame.
func (s *session) receive(ctx context.Context) (frame, error) {
	for len(s.unread) == 0 {
		ctx, cancel := context.WithTimeout(ctx, silenceMost)
		_, message, err := s.conn.Read(ctx)
		cancel()
		if err != nil {
			return frame{}, err
		}
		if s.unread, err = parseLines(message); err != nil {
			return frame{}, violation{err}
		}
	}
	f := s.unread[0]
	s.unread = s.unread[1:]
	return f, nil
}

// parseLines reads frames, one a line.
func parseLines(text []byte) ([]frame, error) {
	var frames []frame
	for line := range bytes.Lines(text) {
		var f frame
		if err := json.Unmarshal(line, &f); err != nil {
			return nil, fmt.Errorf("%.200q is no frame: %w", line, err)
		}
		frames = append(frames, f)
	}
	return frames, nil
}

// call makes one HTTP request as a client and returns status and body.
func call(ctx context.Context, method, url, as string, body any) (int, []byte, error) {
	ctx, cancel := context.WithTimeout(ctx, silenceMost)
	defer cancel()
	var reader io.Reader
	if body != nil {
		raw, err := json.Marshal(body)
		if err != nil {
			return 0, nil, err
		}
		reader = bytes.NewReader(raw)
	}
	req, err := http.NewRequestWithContext(ctx, method, url, reader)
	if err != nil {
		return 0, nil, err
	}
	req.Header.Set("Authorization", "Bearer dev:"+as)
	resp, err := client.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	return resp.StatusCode, raw, err
}
