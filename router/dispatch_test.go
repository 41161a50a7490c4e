package router

import (
	"testing"

	"github.com/ganglion-es/ganglion/proto/command"
)

func TestACommandIsExecutedByItsOwner(t *testing.T) {
	t.Parallel()
	ids := []string{"a", "b", "c", "g"}
	w := newWorld(t, ids)
	for _, owner := range ids[:3] {
		s := w.streamOf(owner, "", "a", "b", "c")
		for _, from := range ids {
			mustSucceed(t, w.nodes[from].do(command.Command{Stream: s, Session: from}))
		}
		for _, e := range w.journal.of(s) {
			if e.node != owner || e.attempt != 1 || e.key == "" {
				t.Errorf("%v, owned by %s: executed as %+v", s, owner, e)
			}
		}
		if n := len(w.journal.of(s)); n != len(ids) {
			t.Errorf("%v: %d commands executed, want %d", s, n, len(ids))
		}
	}
	a, g := w.nodes["a"].router.Stats(), w.nodes["g"].router.Stats()
	if a.Local != 1 || a.Forwarded != 2 || a.ExecutedForOthers != 3 || g.Local != 0 || g.Forwarded != 3 {
		t.Errorf("counters of a: %+v\nof g: %+v", a, g)
	}
}
