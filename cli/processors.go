package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"sort"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/node"
)

func processorCommand(p *program) *cobra.Command {
	cmd := &cobra.Command{Use: "processor COMMAND", Short: "Pause, rebuild, repair or verify a projection or a process manager"}
	cmd.AddCommand(
		pauseCommand(p, "pause", "Stop all builds of a projection", "The rows stay as they are and queries answer from them, until `ganglion processor resume`.", true),
		pauseCommand(p, "resume", "Let all builds of a projection continue", "The builds continue where they stopped.", false),
		rebuildCommand(p),
		retryCommand(p),
		skipCommand(p),
		verifyRowsCommand(p),
	)
	return cmd
}

func pauseCommand(p *program, use, short, long string, paused bool) *cobra.Command {
	c := onProcessors(p)
	return c.command(use, short, long, "  ganglion processor "+use+" listings --store postgres://ganglion@db/ganglion", nil,
		func(ctx context.Context, o *node.Processors) error {
			if err := o.Pause(ctx, c.name, paused); err != nil {
				return err
			}
			fmt.Printf("%s: %sd\n", c.name, use)
			return nil
		})
}

func rebuildCommand(p *program) *cobra.Command {
	c := onProcessors(p)
	return c.command("rebuild", "Fold a projection again, into a new build",
		"Queries answer from the old build until the new one has caught up. Nodes of this program fold it; the command returns immediately.",
		"  ganglion processor rebuild listings --store postgres://ganglion@db/ganglion", nil,
		func(ctx context.Context, o *node.Processors) error {
			b, err := o.Rebuild(ctx, c.name)
			if err != nil {
				return err
			}
			fmt.Printf("%s: build %d has begun; the command processors shows its progress\n", c.name, b.ID)
			return nil
		})
}

func retryCommand(p *program) *cobra.Command {
	c := onProcessors(p)
	var key string
	own := pflag.NewFlagSet("", pflag.ContinueOnError)
	own.StringVar(&key, "key", "", "`KEY` of the row that is resumed, as ganglion processors prints it (default all)")
	return c.command("retry", "Resume the blocked rows of a projection after a fix",
		"The events that waited are folded in the order of the log, by this program: run the fixed one.\n"+
			"A row of which an event fails again waits at that event; the exit status is then 1. Nodes can keep running.\n"+
			"Of a process manager, the rows are its sequences, and held commands are sent again; with --key TYPE/ID those to one aggregate.",
		`  ganglion processor retry listings --store postgres://ganglion@db/ganglion
  ganglion processor retry listings --key 42 --store postgres://ganglion@db/ganglion`, own,
		func(ctx context.Context, o *node.Processors) error {
			return resumed(c.name, func(report func(node.Resumed)) error { return o.Retry(ctx, c.name, key, report) })
		})
}

func skipCommand(p *program) *cobra.Command {
	c := onProcessors(p)
	var key string
	var position uint64
	own := pflag.NewFlagSet("", pflag.ContinueOnError)
	own.StringVar(&key, "key", "", "`KEY` of the blocked row, as ganglion processors prints it")
	own.Uint64Var(&position, "position", 0, "`POSITION` of the event at which it waits")
	require(own, "key", "position")
	return c.command("skip", "Leave one event out of a blocked row",
		"The row is as if this event did not exist, until the projection is built again. Its later events are folded.\n"+
			"Of a process manager, --key TYPE/ID names an aggregate: the held command to it that the event has caused is never sent.",
		"  ganglion processor skip listings --key 42 --position 1017 --store postgres://ganglion@db/ganglion", own,
		func(ctx context.Context, o *node.Processors) error {
			return resumed(c.name, func(report func(node.Resumed)) error {
				return o.Skip(ctx, c.name, key, eventstore.Position(position), report)
			})
		})
}

