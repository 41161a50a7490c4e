package processor

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/domain/process"
)

// handedOver is added to the index of a sequence in the commands of a row that another
// build has handed over to this one. An event that the other build has sent for may
// have another sequence at the same index there.
func handedOver(build int64) int { return int(build) * process.MaxSequences }

// checkConcerned refuses to retry a row of another build that the event at which it
// waits does not concern in this one: it would go without its commands.
func (w *mend) checkConcerned(ctx context.Context) error {
	p := w.target.Position
	commits, err := w.Log.Read(ctx, p-1, 1)
	if err != nil {
		return err
	}
	if len(commits) == 0 || w.skip {
		return nil
	}
	c := &commits[0]
	n := int(p - c.First())
	name := aggregate.EventName{Type: c.Stream.Type, Event: c.Events[n].Type}
	if !w.model.Reads(name) {
		return nil
	}
	keys, err := w.keysOf(c, n, name)
	if err != nil || len(keys) == 0 || slices.Contains(keys, w.target.Key) {
		return nil // the fold finds the error, if there is one
	}
	return fmt.Errorf("another build has blocked it, and in this program the event at %d concerns %s instead: "+
		"send the commands of its events from %d on by hand, then skip it, which sends nothing", p, strings.Join(keys[:min(len(keys), 3)], ", "), w.target.After+1)
}
