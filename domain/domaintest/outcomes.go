package domaintest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/ganglion-es/ganglion/domain/process"
	"github.com/ganglion-es/ganglion/domain/projection"
)

// A folded model has outcomes of its scenarios: a projection or a process manager.
type folded[O any] interface {
	Name() string
	Revision() int
	Fingerprint() string
	Outcomes() (map[string]O, error)
}

// outcomes is the golden file of a folded model: what its scenarios make of the
// same events in the same build.
type outcomes[O any] struct {
	Revision    int          `json:"revision"`
	Fingerprint string       `json:"fingerprint"`
	Scenarios   map[string]O `json:"scenarios"`
}

// A comparer compares the outcomes of one scenario, before and now.
type comparer[O any] struct {
	// same reports whether they are equal.
	same func(before, now O) bool
	// mixes returns what is wrong if both come from the same events in one build,
	// or "".
	mixes func(before, now O) string
}

var ofProjections = comparer[projection.Outcome]{
	same: func(a, b projection.Outcome) bool {
		return a.Given == b.Given && maps.EqualFunc(a.Rows, b.Rows, sameJSON) && sameJSON(a.State, b.State)
	},
	mixes: func(a, b projection.Outcome) string {
		if a.Given == b.Given && !(maps.EqualFunc(a.Rows, b.Rows, sameJSON) && sameJSON(a.State, b.State)) {
			return "rows of both kinds would be mixed in one build"
		}
		return ""
	},
}

// A process manager may send other commands for the events of the future. Only its
// states must not be mixed.
var ofProcesses = comparer[process.Outcome]{
	same: func(a, b process.Outcome) bool {
		return a.Given == b.Given && maps.EqualFunc(a.States, b.States, sameJSON) && slices.EqualFunc(a.Sends, b.Sends, sameCommand)
	},
	mixes: func(a, b process.Outcome) string {
		if a.Given == b.Given && !maps.EqualFunc(a.States, b.States, sameJSON) {
			return "states of both kinds would be mixed in one build"
		}
		return ""
	},
}

// checkOutcomes compares the outcome of each scenario with the golden file. With
// update it writes the file of another build, and scenarios that are new or that
// only send other commands.
func checkOutcomes[O any](p folded[O], c comparer[O], dir string, update bool) error {
	scenarios, err := p.Outcomes()
	if err != nil {
		return err
	}
	now := outcomes[O]{Revision: p.Revision(), Fingerprint: p.Fingerprint(), Scenarios: scenarios}
	path := filepath.Join(dir, p.Name()+".json")
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		if !update {
			return fmt.Errorf("the golden file of its outcomes is missing: run 'go test -update' here and commit %s", path)
		}
		return now.write(path)
	}
	if err != nil {
		return err
	}
	var before outcomes[O]
	if err := json.Unmarshal(raw, &before); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if before.Fingerprint == now.Fingerprint {
		if name, why := now.mixes(before, c); why != "" {
			return fmt.Errorf("scenario %q has another outcome than in %s: %s; raise Revision, and run 'go test -update'", name, path, why)
		}
		if maps.EqualFunc(before.Scenarios, now.Scenarios, c.same) {
			return nil
		}
	}
	if !update {
		return fmt.Errorf("%s is of an older build, or has scenarios with other outcomes: run 'go test -update' here and commit it", path)
	}
	return now.write(path)
}

// mixes returns the first scenario, by name, whose outcome must not be in one build
// with the one from before, and why.
func (o outcomes[O]) mixes(before outcomes[O], c comparer[O]) (name, why string) {
	for _, name := range slices.Sorted(maps.Keys(o.Scenarios)) {
		if old, ok := before.Scenarios[name]; ok {
			if why := c.mixes(old, o.Scenarios[name]); why != "" {
				return name, why
			}
		}
	}
	return "", ""
}

func sameCommand(a, b process.Sent) bool {
	return a.Key == b.Key && a.To == b.To && a.Command == b.Command && sameJSON(a.Data, b.Data)
}

func sameJSON(a, b json.RawMessage) bool {
	if len(a) == 0 || len(b) == 0 {
		return len(a) == len(b)
	}
	var x, y bytes.Buffer
	return json.Compact(&x, a) == nil && json.Compact(&y, b) == nil && bytes.Equal(x.Bytes(), y.Bytes())
}

func (o outcomes[O]) write(path string) error {
	raw, err := json.MarshalIndent(o, "", "\t")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, append(raw, '\n'), 0o644)
}
