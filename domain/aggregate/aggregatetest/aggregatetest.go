// Package aggregatetest tests every aggregate of a catalog: its scenarios, its
// JSON, and that what is stored stays readable for ever.
//
// A program with a catalog of its own calls Run from one test. A new aggregate
// then needs no test code, only scenarios, and golden files that the test
// writes:
//
//	go test -update
//
// # Golden files
//
// testdata/events/TYPE/EVENT.FORM.json holds a sample of each form that an
// event has ever had; commit these files with the aggregate. A program must
// read every one of them, since the log holds such events and always will.
// Run fails when a golden file
//
//   - is missing: -update writes it, for the newest form only;
//   - lacks a member that was added since: -update adds it;
//   - can't be read any more, or loses members when it is: an event of a log
//     would be lost just so, and -update refuses. Put the member back, or give
//     the event an upcaster from that form, which makes today's its next one;
//   - belongs to no event: keep the event registered. A retired one needs no
//     command that emits it.
//
// While an aggregate has not been deployed anywhere, deleting its golden files
// by hand is a way to start over.
package aggregatetest

import (
	"flag"
	"fmt"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/ganglion-es/ganglion/domain/aggregate"
)

var update = flag.Bool("update", false, "write golden files of new stored forms of events")

// Run tests a catalog. The golden files are in the calling package's folder
// testdata/events.
func Run(t *testing.T, c *aggregate.Catalog) {
	t.Helper()
	if err := c.Err(); err != nil {
		t.Fatal(err)
	}
	if len(c.Types()) == 0 {
		t.Fatal("the catalog is empty, so there is nothing to test")
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
		})
	}
	for _, err := range checkGolden(c, filepath.Join("testdata", "events"), *update) {
		t.Error(err)
	}
}

// checkForms reports commands and events that no scenario shows, or that
// don't come back from JSON as they went.
func checkForms(d *aggregate.Definition) (errs []error) {
	for _, what := range d.Uncovered() {
		errs = append(errs, fmt.Errorf("%s of %s is in no scenario: add one to the Scenarios of its definition", what, d.Name()))
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
		return fmt.Errorf("JSON does not keep it: %+v became %+v by way of %s", sample, back, data)
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
		return fmt.Errorf("JSON does not keep it: %+v became %+v by way of %s", sample, back, data)
	}
	return nil
}
