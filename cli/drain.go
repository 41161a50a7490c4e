package cli

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ganglion-es/ganglion/node"
	"github.com/ganglion-es/ganglion/node/operator"
)

type drainCmd struct {
	operatorFlags
	Node            string
	Shutdown, Force bool
}

func drainCommand(p *program) *cobra.Command {
	var c drainCmd
	cmd := &cobra.Command{
		Use:   "drain NODE",
		Short: "Drain a node: move its sessions and aggregates to other nodes",
		Long: `Drain the member NODE, as SIGTERM does: it announces that it leaves, sends its sessions elsewhere, finishes commands in flight and hands over its aggregates.
The process then stays up but not ready (503 on /readyz), so a supervisor does not restart it. Stop it yourself, or use --shutdown. A restarted node serves again.`,
		Example: `  ganglion drain n2 --url http://n1:8080
  ganglion drain n2 --shutdown --peer-tls-cert operator.pem --peer-tls-key operator.key --peer-tls-ca ca.pem`,
		RunE: func(cmd *cobra.Command, args []string) error {
			c.Node = args[0]
			return c.run(cmd.Context(), p.logger())
		},
	}
	f := cmd.Flags()
	c.operatorFlags.addTo(f)
	fromEnvironment(f)
	f.BoolVar(&c.Shutdown, "shutdown", false, "end the process once the node has left")
	f.BoolVar(&c.Force, "force", false, "drain the node even if no other ready member has its roles")
	return cmd
}

func (c drainCmd) run(ctx context.Context, log *slog.Logger) error {
	op, err := operator.New(c.PeerTLS, log)
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
		line := fmt.Sprintf("%s: draining: %d sessions, %d commands in flight", member.ID, sessions, commands)
		if line != shown {
			fmt.Fprintln(os.Stderr, line)
		}
		shown = line
	})
	if err != nil {
		return unfinished(ctx, fmt.Errorf("%s: %w", member.ID, err), "the node continues to drain")
	}
	if c.Shutdown {
		fmt.Println(member.ID + ": has left and stops")
	} else {
		fmt.Println(member.ID + ": has left; stop its process, or restart it to bring the node back")
	}
	return nil
}

// find returns the member to drain. Without --force it fails if no other ready
// member has its roles.
func (c drainCmd) find(members []node.MemberStatus) (node.MemberStatus, error) {
	i := slices.IndexFunc(members, func(m node.MemberStatus) bool { return m.ID == c.Node })
	if i < 0 {
		var ids []string
		for _, m := range members {
			ids = append(ids, m.ID)
		}
		return node.MemberStatus{}, usagef("%s is not a member of this cluster: %s", c.Node, strings.Join(ids, ", "))
	}
	member := members[i]
	for _, role := range member.Roles {
		another := slices.ContainsFunc(members, func(m node.MemberStatus) bool {
			return m.ID != member.ID && m.State == "ready" && slices.Contains(m.Roles, role)
		})
		if !another && !c.Force {
			return member, usagef("%s is the last ready member with the role %s: start another one first, or use --force", member.ID, role)
		}
	}
	return member, nil
}
