package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/ganglion-es/ganglion/domain"
	"github.com/ganglion-es/ganglion/node"
	"github.com/ganglion-es/ganglion/relay"
	"github.com/ganglion-es/ganglion/test/harness"
)

// noBroker is the queue of a broker that cannot be reached.
type noBroker struct{ relay.Source }

func (noBroker) Open(context.Context, int) error {
	return errors.New("queue of a broker: connection refused")
}
func (noBroker) Err() error { return nil }
func (noBroker) Close()     {}

func TestIntakesOfMembersAreListed(t *testing.T) {
	t.Parallel()
	urls, _ := harness.Serve(t, 2, func(ctx context.Context, ready func(string)) error {
		return node.RunDev(ctx, node.Config{
			Catalog: &domain.Catalog, Listen: "127.0.0.1:0", Store: t.TempDir(), Ready: ready,
			Intakes: []node.Intake{{Name: "orders", Where: "queue of a broker", New: func() relay.Source { return noBroker{} }}},
		}, 2)
	})
	var r intakesReport
	harness.Eventually(t, "each member shows its intake", func() (err error) {
		if r, err = askIntakes(t, urls[0]); err != nil {
			return err
		}
		for _, in := range r.Intakes {
			if in.State != "away" || in.Problem == "" {
				return errors.New(in.Member + " is " + in.State)
			}
		}
		if len(r.Intakes) != 2 || len(r.Silent) != 0 {
			return errors.New("not all members have answered")
		}
		return nil
	})
	var out bytes.Buffer
	r.Silent = []string{"n9"}
	if err := r.write(&out); err != nil {
		t.Fatal(err)
	}
	flat := strings.Join(strings.Fields(out.String()), " ")
	for _, want := range []string{
		"INTAKE MEMBER STATE SINCE UNFINISHED EXECUTED REJECTED CONFLICTS DEAD QUEUE orders dev1 away",
		"s 0 0 0 0 0 queue of a broker orders dev2 away", "orders on dev2, ", "ago: queue of a broker: connection refused", "n9 did not say which intakes it has",
	} {
		if !strings.Contains(flat, want) {
			t.Errorf("ganglion intakes prints %q, want %q", flat, want)
		}
	}
	out.Reset()
	if err := (intakesReport{}).write(&out); err != nil || !strings.HasPrefix(out.String(), "no member has an intake") {
		t.Errorf("without intakes: %q, %v", out.String(), err)
	}
}

// askIntakes asks a node as the command does, and checks that the command runs.
func askIntakes(t *testing.T, url string) (r intakesReport, err error) {
	t.Helper()
	if _, err := ask(t, testProgram(), "", "intakes", "--url", url); err != nil {
		return r, err
	}
	r, err = intakesCmd{urlFlag: urlFlag{URL: url}}.ask(t.Context())
	if err != nil {
		return r, err
	}
	raw, err := json.Marshal(r)
	if err != nil || !strings.Contains(string(raw), `"member":"dev1","intake":"orders"`) {
		t.Errorf("as JSON: %s, %v", raw, err)
	}
	return r, nil
}
