package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
)

// readLog reads all events of a stream through the load balancer.
func (l *load) readLog(ctx context.Context, stream string) ([]frame, error) {
	var events []frame
	for {
		status, body, err := call(ctx, http.MethodGet,
			fmt.Sprintf("%s/v1/streams/%s/events?after=%d", l.url, stream, len(events)), "auditor", nil)
		if err != nil {
			return nil, err
		}
		page, err := parseLines(body)
		if status != http.StatusOK || err != nil {
			return nil, fmt.Errorf("reading %s: status %d: %.200q", stream, status, body)
		}
		if len(page) == 0 {
			return events, nil
		}
		events = append(events, page...)
	}
}

// check compares what the writers were told with the log, with the state, and
// with what each subscriber got.
func (l *load) check(ctx context.Context) (events int, _ error) {
	for stream, writers := range l.byStream() {
		log, err := l.readLog(ctx, stream)
		if err != nil {
			return 0, err
		}
		if err := checkLog(stream, log, writers); err != nil {
			return 0, err
		}
		if err := l.checkState(ctx, stream, log); err != nil {
			return 0, err
		}
		for _, s := range l.subscribers {
			if s.stream != "" && s.stream != stream {
				continue
			}
			if err := same(s.got[stream], log); err != nil {
				return 0, fmt.Errorf("%s and the log of %s differ: %w", s.name, stream, err)
			}
		}
		events += len(log)
	}
	return events, nil
}

// checkLog checks that a stream has each command's event once, at the version
// that its writer was told, each writer's in the order of sending, and none
// besides.
func checkLog(stream string, log []frame, writers []*writer) error {
	type command struct {
		writer *writer
		i      int
	}
	commands := map[string]command{}
	for _, w := range writers {
		for i := 1; i <= w.sent; i++ {
			commands[w.key(i)] = command{w, i}
		}
	}
	if len(log) != len(commands) {
		return fmt.Errorf("%s has %d events of %d commands", stream, len(log), len(commands))
	}
	newest := map[*writer]int{}
	for at, f := range log {
		c, ok := commands[f.Cause]
		switch want := fmt.Sprintf(`{"by":%d}`, c.i); {
		case f.Version != uint64(at+1):
			return fmt.Errorf("%s has version %d where %d belongs", stream, f.Version, at+1)
		case !ok:
			return fmt.Errorf("%s has version %d of %q, which nobody sent, or twice", stream, f.Version, f.Cause)
		case f.Event != "added", string(f.Data) != want:
			return fmt.Errorf("%s has version %d of %s: %s %s instead of added %s", stream, f.Version, f.Cause, f.Event, f.Data, want)
		case c.writer.versions[c.i-1] != f.Version:
			return fmt.Errorf("%s has %s at version %d, its writer was told %d", stream, f.Cause, f.Version, c.writer.versions[c.i-1])
		case newest[c.writer] != c.i-1:
			return fmt.Errorf("%s has %s after %s: sent in another order", stream, f.Cause, c.writer.key(newest[c.writer]))
		}
		newest[c.writer] = c.i
		delete(commands, f.Cause)
	}
	return nil
}

// checkState checks that the counter shows the sum of its events.
func (l *load) checkState(ctx context.Context, stream string, log []frame) error {
	status, body, err := call(ctx, http.MethodGet, l.url+"/v1/aggregates/"+stream, "auditor", nil)
	if err != nil {
		return err
	}
	var answer struct {
		Version uint64 `json:"version"`
		Data    struct {
			Value int64 `json:"value"`
		} `json:"data"`
	}
	if err := json.Unmarshal(body, &answer); err != nil || status != http.StatusOK {
		return fmt.Errorf("the state of %s: status %d: %.200q", stream, status, body)
	}
	var sum int64
	for _, f := range log {
		var added struct {
			By int64 `json:"by"`
		}
		if err := json.Unmarshal(f.Data, &added); err != nil {
			return err
		}
		sum += added.By
	}
	if answer.Version != uint64(len(log)) || answer.Data.Value != sum {
		return fmt.Errorf("%s shows %d at version %d; its %d events add up to %d", stream, answer.Data.Value, answer.Version, len(log), sum)
	}
	return nil
}

// same tells where two records of a stream differ.
func same(got, log []frame) error {
	if len(got) != len(log) {
		return fmt.Errorf("%d events instead of %d", len(got), len(log))
	}
	for i := range log {
		g, w := got[i], log[i]
		if g.Version != w.Version || g.Position != w.Position || g.Event != w.Event || g.Cause != w.Cause || string(g.Data) != string(w.Data) {
			return fmt.Errorf("%+v instead of %+v", g, w)
		}
	}
	return nil
}
