package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/ganglion-es/ganglion/node"
	"github.com/ganglion-es/ganglion/router/ring"
)

type ringCmd struct {
	urlFlag
	Join, Leave []string
	JSON        bool
}

func ringCommand() *cobra.Command {
	var c ringCmd
	cmd := &cobra.Command{
		Use:   "ring",
		Short: "Show each member's share of partitions, and what a join or leave would move",
		Long:  "Show each member's share of partitions, and what a join or leave would move.\nThe command computes the new ring itself, as nodes do, and changes nothing.",
		Example: `  ganglion ring --url http://n1:8080
  ganglion ring --join n4
  ganglion ring --leave n1 --join n5 --json`,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.run(cmd.Context()) },
	}
	f := cmd.Flags()
	c.urlFlag.addTo(f)
	fromEnvironment(f)
	f.StringSliceVar(&c.Join, "join", nil, "`NAME` of a domain node that would join (repeatable)")
	f.StringSliceVar(&c.Leave, "leave", nil, "`NAME` of a domain node that would leave (repeatable)")
	f.BoolVar(&c.JSON, "json", false, "print JSON")
	return cmd
}

// ringReport has the current owners of partitions, and those after a plan.
type ringReport struct {
	Signature  string      `json:"signature"`
	Partitions int         `json:"partitions"`
	Owners     []ringShare `json:"owners"`
	Plan       *ringPlan   `json:"plan,omitempty"`
}

// ringShare is the share of one member.
type ringShare struct {
	Member     string  `json:"member"`
	Partitions int     `json:"partitions"`
	Share      float64 `json:"share"` // of all, from 0 to 1
}

// ringPlan is a possible ring, and the moves that lead to it.
type ringPlan struct {
	Join   []string    `json:"join"`
	Leave  []string    `json:"leave"`
	Owners []ringShare `json:"owners"`
	Moves  []ring.Move `json:"moves"`
	// Moved counts the partitions that change owners. Needless counts the moves
	// among them between two members that stay.
	Moved    int `json:"moved"`
	Needless int `json:"needless"`
}

func (c ringCmd) run(ctx context.Context) error {
	status, err := c.cluster(ctx, "")
	if err != nil {
		return err
	}
	report, err := c.report(status)
	if err != nil {
		return err
	}
	if c.JSON {
		return printJSON(report)
	}
	return report.write(os.Stdout)
}

// report computes the ring of the asked node, and the planned one.
func (c ringCmd) report(status node.ClusterStatus) (ringReport, error) {
	var owners []string
	for _, m := range status.Members {
		if (m.State == "ready" || m.State == node.NotReady) && slices.Contains(m.Roles, "domain") {
			owners = append(owners, m.ID)
		}
	}
	now := ring.New(owners)
	r := ringReport{Signature: status.Ring.Signature, Partitions: status.Ring.Partitions, Owners: shares(now)}
	if got := node.RingSignature(now); got != status.Ring.Signature {
		return r, fmt.Errorf("%s reports the ring %s, but its members give the ring %s here: retry, since the cluster may be changing; if it is not, the node (version %s) distributes partitions differently from this program (version %s)",
			status.Node, status.Ring.Signature, got, status.Version, node.Version())
	}
	if len(c.Join)+len(c.Leave) == 0 {
		return r, nil
	}
	var then []string
	for _, id := range c.Leave {
		if !slices.Contains(owners, id) {
			return r, usagef("--leave: %s owns no partitions; the owners are %s", id, strings.Join(owners, ", "))
		}
	}
	for _, id := range owners {
		if !slices.Contains(c.Leave, id) {
			then = append(then, id)
		}
	}
	for _, id := range c.Join {
		if slices.Contains(owners, id) {
			return r, usagef("--join: %s already owns partitions; name a node that is not in the ring", id)
		}
		then = append(then, id)
	}
	after := ring.New(then)
	r.Plan = &ringPlan{
		Join: append([]string{}, c.Join...), Leave: append([]string{}, c.Leave...),
		Owners: shares(after), Moves: ring.Moves(now, after),
	}
	for _, m := range r.Plan.Moves {
		r.Plan.Moved += m.Partitions
		if slices.Contains(owners, m.To) && slices.Contains(then, m.From) {
			r.Plan.Needless += m.Partitions
		}
	}
	return r, nil
}

func shares(r *ring.Ring) []ringShare {
	list, counts := []ringShare{}, r.Counts()
	for _, id := range r.Members() {
		list = append(list, ringShare{Member: id, Partitions: counts[id], Share: float64(counts[id]) / ring.Partitions})
	}
	return list
}

func (r ringReport) write(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	if r.Plan == nil {
		fmt.Fprintln(w, "MEMBER\tPARTITIONS\tSHARE")
		for _, o := range r.Owners {
			fmt.Fprintf(w, "%s\t%d\t%.1f %%\n", o.Member, o.Partitions, 100*o.Share)
		}
		if len(r.Owners) == 0 {
			fmt.Fprintln(w, "no partition has an owner: no domain node is ready")
		}
		return w.Flush()
	}
	rows := map[string]*struct{ now, then, gets, gives int }{}
	var members []string
	for _, list := range [][]ringShare{r.Owners, r.Plan.Owners} {
		for _, o := range list {
			if rows[o.Member] == nil {
				rows[o.Member] = new(struct{ now, then, gets, gives int })
				members = append(members, o.Member)
			}
		}
	}
	for _, o := range r.Owners {
		rows[o.Member].now = o.Partitions
	}
	for _, o := range r.Plan.Owners {
		rows[o.Member].then = o.Partitions
	}
	for _, m := range r.Plan.Moves {
		if from := rows[m.From]; from != nil {
			from.gives += m.Partitions
		}
		if to := rows[m.To]; to != nil {
			to.gets += m.Partitions
		}
	}
	slices.Sort(members)
	fmt.Fprintln(w, "MEMBER\tPARTITIONS\tTHEN\tSHARE\tGETS\tGIVES")
	for _, id := range members {
		row := rows[id]
		fmt.Fprintf(w, "%s\t%d\t%d\t%.1f %%\t%d\t%d\n", id, row.now, row.then, 100*float64(row.then)/float64(r.Partitions), row.gets, row.gives)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(out, "\n%d of %d partitions would move, %.1f %%; %d of them between members that stay\n",
		r.Plan.Moved, r.Partitions, 100*float64(r.Plan.Moved)/float64(r.Partitions), r.Plan.Needless)
	return err
}
