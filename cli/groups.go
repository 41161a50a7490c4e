package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"math"
	"os"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/node"
)

type groupsCmd struct {
	storeFlags
	JSON bool
}

func groupsCommand(p *program) *cobra.Command {
	var c groupsCmd
	cmd := &cobra.Command{
		Use:   "groups",
		Short: "List the consumer groups, their members, progress and parked sequences",
		Long: "List the consumer groups of a log: which member has which segment, up to where it is acknowledged, and the\n" +
			"sequences that are parked. Nodes can keep running.",
		Example: `  ganglion groups --store postgres://ganglion@db/ganglion
  ganglion groups --store ./ganglion-data --json`,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.run(cmd.Context(), p) },
	}
	f := cmd.Flags()
	c.storeFlags.addTo(f)
	fromEnvironment(f)
	f.BoolVar(&c.JSON, "json", false, "print JSON")
	return cmd
}

// groupsReport is what "ganglion groups" prints.
type groupsReport struct {
	Segments []node.GroupSegment   `json:"segments"`
	Parked   []node.ParkedSequence `json:"parked"`
}

func (c groupsCmd) run(ctx context.Context, p *program) error {
	store, err := c.openToRead(ctx, p.logger())
	if err != nil {
		return err
	}
	defer store.Close()
	o := node.OperateGroups(store)
	var r groupsReport
	if r.Segments, err = o.Segments(ctx); err != nil {
		return err
	}
	if r.Parked, err = o.Parked(ctx, math.MaxInt); err != nil {
		return err
	}
	if c.JSON {
		return printJSON(r)
	}
	return r.write(os.Stdout)
}

func (r groupsReport) write(out io.Writer) error {
	if len(r.Segments) == 0 {
		fmt.Fprintln(out, "no consumer group is stored: no node whose program declares one has run on this log")
		return nil
	}
	w := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "GROUP\tSEGMENT\tMEMBER\tGATEWAY\tPOSITION\tLAG\tEPOCH\tTRIES\tSTATE")
	for _, s := range r.Segments {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%d\t%d\t%d\t%s\n", s.Group, s.Segment, cmp.Or(s.Member, "-"), cmp.Or(s.Gateway, "-"),
			s.Position, s.Lag, s.Epoch, s.Tries, s.State())
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, p := range r.Parked[:min(len(r.Parked), mostBlocked)] {
		state := "is parked"
		if p.Retried {
			state = "is retried"
		}
		fmt.Fprintf(out, "%s: %s %s at position %d since %s: %s\n", p.Group, p.Sequence, state, p.Position, p.Since.Format(time.RFC3339), p.Reason)
	}
	if more := len(r.Parked) - mostBlocked; more > 0 {
		fmt.Fprintf(out, "%d more sequences are parked; --json lists all\n", more)
	}
	return nil
}

func groupCommand(p *program) *cobra.Command {
	cmd := &cobra.Command{Use: "group COMMAND", Short: "Reset, resize, pause, repair or drop a consumer group"}
	cmd.AddCommand(
		groupResetCommand(p), groupResizeCommand(p),
		groupPauseCommand(p, "pause", "Stop the deliveries of a consumer group", "Members keep their segments and can acknowledge what they have.", true),
		groupPauseCommand(p, "resume", "Let the deliveries of a consumer group continue", "The group continues where it stopped.", false),
		groupRetryCommand(p), groupSkipCommand(p), groupDropCommand(p),
	)
	return cmd
}

func groupResetCommand(p *program) *cobra.Command {
	c := onGroups(p)
	var to string
	own := pflag.NewFlagSet("", pflag.ContinueOnError)
	own.StringVar(&to, "to", "", "`PLACE` after which the group begins: a position, start, head, or keep for where each segment is")
	require(own, "to")
	return c.command("reset", "Begin the deliveries of a consumer group at another position",
		"Members keep their segments and get the events after the position, also any that were acknowledged; earlier ones are not delivered.\n"+
			"Sequences that were parked after the position are not parked any more, and retries end.\n"+
			"keep ends the stop of a group after the loss of events was accepted, if the group had acknowledged none of them.",
		`  ganglion group reset mailer --to 1017 --store postgres://ganglion@db/ganglion
  ganglion group reset mailer --to keep --store postgres://ganglion@db/ganglion`, own,
		func(ctx context.Context, o *node.GroupOperations) error {
			at, err := groupPlace(ctx, o, to)
			if err == nil {
				err = o.Reset(ctx, c.name, at)
			}
			if err != nil {
				return err
			}
			if at == nil {
				fmt.Printf("%s: continues where its segments are\n", c.name)
			} else {
				fmt.Printf("%s: begins after position %d\n", c.name, *at)
			}
			return nil
		})
}

// groupPlace returns the position that --to names, nil for keep.
func groupPlace(ctx context.Context, o *node.GroupOperations, to string) (*eventstore.Position, error) {
	var at eventstore.Position
	switch to {
	case "keep":
		return nil, nil
	case "start":
		return &at, nil
	case "head":
		at, err := o.Head(ctx)
		return &at, err
	}
	n, err := strconv.ParseUint(to, 10, 63)
	if err != nil {
		return nil, usagef("--to is %q: use a position, start, head or keep", to)
	}
	at = eventstore.Position(n)
	return &at, nil
}

