// Package domaintest tests every aggregate, projection, query and process manager of
// a catalog: its scenarios, its JSON, and that stored events stay readable.
//
// A program calls [Run] from one test. A new aggregate then needs no test code, only
// scenarios and golden files. This writes the golden files:
//
//	go test -update
//
// It writes no file of a definition whose test fails.
//
// # Golden files
//
// testdata/events/TYPE/EVENT.FORM.json holds a sample of each form that an event
// has ever had. Commit these files with the aggregate. A program must be able to
// read all of them, since logs hold such events permanently. Run fails if a golden
// file
//
//   - is missing: -update writes it, for the newest form only;
//   - lacks a member that was added since: -update adds it;
//   - cannot be read, or loses members when it is read: -update refuses, since
//     events of logs would lose them too. Restore the member, or give the event an
//     upcaster from that form, so that the changed form is the next one;
//   - belongs to no event: keep the event registered. A retired event needs no
//     command that emits it.
//
// Before the first deployment of an aggregate you may delete its golden files and
// write them again.
//
// testdata/projections/NAME.json and testdata/processes/NAME.json hold the outcomes
// of all scenarios. Run fails if the same events make other rows or other states in
// the same build: raise Revision. A process manager may send other commands than
// before; -update then writes the file, and commands that were sent stay as they
// are. Run also fails if the catalog no longer has the model of such a file; -update
// deletes the file.
package domaintest

import (
	"flag"
	"fmt"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/domain/process"
	"github.com/ganglion-es/ganglion/domain/projection"
)

var update = flag.Bool("update", false, "write golden files of new stored forms of events")

// Run tests a catalog. Its golden files are in testdata/events of the calling
// package.
func Run(t *testing.T, c *aggregate.Catalog) {
	t.Helper()
	if err := c.Err(); err != nil {
		t.Fatal(err)
	}
	if len(c.Types()) == 0 {
		t.Fatal("the catalog is empty")
	}
	for _, d := range c.Types() {
		t.Run(d.Name(), func(t *testing.T) {
			for _, s := range d.Scenarios() {
				t.Run(s.Name, func(t *testing.T) {
					if err := s.Run(); err != nil {
						t.Error(err)
					}
				})
			}
			for _, err := range checkForms(d) {
				t.Error(err)
			}
			for _, err := range checkGolden(d, filepath.Join("testdata", "events"), updating(t)) {
				t.Error(err)
			}
		})
	}
	for _, m := range c.AllModels() {
		t.Run(m.Kind()+" "+m.Name(), func(t *testing.T) { runModel(t, m) })
	}
	for _, err := range orphans(c, filepath.Join("testdata", "events")) {
		t.Error(err)
	}
	for _, err := range orphanOutcomes(c, "testdata", *update) {
		t.Error(err)
	}
}

// updating returns whether to write golden files of the definition that t tests. A file
// of one that does not work yet would be compared with the corrected one later.
func updating(t *testing.T) writing {
	switch {
	case !*update:
		return off
	case t.Failed():
		return withheld
	}
	return on
}

func runModel(t *testing.T, m aggregate.Model) {
	t.Helper()
	for _, s := range m.Scenarios() {
		t.Run(s.Name, func(t *testing.T) {
			if err := s.Run(); err != nil {
				t.Error(err)
			}
		})
	}
	for _, what := range m.Uncovered() {
		t.Errorf("%s of %s %q is in no scenario: add one to the Scenarios of its definition", what, m.Kind(), m.Name())
	}
	var err error
	switch m := m.(type) {
	case folded[projection.Outcome]:
		err = checkOutcomes(m, ofProjections, filepath.Join("testdata", projectionFolder), updating(t))
	case folded[process.Outcome]:
		err = checkOutcomes(m, ofProcesses, filepath.Join("testdata", processFolder), updating(t))
	}
	if err != nil {
		t.Error(err)
	}
}

// checkForms returns the commands and events that no scenario shows, or that
// JSON does not preserve.
func checkForms(d *aggregate.Definition) (errs []error) {
	for _, what := range d.Uncovered() {
		add := "one"
		if strings.HasPrefix(what, "form ") {
			add = "aggregate.Reads"
		}
		errs = append(errs, fmt.Errorf("%s of %s is in no scenario: add %s to the Scenarios of its definition", what, d.Name(), add))
	}
	for _, name := range d.Commands() {
		if err := roundTripCommand(d, name); err != nil {
			errs = append(errs, fmt.Errorf("command %q of %s: %w", name, d.Name(), err))
		}
	}
	for _, name := range d.Events() {
		if err := roundTripEvent(d, name); err != nil {
			errs = append(errs, fmt.Errorf("event %q of %s: %w", name, d.Name(), err))
		}
	}
	return errs
}

func roundTripCommand(d *aggregate.Definition, name string) error {
	sample, err := d.SampleCommand(name)
	if err != nil {
		return err
	}
	data, err := d.EncodeCommand(sample)
	if err != nil {
		return err
	}
	back, err := d.DecodeCommand(name, data)
	if err != nil {
		return err
	}
	if !reflect.DeepEqual(sample, back) {
		return fmt.Errorf("JSON does not preserve it: %+v became %+v by way of %s", sample, back, data)
	}
	return nil
}

func roundTripEvent(d *aggregate.Definition, name string) error {
	sample, err := d.SampleEvent(name)
	if err != nil {
		return err
	}
	name, form, data, err := d.EncodeEvent(sample)
	if err != nil {
		return err
	}
	back, err := d.DecodeEvent(name, form, data)
	if err != nil {
		return err
	}
	if !reflect.DeepEqual(sample, back) {
		return fmt.Errorf("JSON does not preserve it: %+v became %+v by way of %s", sample, back, data)
	}
	return nil
}
