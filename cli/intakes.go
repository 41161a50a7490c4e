package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/ganglion-es/ganglion/node/operator"
)

type intakesCmd struct {
	urlFlag
	JSON bool
}

func intakesCommand() *cobra.Command {
	var c intakesCmd
	cmd := &cobra.Command{
		Use:   "intakes",
		Short: "List the queues from which commands are taken, and what each member does with them",
		Long: "List the intakes of each member with the gateway role: whether it takes messages from the queue, and why it does not.\n" +
			"STATE is working, waiting (connected, and no message has arrived: the queue is empty, or another member has it),\n" +
			"away (no connection to the queue), or stopped (the member does not serve). Numbers count since the member's start.",
		Example: `  ganglion intakes --url http://n1:8080
  ganglion intakes --json`,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.run(cmd.Context()) },
	}
	f := cmd.Flags()
	c.urlFlag.addTo(f)
	fromEnvironment(f)
	f.BoolVar(&c.JSON, "json", false, "print JSON")
	return cmd
}

// A memberIntake is an intake on a member.
type memberIntake struct {
	Member string `json:"member"`
	operator.Intake
}

// intakesReport is what "ganglion intakes" prints.
type intakesReport struct {
	Intakes []memberIntake `json:"intakes"`
	Silent  []string       `json:"silent"` // members that did not answer
}

func (c intakesCmd) run(ctx context.Context) error {
	r, err := c.ask(ctx)
	if err != nil {
		return err
	}
	if c.JSON {
		return printJSON(r)
	}
	return r.write(os.Stdout)
}

func (c intakesCmd) ask(ctx context.Context) (r intakesReport, err error) {
	status, err := c.cluster(ctx, "?projections=true")
	if err != nil {
		return r, err
	}
	r = intakesReport{Intakes: []memberIntake{}, Silent: []string{}}
	for _, m := range status.Members {
		if m.Projections == nil {
			r.Silent = append(r.Silent, m.ID)
			continue
		}
		for _, in := range m.Projections.Intakes {
			r.Intakes = append(r.Intakes, memberIntake{m.ID, in})
		}
	}
	return r, nil
}

func (r intakesReport) write(out io.Writer) error {
	if len(r.Intakes) == 0 {
		fmt.Fprintln(out, "no member has an intake: docs/intake.md says how to configure one")
	} else {
		w := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
		fmt.Fprintln(w, "INTAKE\tMEMBER\tSTATE\tSINCE\tUNFINISHED\tEXECUTED\tREJECTED\tCONFLICTS\tDEAD\tQUEUE")
		for _, in := range r.Intakes {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%d\t%d\t%d\t%d\t%s\n", in.Intake.Intake, in.Member, in.State, age(secondsSince(in.Since)), in.Unfinished,
				in.Commands["result"], in.Commands["rejected"], in.Commands["conflict"], in.Commands["dead_letter"], in.Queue)
		}
		if err := w.Flush(); err != nil {
			return err
		}
	}
	for _, in := range r.Intakes {
		if in.Problem != "" {
			fmt.Fprintf(out, "%s on %s, %s ago: %s\n", in.Intake.Intake, in.Member, age(secondsSince(in.ProblemAt)), in.Problem)
		}
	}
	for _, member := range r.Silent {
		fmt.Fprintf(out, "%s did not say which intakes it has\n", member)
	}
	return nil
}

// secondsSince returns the whole seconds since a time, 0 if it is ahead of this clock.
func secondsSince(t time.Time) int64 { return max(0, int64(time.Since(t).Seconds())) }
