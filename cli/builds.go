package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"math"
	"os"
	"sort"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/ganglion-es/ganglion/node"
	"github.com/ganglion-es/ganglion/node/operator"
)

type processorsCmd struct {
	storeFlags
	urlFlag
	JSON bool
}

func processorsCommand(p *program) *cobra.Command {
	var c processorsCmd
	cmd := &cobra.Command{
		Use:   "processors",
		Short: "List the builds of projections and process managers, their owners, progress and blocked rows",
		Long: "List the builds of projections and process managers, the members that work on them, their progress, the rows that wait for an operator,\n" +
			"the pending commands of this program's process managers, and the projections in memory of each member.\n" +
			"Nodes can keep running. Blocked rows are listed for builds of this program's projections.\n" +
			"Only owners and projections in memory come from the node at --url; without a node, OWNER is -.",
		Example: `  ganglion processors --store postgres://ganglion@db/ganglion --url http://n1:8080
  ganglion processors --store ./ganglion-data --json`,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.run(cmd.Context(), p) },
	}
	f := cmd.Flags()
	c.storeFlags.addTo(f)
	c.urlFlag.addTo(f)
	fromEnvironment(f)
	f.BoolVar(&c.JSON, "json", false, "print JSON")
	return cmd
}

// processorsReport is what "ganglion processors" prints.
type processorsReport struct {
	Segments []node.OwnedSegment `json:"segments"`
	Blocked  []node.BlockedRow   `json:"blocked"`
	Memories []memberMemory      `json:"memories"`
	// Outboxes are those of this program's process managers.
	Outboxes []node.OutboxState `json:"outboxes"`
	// Silent has the members that did not say what they work on. Problem is why the
	// cluster was not asked.
	Silent  []string `json:"silent"`
	Problem string   `json:"problem,omitempty"`
}

// A memberMemory is a projection in the memory of a member.
type memberMemory struct {
	Member string `json:"member"`
	operator.Memory
}

func (c processorsCmd) run(ctx context.Context, p *program) error {
	if _, err := nodeURL(c.URL); err != nil {
		return err
	}
	store, err := c.openToRead(ctx, p.logger())
	if err != nil {
		return err
	}
	defer store.Close()
	o, err := node.OperateProcessors(store, p.catalog)
	if err != nil {
		return err
	}
	segments, err := o.Segments(ctx)
	if err != nil {
		return err
	}
	r := processorsReport{Segments: node.OwnedSegments(segments), Memories: []memberMemory{}, Silent: []string{}}
	if r.Blocked, err = o.Blocked(ctx, math.MaxInt); err != nil {
		return err
	}
	if r.Outboxes, err = o.Outboxes(ctx, node.MostHeld); err != nil {
		return err
	}
	r.addOwners(ctx, c.urlFlag, store.LogID())
	if c.JSON {
		return printJSON(r)
	}
	return r.write(os.Stdout)
}

// addOwners adds what the members of a cluster with this log work on.
func (r *processorsReport) addOwners(ctx context.Context, url urlFlag, logID string) {
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
		if m.Projections == nil {
			r.Silent = append(r.Silent, m.ID)
			continue
		}
		r.add(m.ID, *m.Projections)
	}
}

// add adds what one member works on.
func (r *processorsReport) add(member string, w node.ProjectionWork) {
	for _, one := range w.Memories {
		r.Memories = append(r.Memories, memberMemory{member, one})
	}
	node.AddOwner(r.Segments, member, w)
}

// mostBlocked bounds the blocked rows that are printed; JSON has all.
const mostBlocked = 50

func (r processorsReport) write(out io.Writer) error {
	if len(r.Segments) == 0 {
		fmt.Fprintln(out, "no projection has a build: no node with projections has run on this log")
	} else if err := r.writeSegments(out); err != nil {
		return err
	}
	for _, b := range r.Blocked[:min(len(r.Blocked), mostBlocked)] {
		fmt.Fprintf(out, "%s, build %d: %s waits at position %d since %s: %s\n", b.Projection, b.Build, b.Key, b.Position, b.Since.Format(time.RFC3339), b.Error)
	}
	if more := len(r.Blocked) - mostBlocked; more > 0 {
		fmt.Fprintf(out, "%d more rows wait; --json lists all\n", more)
	}
	if err := r.writeOutboxes(out); err != nil {
		return err
	}
	if err := r.writeMemories(out); err != nil {
		return err
	}
	switch {
	case r.Problem != "":
		fmt.Fprintf(out, "owners are unknown: %s\n", r.Problem)
	case len(r.Silent) > 0:
		fmt.Fprintf(out, "%s did not say what it works on: it is too old, or did not answer in time\n", strings.Join(r.Silent, ", "))
	}
	return nil
}

func (r processorsReport) writeSegments(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "PROJECTION\tBUILD\tFINGERPRINT\tPROGRAM\tSEGMENT\tOWNER\tPOSITION\tLAG\tSTATE")
	for _, s := range r.Segments {
		program := "other"
		if s.Own {
			program = "this"
		}
		fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%d\t%s\t%d\t%d\t%s\n", s.Projection, s.Build, s.Fingerprint[:min(len(s.Fingerprint), 8)], program,
			s.Segment, cmp.Or(strings.Join(s.Owners, ","), "-"), s.Position, s.Lag, s.Describe())
	}
	return w.Flush()
}

func (r processorsReport) writeOutboxes(out io.Writer) error {
	if len(r.Outboxes) == 0 {
		return nil
	}
	w := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "PROCESS MANAGER\tPENDING COMMANDS\tOLDEST\tHELD\tREJECTED SINCE ITS FIRST RUN\tLAST REJECTED")
	for _, o := range r.Outboxes {
		last := "-"
		if !o.LastRejected.IsZero() {
			last = o.LastRejected.Format(time.RFC3339)
		}
		fmt.Fprintf(w, "%s\t%d\t%s\t%d\t%d\t%s\n", o.Process, o.Commands, o.Oldest.Round(time.Second), len(o.Held), o.Rejected, last)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, o := range r.Outboxes {
		for _, h := range o.Held[:min(len(o.Held), mostBlocked)] {
			fmt.Fprintf(out, "%s: %s is held at position %d by the command %s, after %d attempts: %s\n", o.Process, h.Target, h.Position, h.Command, h.Attempts, h.Error)
		}
	}
	return nil
}

func (r processorsReport) writeMemories(out io.Writer) error {
	if len(r.Memories) == 0 {
		return nil
	}
	w := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "IN MEMORY\tMEMBER\tPOSITION\tSTATE")
	sort.SliceStable(r.Memories, func(i, j int) bool { return r.Memories[i].Projection < r.Memories[j].Projection })
	for _, m := range r.Memories {
		fmt.Fprintf(w, "%s\t%s\t%d\t%s\n", m.Projection, m.Member, m.Position, m.State())
	}
	return w.Flush()
}