func groupResizeCommand(p *program) *cobra.Command {
	c := onGroups(p)
	var segments int
	own := pflag.NewFlagSet("", pflag.ContinueOnError)
	own.IntVar(&segments, "segments", 0, "`NUMBER` of segments, 1 to 256")
	require(own, "segments")
	return c.command("resize", "Give a consumer group another number of segments",
		"At most as many members have work as there are segments. All segments begin where the one that is furthest behind is,\n"+
			"so events may be delivered again; deliveries stand still for 2 s.",
		"  ganglion group resize mailer --segments 32 --store postgres://ganglion@db/ganglion", own,
		func(ctx context.Context, o *node.GroupOperations) error {
			if err := o.Resize(ctx, c.name, segments); err != nil {
				return err
			}
			fmt.Printf("%s: has %d segments\n", c.name, segments)
			return nil
		})
}

func groupPauseCommand(p *program, use, short, long string, paused bool) *cobra.Command {
	c := onGroups(p)
	return c.command(use, short, long, "  ganglion group "+use+" mailer --store postgres://ganglion@db/ganglion", nil,
		func(ctx context.Context, o *node.GroupOperations) error {
			if err := o.Pause(ctx, c.name, paused); err != nil {
				return err
			}
			fmt.Printf("%s: %sd\n", c.name, use)
			return nil
		})
}

func groupRetryCommand(p *program) *cobra.Command {
	c := onGroups(p)
	var sequence string
	own := pflag.NewFlagSet("", pflag.ContinueOnError)
	own.StringVar(&sequence, "sequence", "", "`STREAM` that is retried, such as auction/42 (default all that are parked)")
	return c.command("retry", "Deliver the events of parked sequences again after a fix",
		"The events that waited are delivered in order, from the one that failed on, while the others continue.\n"+
			"A sequence of which an event fails again is parked there.",
		`  ganglion group retry mailer --store postgres://ganglion@db/ganglion
  ganglion group retry mailer --sequence auction/42 --store postgres://ganglion@db/ganglion`, own,
		func(ctx context.Context, o *node.GroupOperations) error {
			if sequence != "" {
				return retrySequence(ctx, o, c.name, sequence)
			}
			parked, err := o.Parked(ctx, math.MaxInt, c.name)
			if err != nil {
				return err
			}
			for _, one := range parked {
				if err := retrySequence(ctx, o, c.name, one.Sequence); err != nil {
					return err
				}
			}
			if len(parked) == 0 {
				fmt.Printf("%s: no sequence is parked\n", c.name)
			}
			return nil
		})
}

func retrySequence(ctx context.Context, o *node.GroupOperations, name, sequence string) error {
	if err := o.Retry(ctx, name, sequence); err != nil {
		return err
	}
	fmt.Printf("%s: %s is retried\n", name, sequence)
	return nil
}

func groupSkipCommand(p *program) *cobra.Command {
	c := onGroups(p)
	var sequence string
	var position uint64
	own := pflag.NewFlagSet("", pflag.ContinueOnError)
	own.StringVar(&sequence, "sequence", "", "`STREAM` that is parked, as ganglion groups prints it")
	own.Uint64Var(&position, "position", 0, "`POSITION` of the event at which it is parked")
	require(own, "sequence", "position")
	return c.command("skip", "Leave one event out of a parked sequence",
		"The event is not delivered to the group any more. The later events of the sequence are.",
		"  ganglion group skip mailer --sequence auction/42 --position 1017 --store postgres://ganglion@db/ganglion", own,
		func(ctx context.Context, o *node.GroupOperations) error {
			if err := o.Skip(ctx, c.name, sequence, eventstore.Position(position)); err != nil {
				return err
			}
			fmt.Printf("%s: %s continues after position %d\n", c.name, sequence, position)
			return nil
		})
}

func groupDropCommand(p *program) *cobra.Command {
	c := onGroups(p)
	var yes, left bool
	own := pflag.NewFlagSet("", pflag.ContinueOnError)
	own.BoolVar(&yes, "yes", false, "drop the group without confirmation")
	own.BoolVar(&left, "members-left", false, "drop the group although members hold segments: the nodes that served them ended with them")
	var cmd *cobra.Command
	cmd = c.command("drop", "Remove a consumer group that no program has any more",
		"Its positions and parked sequences are lost: a group of this name that is declared later begins at the head of the log.\n"+
			"First take the group out of the catalog, and deploy that program to all nodes. The command refuses while the catalog of this\n"+
			"program has the group, and while members hold segments of it. It describes its effects and asks for confirmation.",
		"  ganglion group drop mailer --store postgres://ganglion@db/ganglion", own,
		func(ctx context.Context, o *node.GroupOperations) error {
			notice, err := o.DropNotice(ctx, p.catalog, c.name, left)
			if err != nil {
				return err
			}
			fmt.Fprint(os.Stderr, notice)
			if !yes {
				if err := confirm(cmd.InOrStdin(), os.Stderr, "Drop the group?"); err != nil {
					return err
				}
			}
			if err := o.Drop(ctx, p.catalog, c.name, left); err != nil {
				return err
			}
			fmt.Printf("%s: dropped\n", c.name)
			return nil
		})
	return cmd
}