// resumed prints what was resumed. The error says that rows still wait.
func resumed(name string, do func(report func(node.Resumed)) error) error {
	n, waiting := 0, 0
	err := do(func(r node.Resumed) {
		n++
		if r.Command != "" {
			fmt.Printf("%s: %s is no longer held by the command %s\n", name, r.Key, r.Command)
		} else {
			fmt.Printf("%s, build %d: %s shows %d more events\n", name, r.Build, r.Key, r.Events)
		}
		for _, b := range r.Blocks {
			waiting++
			fmt.Printf("%s, build %d: %s waits at position %d: %s\n", name, r.Build, b.Key, b.Position, b.Error)
		}
	})
	switch {
	case err != nil:
		return err
	case n == 0:
		fmt.Printf("%s: no row is blocked\n", name)
	case waiting > 0:
		return fmt.Errorf("%d rows of %s still wait", waiting, name)
	}
	return nil
}

type verifyRowsCmd struct {
	storeFlags
	JSON bool
}

func verifyRowsCommand(p *program) *cobra.Command {
	var c verifyRowsCmd
	cmd := &cobra.Command{
		Use:   "verify NAME",
		Short: "Compare the rows of a projection with the log",
		Long: "Compare the rows of a projection with the log: fold it from the beginning, in memory, up to the checkpoint,\n" +
			"and compare every row and every deletion. Nodes can keep running.\n" +
			"At most 64 MiB of rows are in memory; for more, the log is read several times, and once for each segment.\n" +
			"Of a process manager, list also the commands that its handlers return and that are neither in the log nor pending:\n" +
			"an aggregate has refused them, or a handler was changed.\n" +
			"The exit status is 1 if rows differ.",
		Example: `  ganglion processor verify listings --store postgres://ganglion@db/ganglion
  ganglion processor verify listings --store ./ganglion-data --json`,
		RunE: func(cmd *cobra.Command, args []string) error { return c.run(cmd.Context(), p, args[0]) },
	}
	f := cmd.Flags()
	c.storeFlags.addTo(f)
	fromEnvironment(f)
	f.BoolVar(&c.JSON, "json", false, "print the report as JSON")
	return cmd
}

// rowsReport is what "ganglion processor verify" prints.
type rowsReport struct {
	node.RowsVerified
	Listed []node.RowDifference `json:"listed"` // some or all of the differences
}

func (c verifyRowsCmd) run(ctx context.Context, p *program, name string) error {
	store, err := c.openToRead(ctx, p.logger())
	if err != nil {
		return err
	}
	defer store.Close()
	o, err := node.OperateProcessors(store, p.catalog)
	if err != nil {
		return err
	}
	bar := newProgress("verify", "positions")
	r := rowsReport{Listed: []node.RowDifference{}}
	r.RowsVerified, err = o.Verify(ctx, name, func(d node.RowDifference) { r.Listed = append(r.Listed, d) },
		func(_ int, at, head eventstore.Position) { bar.set(int64(at), int64(head)) })
	bar.finish()
	if err != nil {
		return unfinished(ctx, err, "the rows were not verified")
	}
	if c.JSON {
		err = printJSON(r)
	} else {
		r.write(os.Stdout, name)
	}
	if err == nil && r.Differences > 0 {
		err = fmt.Errorf("%d rows of %s differ from the log: rebuild the projection", r.Differences, name)
	}
	return err
}

func (r rowsReport) write(out io.Writer, name string) {
	fmt.Fprintf(out, "%s, build %d: %d rows and %d deletions, compared with the log up to position %d\n", name, r.Build, r.Rows, r.Tombstones, r.Position)
	sort.Slice(r.Listed, func(i, j int) bool { return r.Listed[i].Segment < r.Listed[j].Segment })
	for _, d := range r.Listed {
		if d.Command {
			fmt.Fprintf(out, "%s: %s\n", d.Key, d.Folded)
			continue
		}
		fmt.Fprintf(out, "%s: stored %s; the log says %s\n", d.Key, orNothing(d.Stored), orNothing(d.Folded))
	}
	if r.Differences == 0 {
		fmt.Fprintln(out, "no differences found")
	}
}

func orNothing(text string) string {
	if text == "" {
		return "nothing"
	}
	return text
}
