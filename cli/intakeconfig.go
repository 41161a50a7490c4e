package cli

import (
	"errors"
	"slices"

	"github.com/ganglion-es/ganglion/node"
	"github.com/ganglion-es/ganglion/relay"
)

// intakeTable is the key of the configuration file whose tables are intakes.
const intakeTable = "intake"

// intakeKeys are the settings of every intake. The others are those of its broker.
var intakeKeys = []string{"name", "url", "password-file", "window"}

// intakes returns the intakes of the program, and those of the configuration file. The
// error lists everything that is wrong.
func (p *program) intakes() ([]node.Intake, error) {
	list := slices.Clone(p.options.Intakes)
	tables, err := p.brokerTables(intakeTable)
	errs := []error{err}
	for _, t := range tables {
		in, err := p.intake(t)
		if err != nil {
			errs = append(errs, usagef("configuration file %s: intake %q: %w", p.config, t["name"], err))
			continue
		}
		list = append(list, in)
	}
	return list, errors.Join(errs...)
}

// intake makes an intake from its table.
func (p *program) intake(t map[string]any) (in node.Intake, err error) {
	texts, categories, window, err := relaySettings(t, relay.MaxIntakeWindow)
	switch {
	case err != nil:
		return in, err
	case categories != nil:
		return in, errors.New("an intake has no categories: its messages name their aggregates")
	}
	in = node.Intake{Name: texts["name"], Window: window}
	s, broker, err := p.brokerSettings(texts)
	switch {
	case err != nil:
		return in, err
	case broker.ConfigureIntake == nil:
		return in, errors.New("this program takes no commands from a broker of this kind: only relays to it are possible")
	}
	if err := ownSettings(&s, texts, intakeKeys, broker.IntakeKeys); err != nil {
		return in, err
	}
	in.Where, in.New, err = broker.ConfigureIntake(s)
	return in, err
}
