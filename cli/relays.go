package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/node"
)

type relaysCmd struct {
	storeFlags
	urlFlag
	JSON bool
}

func relaysCommand(p *program) *cobra.Command {
	var c relaysCmd
	cmd := &cobra.Command{
		Use:   "relays",
		Short: "List the relays to brokers, their owners and progress",
		Long: "List the relays to brokers that have run on a log, the members that work on them, up to where the broker has confirmed\n" +
			"the events, and why a relay does not continue. Nodes can keep running.\n" +
			"Only owners, and what they wait for, come from the node at --url; without a node, OWNER is -.",
		Example: `  ganglion relays --store postgres://ganglion@db/ganglion --url http://n1:8080
  ganglion relays --store ./ganglion-data --json`,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.run(cmd.Context(), p) },
	}
	f := cmd.Flags()
	c.storeFlags.addTo(f)
	c.urlFlag.addTo(f)
	fromEnvironment(f)
	f.BoolVar(&c.JSON, "json", false, "print JSON")
	return cmd
}

// relaysReport is what "ganglion relays" prints.
type relaysReport struct {
	Relays  []node.OwnedRelay `json:"relays"`
	Problem string            `json:"problem,omitempty"` // why the cluster was not asked
}

func (c relaysCmd) run(ctx context.Context, p *program) error {
	if _, err := nodeURL(c.URL); err != nil {
		return err
	}
	store, err := c.openToRead(ctx, p.logger())
	if err != nil {
		return err
	}
	defer store.Close()
	list, err := node.OperateRelays(store).List(ctx)
	if err != nil {
		return err
	}
	r := relaysReport{Relays: []node.OwnedRelay{}}
	for _, s := range list {
		r.Relays = append(r.Relays, node.OwnedRelay{RelayState: s, Owners: []string{}})
	}
	r.addOwners(ctx, c.urlFlag, store.LogID())
	if c.JSON {
		return printJSON(r)
	}
	return r.write(os.Stdout)
}

func (r *relaysReport) addOwners(ctx context.Context, url urlFlag, logID string) {
	status, err := url.cluster(ctx, "?projections=true")
	switch {
	case err != nil:
		r.Problem = err.Error()
		return
	case status.Log != logID:
		r.Problem = fmt.Sprintf("the node at %s has another log than this store: use --url with a node of this one", url.URL)
		return
	}
	for _, m := range status.Members {
		if m.Projections != nil {
			node.AddRelayOwner(r.Relays, m.ID, *m.Projections)
		}
	}
}

func (r relaysReport) write(out io.Writer) error {
	if len(r.Relays) == 0 {
		_, err := fmt.Fprintln(out, "no relay has run on this log: a node stores those of its configuration when it starts")
		return err
	}
	w := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "RELAY\tOWNER\tPOSITION\tLAG\tSTATE")
	for _, s := range r.Relays {
		state := s.Describe()
		for _, member := range sortedKeys(s.Waits) {
			if s.Blocked == 0 && !s.Paused && !s.OtherLog {
				state += ", " + member + " waits: " + s.Waits[member]
			}
		}
		fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%s\n", s.Relay, cmp.Or(strings.Join(s.Owners, ","), "-"), s.Position, s.Lag, state)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if r.Problem != "" {
		fmt.Fprintf(out, "owners are unknown: %s\n", r.Problem)
	}
	return nil
}

func onRelays(p *program) *operation[node.RelayOperations] {
	return &operation[node.RelayOperations]{p: p, on: func(s node.Store) (node.RelayOperations, error) { return node.OperateRelays(s), nil }}
}

