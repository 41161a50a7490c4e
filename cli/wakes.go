package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/ganglion-es/ganglion/node"
)

type wakesCmd struct {
	storeFlags
	Limit int
	JSON  bool
}

func wakesCommand(p *program) *cobra.Command {
	var c wakesCmd
	cmd := &cobra.Command{
		Use:   "wakes [TYPE/ID]",
		Short: "List which aggregates are to be woken, and when",
		Long: "List which aggregates are to be woken, and when, by the database's clock: refused ones first.\n" +
			"A row says when an aggregate is asked; its state decides. With TYPE/ID, only that of one aggregate is listed. Nodes can keep running.",
		Example: `  ganglion wakes --store postgres://ganglion@db/ganglion
  ganglion wakes auction/42 --store ./ganglion-data --json`,
		RunE: func(cmd *cobra.Command, args []string) error { return c.run(cmd.Context(), p, optional(args)) },
	}
	f := cmd.Flags()
	c.storeFlags.addTo(f)
	fromEnvironment(f)
	f.IntVar(&c.Limit, "limit", 100, "largest `NUMBER` of aggregates that are listed, at most 10,000")
	f.BoolVar(&c.JSON, "json", false, "print JSON")
	return cmd
}

func optional(args []string) string {
	if len(args) == 0 {
		return ""
	}
	return args[0]
}

// wakesReport is what "ganglion wakes" prints.
type wakesReport struct {
	Paused bool           `json:"paused"`
	Wakes  []node.WakeRow `json:"wakes"`
}

func (c wakesCmd) run(ctx context.Context, p *program, name string) error {
	if c.Limit < 1 || c.Limit > 10_000 {
		return usagef("--limit is %d: it must be from 1 to 10000", c.Limit)
	}
	store, err := c.openToRead(ctx, p.logger())
	if err != nil {
		return err
	}
	defer store.Close()
	var r wakesReport
	if r.Wakes, r.Paused, err = node.OperateWakes(store).List(ctx, name, c.Limit); err != nil {
		return err
	}
	if c.JSON {
		return printJSON(r)
	}
	return r.write(os.Stdout, time.Now())
}

func (r wakesReport) write(out io.Writer, now time.Time) error {
	if r.Paused {
		fmt.Fprintln(out, "wake-ups are paused, until the command wake resume")
	}
	if len(r.Wakes) == 0 {
		fmt.Fprintln(out, "no aggregate is to be woken")
		return nil
	}
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "AGGREGATE\tVERSION\tDUE\tIN\tREFUSED")
	for _, w := range r.Wakes {
		due, in := "-", "-"
		if !w.Due.IsZero() {
			due, in = w.Due.UTC().Format(time.RFC3339), w.Due.Sub(now).Round(time.Second).String()
		}
		fmt.Fprintf(table, "%s\t%d\t%s\t%s\t%s\n", w.Aggregate, w.Version, due, in, cmp.Or(w.Refused, "-"))
	}
	return table.Flush()
}

func wakeCommand(p *program) *cobra.Command {
	cmd := &cobra.Command{Use: "wake COMMAND", Short: "Pause, resume or retry wake-ups"}
	pause := func(use, short, long string, paused bool) *cobra.Command {
		return changeWakes(p, use, short, long, func(ctx context.Context, o node.WakeOperations, _ string) (string, error) {
			return "wake-ups: " + use + "d", o.Pause(ctx, paused)
		})
	}
	cmd.AddCommand(
		pause("pause", "Stop all wake-ups of a log", "No aggregate is woken until `ganglion wake resume`; what is due then is late.", true),
		pause("resume", "Let the wake-ups of a log continue", "What is due is woken immediately. The import of a log under a new id pauses wake-ups.", false),
		changeWakes(p, "retry [TYPE/ID]", "Wake aggregates again whose wake-up was refused",
			"Use it after the program was fixed. With TYPE/ID, only that aggregate is woken again.",
			func(ctx context.Context, o node.WakeOperations, name string) (string, error) {
				n, err := o.Retry(ctx, name)
				return fmt.Sprintf("wake-ups: %d are due now", n), err
			}),
	)
	return cmd
}

// changeWakes is a command that changes wake-ups, and prints what it has done.
func changeWakes(p *program, use, short, long string, do func(context.Context, node.WakeOperations, string) (string, error)) *cobra.Command {
	var flags storeFlags
	cmd := &cobra.Command{
		Use: use, Short: short, Long: short + ".\n" + long + " Nodes can keep running, but not with the embedded store.",
		Example: "  ganglion wake " + strings.Fields(use)[0] + " --store postgres://ganglion@db/ganglion",
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		store, err := flags.openExisting(cmd.Context(), p.logger())
		if err != nil {
			return err
		}
		defer store.Close()
		done, err := do(cmd.Context(), node.OperateWakes(store), optional(args))
		if err == nil {
			fmt.Println(done)
		}
		return err
	}
	f := cmd.Flags()
	flags.addTo(f)
	fromEnvironment(f)
	return cmd
}
