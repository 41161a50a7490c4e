package processor

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sort"

	"github.com/ganglion-es/ganglion/domain/process"
	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/rows"
)

// mostExpected bounds the commands that a pass looks for together. Beyond it, further
// ones are not looked for.
const mostExpected = 100_000

// expect notes the commands that an event causes, which the log must have after it.
func (p *pass) expect(commands []rows.Command) {
	for _, c := range commands {
		if len(p.expected) < mostExpected {
			p.expected[c.CommandID] = c
		}
	}
}

// meet notes the commands of the process manager that commits are of.
func (p *pass) meet(commits []eventstore.Commit) {
	if p.Process == nil || len(p.expected) == 0 {
		return
	}
	for i := range commits {
		if commits[i].Meta.Client != p.Process.Client() {
			continue
		}
		if c, ok := process.ParseCommandKey(commits[i].Key); ok {
			delete(p.expected, rows.CommandID{Position: eventstore.Position(c.Position), K: c.K, N: c.N})
		}
	}
}

// missing reports the commands that are neither in the log nor in the outbox: their
// aggregates have refused them, or they are lost.
func (p *pass) missing(ctx context.Context) error {
	for after := p.at; len(p.expected) > 0; {
		commits, err := p.Log.Read(ctx, after, mendPage)
		if err != nil {
			return err
		}
		if len(commits) == 0 {
			break
		}
		p.meet(commits)
		after = commits[len(commits)-1].Position
	}
	if len(p.expected) == 0 {
		return nil
	}
	if err := p.meetPending(ctx); err != nil {
		return err
	}
	missing := slices.Collect(maps.Keys(p.expected))
	sort.Slice(missing, func(i, j int) bool { return missing[i].Before(missing[j]) })
	for _, id := range missing {
		c := p.expected[id]
		p.seen.Missing++
		if len(p.differences) < mostDifferences {
			p.differences = append(p.differences, Difference{
				Key: c.Sequence, Segment: p.segment, Command: true,
				Folded: fmt.Sprintf("the event at %d causes %s to %s, which the log does not have: it was refused, or it is lost", id.Position, c.Name, c.Target),
			})
		}
	}
	return nil
}

// meetPending notes the commands that are in the outbox.
func (p *pass) meetPending(ctx context.Context) error {
	for after := (rows.CommandID{}); ; {
		list, err := p.Outboxes.Pending(ctx, p.Process.Name(), p.Table.Build().ID, p.segment, after, mendPage)
		if errors.Is(err, rows.ErrPaused) {
			err = nil
		}
		if err != nil || len(list) == 0 {
			return err
		}
		for _, c := range list {
			delete(p.expected, c.CommandID)
			after = c.CommandID
		}
	}
}
