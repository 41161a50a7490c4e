package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"sync/atomic"
	"time"
)

// window is how many commands a WebSocket writer has under way at once.
const window = 8

// violation is an answer that the protocol does not allow. All other errors
// are connections that ended, and a client simply makes a new one.
type violation struct{ error }

func violationf(format string, args ...any) error { return violation{fmt.Errorf(format, args...)} }

// writer sends «add» commands to one counter, numbered from 1, until the load
// ends. Command i adds i under the key «<name>-<i>». One that fails is sent
// again with its key, as the protocol says, until it is answered.
type writer struct {
	load   *load
	name   string // also its client id
	stream string

	sent     int      // commands so far
	again    []int    // those that have to be sent again
	versions []uint64 // versions[i-1] is what command i was answered with
	acked    atomic.Int64
	slowest  time.Duration // from a command's first sending to its answer
}

func (w *writer) key(i int) string { return fmt.Sprintf("%s-%d", w.name, i) }

func (w *writer) command(i int) frame {
	return frame{
		Op: "command", ID: strconv.Itoa(i), Aggregate: w.stream, Command: "add",
		Data: json.RawMessage(fmt.Sprintf(`{"by":%d}`, i)), Key: w.key(i),
	}
}

// take takes an answer to command i, and tells whether the command is done.
func (w *writer) take(i int, f frame, since time.Time) (bool, error) {
	switch {
	case f.Op == "error" && (f.Retry == "same_key" || f.Retry == "later"):
		w.load.count(f.Code)
		return false, nil
	case f.Op == "error":
		return false, violationf("command %s: %w", w.key(i), f.refusal())
	case f.Op != "result", f.Key != w.key(i):
		return false, violationf("command %s was answered by %+v", w.key(i), f)
	}
	w.versions[i-1] = f.Version
	w.slowest = max(w.slowest, time.Since(since))
	w.acked.Add(1)
	w.load.progressed()
	return true, nil
}

// overHTTP sends one command after another.
func (w *writer) overHTTP(ctx context.Context) error {
	for !w.load.stopping.Load() {
		w.sent++
		w.versions = append(w.versions, 0)
		since := time.Now()
		for {
			f, err := post(ctx, w.load.url, w.name, w.command(w.sent))
			if err != nil {
				w.load.count("connection")
			} else if done, err := w.take(w.sent, f, since); done || err != nil {
				if err != nil {
					return err
				}
				break
			}
			if err := pause(ctx, f.AfterMS); err != nil {
				return err
			}
		}
	}
	return nil
}

// post sends a command over HTTP. An error means that its outcome is unknown.
func post(ctx context.Context, url, client string, command frame) (frame, error) {
	status, body, err := call(ctx, http.MethodPost, url+"/v1/commands", client, command)
	if err != nil {
		return frame{}, err
	}
	var answer frame
	if err := json.Unmarshal(body, &answer); err != nil {
		return frame{}, fmt.Errorf("status %d: %.200q", status, body) // the load balancer's own page
	}
	return answer, nil
}

// overWebSocket keeps window commands under way, over as many sessions as it
// takes.
func (w *writer) overWebSocket(ctx context.Context) error {
	for {
		s, err := connect(ctx, w.load.url, frame{Op: "hello", ID: "hello", Client: w.name})
		if err == nil {
			err = w.write(ctx, s)
			s.close()
		}
		if err == nil || errors.As(err, new(violation)) {
			return err
		}
		w.load.count("connection")
		if err := pause(ctx, 0); err != nil {
			return err
		}
	}
}

// write writes over one session. After a failure nothing is sent until all
// that is under way has been answered, and then what failed goes first, so
// that the commands keep their order.
func (w *writer) write(ctx context.Context, s *session) (err error) {
	underWay := map[int]time.Time{}
	defer func() {
		for i := range underWay {
			w.again = append(w.again, i)
		}
		slices.Sort(w.again)
	}()
	failed, wait := false, 0
	for {
		var batch []frame
		for !failed && len(underWay) < window {
			var i int
			if len(w.again) > 0 {
				i, w.again = w.again[0], w.again[1:]
			} else if w.load.stopping.Load() {
				break
			} else {
				w.sent++
				w.versions = append(w.versions, 0)
				i = w.sent
			}
			underWay[i] = time.Now()
			batch = append(batch, w.command(i))
		}
		if len(underWay) == 0 && !failed {
			return nil
		}
		if len(batch) > 0 {
			if err := s.send(ctx, batch...); err != nil {
				return err
			}
		}

		f, err := s.receive(ctx)
		if err != nil {
			return err
		}
		i, err := strconv.Atoi(f.ID)
		since, ok := underWay[i]
		switch {
		case f.Op == "heartbeat", f.Op == "goodbye":
			continue
		case err != nil || !ok:
			return violationf("%s got a frame that answers nothing: %+v", w.name, f)
		}
		done, err := w.take(i, f, since)
		if err != nil {
			return err
		}
		delete(underWay, i)
		if !done {
			w.again = append(w.again, i)
			failed, wait = true, max(wait, f.AfterMS)
		}
		if failed && len(underWay) == 0 {
			slices.Sort(w.again)
			if err := pause(ctx, wait); err != nil {
				return err
			}
			failed, wait = false, 0
		}
	}
}
