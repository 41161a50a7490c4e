package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/node"
)

type membersCmd struct {
	urlFlag
	JSON bool
}

func membersCommand() *cobra.Command {
	var c membersCmd
	cmd := &cobra.Command{
		Use:   "members",
		Short: "List the members of a cluster",
		Example: `  ganglion members --url http://n1:8080
  ganglion members --json`,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.run(cmd.Context()) },
	}
	f := cmd.Flags()
	c.urlFlag.addTo(f)
	fromEnvironment(f)
	f.BoolVar(&c.JSON, "json", false, "print the node's answer to /v1/cluster")
	return cmd
}

func (c membersCmd) run(ctx context.Context) error {
	status, err := c.cluster(ctx, "")
	if err != nil {
		return err
	}
	if c.JSON {
		return printJSON(status)
	}
	return printMembers(os.Stdout, status)
}

func printMembers(out io.Writer, status node.ClusterStatus) error {
	w := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "MEMBER\tSTATE\tROLES\tPARTITIONS\tSESSIONS\tLINK\tCLOCK\tAGE\tVERSION\tPEER\tHTTP\tRING")
	for _, m := range status.Members {
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n",
			m.ID, m.State, strings.Join(m.Roles, ","), m.Partitions, sessionCount(m), linkState(status, m.ID), clockState(m),
			memberAge(m), cmp.Or(m.Version, "-"), m.Peer, m.HTTP, m.Ring)
	}
	for _, l := range status.Lost {
		fmt.Fprintf(w, "%s\tlost\t%s\t-\t-\t-\t-\t-\t%s\t%s\t%s\t-\n", l.ID, strings.Join(l.Roles, ","), cmp.Or(l.Version, "-"), l.Peer, l.HTTP)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, m := range status.Members {
		switch {
		case m.Problem == "":
		case m.State == node.NotReady:
			fmt.Fprintf(out, "%s is not ready: %s\n", m.ID, m.Problem)
		default:
			fmt.Fprintf(out, "%s: %s\n", m.ID, m.Problem)
		}
	}
	for _, l := range status.Lost {
		fmt.Fprintf(out, "%s is lost: %s last heard from it %s ago, and it announced no departure\n", l.ID, status.Node, age(l.LostSeconds))
	}
	return nil
}

// memberAge returns "-" if the asked node is too old to know versions and ages.
func memberAge(m node.MemberStatus) string {
	if m.AgeSeconds == 0 && m.Version == "" {
		return "-"
	}
	return age(m.AgeSeconds)
}

// age formats a duration in its two largest units.
func age(seconds int64) string {
	units := []struct {
		name string
		size int64
	}{{"d", 24 * 3600}, {"h", 3600}, {"m", 60}, {"s", 1}}
	for i, u := range units {
		switch {
		case seconds < u.size:
		case i+1 < len(units):
			return fmt.Sprintf("%d%s%d%s", seconds/u.size, u.name, seconds%u.size/units[i+1].size, units[i+1].name)
		default:
			return fmt.Sprintf("%ds", seconds)
		}
	}
	return "0s"
}

func sessionCount(m node.MemberStatus) string {
	if m.Sessions == nil {
		return "-"
	}
	return strconv.Itoa(*m.Sessions)
}

// linkState returns the state of the asked node's link to a member.
func linkState(status node.ClusterStatus, member string) string {
	for _, l := range status.Links {
		switch {
		case l.Node != member:
		case !l.Up && l.HeardMS < 0:
			return "never heard"
		case !l.Up:
			return fmt.Sprintf("silent %.1fs", float64(l.HeardMS)/1000)
		case l.Draining:
			return "draining"
		case l.Doubted:
			return "doubted"
		default:
			return "up"
		}
	}
	return "-" // the node itself, or a member without the domain role
}

// clockState returns how far a member's clock is ahead of the database's.
func clockState(m node.MemberStatus) string {
	if m.ClockMS == 0 {
		return "ok"
	}
	return fmt.Sprintf("%+.1fs", float64(m.ClockMS)/1000)
}

func ownerCommand() *cobra.Command {
	var node urlFlag
	cmd := &cobra.Command{
		Use:     "owner AGGREGATE",
		Short:   "Show the owner of an aggregate",
		Long:    "Print the name of the member that owns an aggregate, such as auction/42.",
		Example: `  ganglion owner auction/42 --url http://n1:8080`,
		RunE:    func(cmd *cobra.Command, args []string) error { return showOwner(cmd.Context(), node, args[0]) },
	}
	f := cmd.Flags()
	node.addTo(f)
	fromEnvironment(f)
	return cmd
}

func showOwner(ctx context.Context, node urlFlag, aggregate string) error {
	if _, err := eventstore.ParseStreamID(aggregate); err != nil {
		return usageError{err}
	}
	status, err := node.cluster(ctx, "?aggregate="+url.QueryEscape(aggregate))
	if err != nil {
		return err
	}
	if status.Owner == nil || status.Owner.Member == "" {
		return errors.New("the aggregate has no owner: no domain node is ready")
	}
	fmt.Println(status.Owner.Member)
	return nil
}
