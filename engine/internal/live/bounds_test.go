package live

import (
	"testing"

	"github.com/ganglion-es/ganglion/domain/query"
	"github.com/ganglion-es/ganglion/proto/command"
)

func TestQuestionsThatCannotBeIndexedAreBounded(t *testing.T) {
	t.Parallel()
	w := newWorld(t, sqliteRows(t), 3, 5)
	r := w.registry()
	s := newSource(r, w.model)
	defer s.stop()
	s.mu.Lock()
	s.index.scanned = maxScans
	s.mu.Unlock()
	for owner, refused := range map[string]bool{`{"owner":"a"}`: false, `{}`: true} {
		asked, err := w.query[5].Question(query.Call{}, []byte(owner))
		if err != nil {
			t.Fatal(err)
		}
		_, failure := s.join(identity(asked), asked)
		if refused != (failure != nil) || refused && (failure.Code != command.CodeBusy || failure.After == 0) {
			t.Errorf("%s: got %v", owner, failure)
		}
	}
	r.stats.questions.Store(maxQuestions)
	if _, failure := s.join(id{1}, query.Question{}); failure == nil || failure.Code != command.CodeBusy {
		t.Errorf("too many questions: got %v", failure)
	}
	r.stats.questions.Store(0)
	r.stats.entries.Store(maxEntries)
	if _, failure := s.join(id{1}, query.Question{}); failure == nil || failure.Code != command.CodeBusy {
		t.Errorf("too many entries: got %v", failure)
	}
}

// TestNewQuestionsDoNotExceedTheBoundOnRows asks while there is room for some of
// the rows that answer.
func TestNewQuestionsDoNotExceedTheBoundOnRows(t *testing.T) {
	t.Parallel()
	w := newWorld(t, sqliteRows(t), 3, 5)
	w.fill(30)
	r := w.registry()
	r.stats.entries.Store(maxEntries - 3)
	follow := func() (*Follower, *command.Failure) {
		return r.Follow(t.Context(), Request{Query: w.query[5], Asked: w.client("ada", 5, search{}, 1, r).asked, Wake: func() {}})
	}
	if _, failure := follow(); failure == nil || failure.Code != command.CodeBusy || failure.After == 0 {
		t.Fatalf("got %v, want busy", failure)
	}
	if n := r.Stats(); n.Questions != 0 || n.Entries != maxEntries-3 {
		t.Errorf("a refused question leaves %+v", n)
	}
	r.stats.entries.Store(maxEntries - 30)
	f, failure := follow()
	if failure != nil {
		t.Fatal(failure)
	}
	f.Close()
}
