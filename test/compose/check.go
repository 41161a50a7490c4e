package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	ganglion "github.com/ganglion-es/ganglion/client/go"
)

// check compares the log with the replies to writers, the events of followers, and
// the states of counters.
func (l *load) check(ctx context.Context, log []event) error {
	if err := checkLog(log, l.writers); err != nil {
		return err
	}
	for _, f := range l.followers {
		if err := checkFollower(f, log); err != nil {
			return err
		}
	}
	sums := map[string]int64{}
	for _, e := range log {
		sums[e.stream] += e.by
	}
	for stream, sum := range sums {
		s, err := counters.Aggregate(l.clients[0], strings.TrimPrefix(stream, "counter/")).Get(ctx, ganglion.Strong())
		if err != nil {
			return fmt.Errorf("the state of %s: %w", stream, err)
		}
		if s.Data.Value != sum {
			return fmt.Errorf("the state of %s is %d, the sum of its events %d", stream, s.Data.Value, sum)
		}
	}
	select {
	case err := <-l.failures:
		return fmt.Errorf("a client library reported an error: %w", err)
	default:
		return nil
	}
}

// checkLog checks that the log has exactly the events of the commands: once each, at
// the version of the reply, and each writer's in the order of sending. It also
// checks that positions rise and versions have no gaps. Gaps between positions are
// left to "ganglion verify", which reads all streams.
func checkLog(log []event, writers []*writer) error {
	type command struct {
		writer *writer
		i      int
	}
	commands := map[string]command{}
	for _, w := range writers {
		for i := 1; i <= len(w.versions); i++ {
			commands[w.key(i)] = command{w, i}
		}
	}
	versions, newest, before := map[string]uint64{}, map[*writer]int{}, uint64(0)
	for _, e := range log {
		versions[e.stream]++
		c, ok := commands[e.cause]
		switch {
		case e.position <= before:
			return fmt.Errorf("the log has position %d after %d", e.position, before)
		case e.version != versions[e.stream]:
			return fmt.Errorf("%s has version %d, want %d", e.stream, e.version, versions[e.stream])
		case !ok:
			return fmt.Errorf("%s has version %d of %q, which was not sent or is stored twice", e.stream, e.version, e.cause)
		case e.stream != c.writer.stream, e.by != int64(c.i):
			return fmt.Errorf("version %[2]d of %[1]s is of %[3]s, but adds %[4]d", e.stream, e.version, e.cause, e.by)
		case c.writer.versions[c.i-1] != e.version:
			return fmt.Errorf("%s has %s at version %d, the reply had %d", e.stream, e.cause, e.version, c.writer.versions[c.i-1])
		case newest[c.writer] != c.i-1:
			return fmt.Errorf("%s has %s after %s, but they were sent in the opposite order", e.stream, e.cause, c.writer.key(newest[c.writer]))
		}
		newest[c.writer], before = c.i, e.position
		delete(commands, e.cause)
	}
	for key := range commands {
		return fmt.Errorf("the log lacks %s and %d other commands", key, len(commands)-1)
	}
	return nil
}

// checkFollower checks that a follower has the events of the log, or of its stream.
func checkFollower(f *follower, log []event) error {
	want := slices.DeleteFunc(slices.Clone(log), func(e event) bool { return f.stream != "" && e.stream != f.stream })
	for i := range min(len(want), len(f.got)) {
		if f.got[i] != want[i] {
			return fmt.Errorf("%s received %+v, want %+v", f.name, f.got[i], want[i])
		}
	}
	if len(f.got) != len(want) {
		return fmt.Errorf("%s received %d events, want %d", f.name, len(f.got), len(want))
	}
	return nil
}
