package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/ganglion-es/ganglion/test/chaos/check"
	"github.com/ganglion-es/ganglion/test/chaos/schedule"
)

// With -plant the rig builds the nodes from a source with a planted fault, and fails
// unless it finds the fault. The source itself stays as it is: "go build" replaces
// files by changed copies.

// plant is a fault in the source.
type plant struct {
	name string
	// only are the kinds of faults under which it shows, and minutes for how long.
	only    string
	minutes float64
	edits   []edit
	// breaks has promises, one of which must be found broken.
	breaks []string
}

// edit replaces a text, which a file of the source has once.
type edit struct{ file, old, new string }

// attempts is how many seeds are tried until a planted fault is found: some faults show
// only if another fault hits at the right moment.
const attempts = 3

const (
	senderFile = "engine/internal/outbox/deliver.go"
	wakerFile  = "engine/internal/waker/ask.go"
	ackFile    = "eventstore/postgres/groupacks.go"
)

var plants = []plant{
	{
		"outbox-row-deleted-early", strings.Join([]string{string(schedule.KillAll), string(schedule.RestartStore)}, ","), 4,
		[]edit{{
			senderFile, "	pause := firstPause\n	for attempts := c.Attempts; ; {\n",
			"	if err := s.cfg.Rows.Sent(ctx, s.cfg.Process.Name(), []rows.Sent{{CommandID: c.CommandID}}); err != nil {\n		return stopped\n	}\n" +
				"	pause := firstPause\n	for attempts := c.Attempts; ; {\n",
		}},
		[]string{check.Told},
	},
	{
		"key-changes-between-attempts", strings.Join([]string{string(schedule.RestartStore), string(schedule.FreezeOwner)}, ","), 2,
		[]edit{
			{senderFile, "	for attempts := c.Attempts; ; {\n", "	for attempts, again := c.Attempts, 0; ; again++ {\n"},
			{senderFile, "CommandKey(uint64(c.Position), c.K, c.N)", "CommandKey(uint64(c.Position), c.K, c.N+again)"},
		},
		[]string{check.Ours, check.Told, check.Once},
	},
	{
		"epoch-is-not-checked", strings.Join([]string{string(schedule.CutPeers), string(schedule.FreezeGateway)}, ","), 4,
		[]edit{
			{ackFile, "s.epoch = a.epoch and g.log_id", "g.log_id"},
			{ackFile, " and s.epoch = w.epoch and s.pos < w.pos", " and s.pos < w.pos"},
		},
		[]string{check.GroupFenced},
	},
	{
		"build-without-from", string(schedule.KillAll), 0.5,
		[]edit{{"eventstore/rows/process.go", "return p > t.From.After(key) && p <= t.Until", "return p <= t.Until"}},
		[]string{check.ReceiptNotPast, check.ReceiptOnce},
	},
	{
		"wake-by-the-sender's-clock", string(schedule.KillOwner), 0.5,
		[]edit{
			{wakerFile, "	a.read, a.now, a.queue = read, d.Now, a.queue[:0]\n", "	text, _ := os.ReadFile(os.Getenv(\"GANGLION_CLOCK_OFFSET_FILE\"))\n" +
				"	offset, _ := time.ParseDuration(string(text))\n" +
				"	for d.Now = time.Now().Add(offset); d.N < len(d.Rows) && !d.Rows[d.N].Due.After(d.Now); d.N++ {\n	}\n" +
				"	a.read, a.now, a.queue = read, d.Now, a.queue[:0]\n"},
			{wakerFile, "	\"encoding/json\"\n", "	\"encoding/json\"\n	\"os\"\n"},
		},
		[]string{check.EndInDue},
	},
}

// apply returns the changed files, by name.
func (p plant) apply(root string) (map[string]string, error) {
	changed := map[string]string{}
	for _, e := range p.edits {
		text, ok := changed[e.file]
		if !ok {
			raw, err := os.ReadFile(filepath.Join(root, e.file))
			if err != nil {
				return nil, err
			}
			text = string(raw)
		}
		if n := strings.Count(text, e.old); n != 1 {
			return nil, fmt.Errorf("%s: the fault %s replaces a text that occurs %d times, want 1: %q", e.file, p.name, n, e.old)
		}
		changed[e.file] = strings.Replace(text, e.old, e.new, 1)
	}
	return changed, nil
}

// overlay writes the changed files into a folder, and returns the flag of "go build"
// that uses them.
func (p plant) overlay(dir string) (string, error) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/ganglion-es/ganglion").Output()
	if err != nil {
		return "", fmt.Errorf("go list -m: %w", err)
	}
	root := strings.TrimSpace(string(out))
	changed, err := p.apply(root)
	if err != nil {
		return "", err
	}
	replace := map[string]string{}
	for file, text := range changed {
		to := filepath.Join(dir, "planted_"+filepath.Base(file))
		if err := os.WriteFile(to, []byte(text), 0o600); err != nil {
			return "", err
		}
		replace[filepath.Join(root, file)] = to
	}
	raw, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	file := filepath.Join(dir, "overlay.json")
	return "-overlay=" + file, os.WriteFile(file, raw, 0o600)
}

// findPlants finds the planted faults whose names contain a text.
func (c config) findPlants(ctx context.Context, name string) error {
	var errs []error
	tried := 0
	for _, p := range plants {
		if strings.Contains(p.name, name) {
			tried++
			errs = append(errs, c.findPlant(ctx, p))
		}
	}
	if tried == 0 {
		errs = append(errs, fmt.Errorf("no planted fault has a name with %q", name))
	}
	return errors.Join(errs...)
}

func (c config) findPlant(ctx context.Context, p plant) error {
	c.only, c.minutes = p.only, p.minutes
	for range attempts {
		say("planted %s: SEED=%d", p.name, c.seed)
		anomalies, err := c.once(ctx, p)
		for _, a := range anomalies {
			if slices.ContainsFunc(p.breaks, func(b string) bool { return strings.HasPrefix(a, b+": ") }) {
				say("found %s: %s", p.name, a)
				return nil
			}
		}
		if err = errors.Join(err, ctx.Err()); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
		c.seed++
	}
	return fmt.Errorf("%s was not found with %d seeds", p.name, attempts)
}

// once runs the nodes with a planted fault, and returns the anomalies.
func (c config) once(ctx context.Context, p plant) (anomalies []string, err error) {
	dir, err := os.MkdirTemp("", "chaos")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil { // PostgreSQL reads it as another user
		return nil, err
	}
	flag, err := p.overlay(dir)
	if err != nil {
		return nil, err
	}
	w, err := newWorld(ctx, dir, c.race, c.loopback, false, flag)
	if err != nil {
		return nil, err
	}
	anomalies, err = c.injectAndCheck(ctx, w)
	return anomalies, errors.Join(err, w.close())
}
