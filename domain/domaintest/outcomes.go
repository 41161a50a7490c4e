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
	"strings"

	"github.com/ganglion-es/ganglion/domain/aggregate"
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

// checkOutcomes compares the outcome of each scenario with the golden file. It may
// write the file of another build, and scenarios that are new or that only send other
// commands.
func checkOutcomes[O any](p folded[O], c comparer[O], dir string, w writing) error {
	scenarios, err := p.Outcomes()
	if err != nil {
		return err
	}
	now := outcomes[O]{Revision: p.Revision(), Fingerprint: p.Fingerprint(), Scenarios: scenarios}
	path := filepath.Join(dir, p.Name()+".json")
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		if w != on {
			return fmt.Errorf("the golden file of its outcomes is missing: %s", w.remedy(path))
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
	if w != on {
		return fmt.Errorf("%s is of an older build, or has scenarios with other outcomes: %s", path, w.remedy("it"))
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

// The folders of the golden files of outcomes.
const (
	projectionFolder = "projections"
	processFolder    = "processes"
)

// orphanOutcomes returns the golden files of outcomes whose model the catalog no
// longer has. With update it deletes them: the log has the events, so they protect
// nothing. Other files in the folders belong to the program.
func orphanOutcomes(c *aggregate.Catalog, dir string, update bool) (errs []error) {
	owned := map[string]bool{}
	for _, m := range c.AllModels() {
		switch m.(type) {
		case folded[projection.Outcome]:
			owned[filepath.Join(dir, projectionFolder, m.Name()+".json")] = true
		case folded[process.Outcome]:
			owned[filepath.Join(dir, processFolder, m.Name()+".json")] = true
		}
	}
	for _, of := range []struct{ kind, folder string }{{"projection", projectionFolder}, {"process manager", processFolder}} {
		paths, err := filepath.Glob(filepath.Join(dir, of.folder, "*.json"))
		if err != nil {
			return append(errs, err)
		}
		for _, path := range paths {
			name := strings.TrimSuffix(filepath.Base(path), ".json")
			switch {
			case owned[path] || !isOutcomes(path):
			case !update:
				errs = append(errs, fmt.Errorf("%s: the catalog no longer has %s %q, or it has no outcomes: restore it; "+
					"if you removed or renamed it, run 'go test -update' here, which deletes the file, and commit that", path, of.kind, name))
			default:
				if err := os.Remove(path); err != nil {
					errs = append(errs, err)
				}
			}
		}
	}
	return errs
}

// isOutcomes reports whether a file has the form of [outcomes].
func isOutcomes(path string) bool {
	raw, err := os.ReadFile(path)
	var o outcomes[json.RawMessage]
	return err == nil && json.Unmarshal(raw, &o) == nil && o.Fingerprint != "" && o.Scenarios != nil
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
