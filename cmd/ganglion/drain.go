package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ganglion-es/ganglion/node"
)

type drainCmd struct {
	operatorFlags
	Node            string
	Shutdown, Force bool
}

func drainCommand(l *logging) *cobra.Command {
	var c drainCmd
	cmd := &cobra.Command{
		Use:   "drain NODE",
		Short: "Have a node leave the cluster: its sessions and aggregates go to others.",
		Long: `Has the member NODE leave the cluster, as at SIGTERM: it says so, parts with its sessions, finishes what is under way and hands over its aggregates.
Then its process waits to be stopped, answers 503 on /readyz and serves nothing, so that whatever restarts processes does not bring it back. Started anew it serves again.`,
		Example: `  ganglion drain n2 --url http://n1:8080
  ganglion drain n2 --shutdown --peer-tls-cert operator.pem --peer-tls-key operator.key --peer-tls-ca ca.pem`,
		RunE: func(cmd *cobra.Command, args []string) error {
			c.Node = args[0]
			return c.run(cmd.Context(), l.logger())
		},
	}
	f := cmd.Flags()
	c.operatorFlags.addTo(f)
	fromEnvironment(f)
	f.BoolVar(&c.Shutdown, "shutdown", false, "End the node's process as well, once it has left.")
	f.BoolVar(&c.Force, "force", false, "Even if no other member can do what it does.")
	return cmd
}

func (c drainCmd) run(ctx context.Context, log *slog.Logger) error {
	op, err := node.NewOperator(c.PeerTLS, log)
	if err != nil {
		return usageError{err}
	}
	status, err := c.cluster(ctx, "")
	if err != nil {
		return err
	}
	member, err := c.find(status.Members)
	if err != nil {
		return err
	}
	shown := ""
	err = op.Drain(ctx, member.Peer, c.Shutdown, func(sessions, commands int) {
		line := fmt.Sprintf("%s: draining: %d sessions, %d commands under way", member.ID, sessions, commands)
		if line != shown {
			fmt.Fprintln(os.Stderr, line)
		}
		shown = line
	})
	if err != nil {
		return unfinished(ctx, fmt.Errorf("%s: %w", member.ID, err), "the node goes on draining")
	}
	if c.Shutdown {
		fmt.Println(member.ID + ": has left, and stops")
	} else {
		fmt.Println(member.ID + ": has left; stop its process, or start it again to have it back")
	}
	return nil
}

// find returns the member to drain, if the cluster can do without it.
func (c drainCmd) find(members []node.MemberStatus) (node.MemberStatus, error) {
	i := slices.IndexFunc(members, func(m node.MemberStatus) bool { return m.ID == c.Node })
	if i < 0 {
		var ids []string
		for _, m := range members {
			ids = append(ids, m.ID)
		}
		return node.MemberStatus{}, usagef("%s is no member of this cluster: %s", c.Node, strings.Join(ids, ", "))
	}
	member := members[i]
	for _, role := range member.Roles {
		another := slices.ContainsFunc(members, func(m node.MemberStatus) bool {
			return m.ID != member.ID && m.State == "ready" && slices.Contains(m.Roles, role)
		})
		if !another && !c.Force {
			return member, usagef("%s is the last ready member with the role %s: start another one first, or --force", member.ID, role)
		}
	}
	return member, nil
}