func relayCommand(p *program) *cobra.Command {
	cmd := &cobra.Command{Use: "relay COMMAND", Short: "Pause, resume, rewind or drop a relay to a broker, or skip one event"}
	cmd.AddCommand(
		relayStepCommand(p, "pause", "Stop a relay before its next event", "The log keeps the events, until `ganglion relay resume`. Nodes notice it within 2 seconds.",
			func(ctx context.Context, o node.RelayOperations, name string) error { return o.Pause(ctx, name) }),
		relayStepCommand(p, "resume", "Let a relay continue", "A relay that has stopped at an event tries it again. A relay that shows another log must be rewound instead.",
			func(ctx context.Context, o node.RelayOperations, name string) error { return o.Resume(ctx, name) }),
		relayRewindCommand(p), relaySkipCommand(p), relayDropCommand(p),
	)
	return cmd
}

func relayStepCommand(p *program, use, short, long string, do func(context.Context, node.RelayOperations, string) error) *cobra.Command {
	c := onRelays(p)
	return c.command(use, short, long, "  ganglion relay "+use+" orders --store postgres://ganglion@db/ganglion", nil,
		func(ctx context.Context, o node.RelayOperations) error {
			if err := do(ctx, o, c.name); err != nil {
				return err
			}
			fmt.Printf("%s: %sd\n", c.name, use)
			return nil
		})
}

func relayRewindCommand(p *program) *cobra.Command {
	c := onRelays(p)
	var to string
	own := pflag.NewFlagSet("", pflag.ContinueOnError)
	own.StringVar(&to, "to", "", "`POSITION` of the last event that is not published again; start for all, head for none")
	require(own, "to")
	return c.command("rewind", "Publish the events after a position again",
		"The relay begins after the last commit that ends at or before the position. Consumers that keep the highest position\n"+
			"leave out what they have. With a position ahead of the relay, the events up to it are never published.\n"+
			"It ends the stop of a relay whose log was restored or copied: choose the position after which consumers lack events.",
		`  ganglion relay rewind orders --to 1017 --store postgres://ganglion@db/ganglion
  ganglion relay rewind orders --to start --store postgres://ganglion@db/ganglion`, own,
		func(ctx context.Context, o node.RelayOperations) error {
			position, err := relayPlace(ctx, o, to)
			if err != nil {
				return err
			}
			at, err := o.Rewind(ctx, c.name, position)
			if err != nil {
				return err
			}
			fmt.Printf("%s: begins after position %d\n", c.name, at)
			return nil
		})
}

func relayPlace(ctx context.Context, o node.RelayOperations, to string) (eventstore.Position, error) {
	switch to {
	case "start":
		return 0, nil
	case "head":
		return o.Store.Head(ctx)
	}
	n, err := strconv.ParseUint(to, 10, 63)
	if err != nil {
		return 0, usagef("--to %q is not a position: write a number, start or head", to)
	}
	return eventstore.Position(n), nil
}

func relaySkipCommand(p *program) *cobra.Command {
	c := onRelays(p)
	var position uint64
	own := pflag.NewFlagSet("", pflag.ContinueOnError)
	own.Uint64Var(&position, "position", 0, "`POSITION` of the event that is never published")
	require(own, "position")
	return c.command("skip", "Leave one event out of a relay",
		"The event is never published, also after a rewind. A relay that has stopped at the event continues with the next one.",
		"  ganglion relay skip orders --position 1017 --store postgres://ganglion@db/ganglion", own,
		func(ctx context.Context, o node.RelayOperations) error {
			if err := o.Skip(ctx, c.name, eventstore.Position(position)); err != nil {
				return err
			}
			fmt.Printf("%s: the event at position %d is skipped\n", c.name, position)
			return nil
		})
}

func relayDropCommand(p *program) *cobra.Command {
	c := onRelays(p)
	return c.command("drop", "Forget a relay that no node has any more",
		"Its position and its skipped events are lost. A node that has a relay of this name begins at the start of the log.",
		"  ganglion relay drop orders --store postgres://ganglion@db/ganglion", nil,
		func(ctx context.Context, o node.RelayOperations) error {
			if err := o.Drop(ctx, c.name); err != nil {
				return err
			}
			fmt.Printf("%s: dropped\n", c.name)
			return nil
		})
}
