package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sync/errgroup"

	"github.com/ganglion-es/ganglion/gateway"
	"github.com/ganglion-es/ganglion/node/operator"
	"github.com/ganglion-es/ganglion/node/trust"
)

// sessionsTimeout bounds the requests to all gateways together.
const sessionsTimeout = 5 * time.Second

// operatorFlags select a cluster and the operator's certificate.
type operatorFlags struct {
	urlFlag
	PeerTLS trust.PeerTLS
}

func (f *operatorFlags) addTo(flags *pflag.FlagSet) {
	f.urlFlag.addTo(flags)
	peerTLSFlags(flags, &f.PeerTLS)
}

// tally is a gateway with its sessions.
type tally struct {
	Member string `json:"member"`
	operator.Sessions

	addr string // for peers
}

// ask returns the sessions of all ready gateways. It fails if one does not answer,
// so the caller never decides on incomplete data.
func (f operatorFlags) ask(ctx context.Context, log *slog.Logger, slow int) (*operator.Client, []tally, error) {
	op, err := operator.New(f.PeerTLS, log)
	if err != nil {
		return nil, nil, usageError{err}
	}
	status, err := f.cluster(ctx, "")
	if err != nil {
		return nil, nil, err
	}
	var list []tally
	for _, m := range status.Members {
		if slices.Contains(m.Roles, "gateway") && m.State == "ready" {
			list = append(list, tally{Member: m.ID, addr: m.Peer})
		}
	}
	if len(list) == 0 {
		return nil, nil, errors.New("no gateway is ready")
	}
	ctx, cancel := context.WithTimeout(ctx, sessionsTimeout)
	defer cancel()
	var asking errgroup.Group
	for i := range list {
		asking.Go(func() (err error) {
			if list[i].Sessions, err = op.Sessions(ctx, list[i].addr, slow); err != nil {
				return fmt.Errorf("%s: %w", list[i].Member, err)
			}
			return nil
		})
	}
	return op, list, asking.Wait()
}

type sessionsCmd struct {
	operatorFlags
	Slow             int
	Kick, KickClient string
	JSON             bool
}

func sessionsCommand(p *program) *cobra.Command {
	var c sessionsCmd
	cmd := &cobra.Command{
		Use:   "sessions",
		Short: "Count the sessions of each gateway, list slow ones, or close some",
		Long:  "Count the sessions of each gateway, list slow ones, or close some.\nIf the nodes use certificates, the command needs one of the same authority (--peer-tls-…).",
		Example: `  ganglion sessions --url http://n1:8080 --slow 20
  ganglion sessions --kick-client bob --peer-tls-cert operator.pem --peer-tls-key operator.key --peer-tls-ca ca.pem`,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.run(cmd.Context(), p.logger()) },
	}
	f := cmd.Flags()
	c.operatorFlags.addTo(f)
	fromEnvironment(f)
	f.IntVar(&c.Slow, "slow", 0, "number of sessions with a full socket to list for each gateway, the furthest behind first (default 0)")
	f.StringVar(&c.Kick, "kick", "", "close this `SESSION`; its client does not reconnect automatically")
	f.StringVar(&c.KickClient, "kick-client", "", "close all sessions of this client `ID`")
	f.BoolVar(&c.JSON, "json", false, "print JSON")
	cmd.MarkFlagsMutuallyExclusive("kick", "kick-client")
	return cmd
}

func (c sessionsCmd) run(ctx context.Context, log *slog.Logger) error {
	if c.Slow < 0 {
		return usagef("--slow is %d: it must not be negative", c.Slow)
	}
	op, list, err := c.ask(ctx, log, c.Slow)
	if err != nil {
		return err
	}
	if c.Kick != "" || c.KickClient != "" {
		return c.kick(ctx, op, list)
	}
	if c.JSON {
		return printJSON(list)
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "MEMBER\tSESSIONS\tSLOW")
	var slow []gateway.SlowSession
	for _, g := range list {
		fmt.Fprintf(w, "%s\t%d\t%d\n", g.Member, g.Open, g.Full)
		slow = append(slow, g.Slow...)
	}
	if len(slow) > 0 {
		fmt.Fprintln(w, "\nSESSION\tCLIENT\tSUBSCRIPTIONS\tWAITING BYTES\tEVENTS BEHIND")
		for _, s := range slow {
			fmt.Fprintf(w, "%s\t%q\t%d\t%d\t%d\n", s.ID, s.Client, s.Subscriptions, s.Waiting, s.Behind)
		}
	}
	return w.Flush()
}

func (c sessionsCmd) kick(ctx context.Context, op *operator.Client, list []tally) error {
	kicked := 0
	for _, g := range list {
		n, err := 0, error(nil)
		if c.Kick != "" {
			var found bool
			if found, err = op.KickSession(ctx, g.addr, c.Kick); found {
				n = 1
			}
		} else {
			n, err = op.KickClient(ctx, g.addr, c.KickClient)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", g.Member, err)
		}
		kicked += n
	}
	switch {
	case kicked == 0 && c.Kick != "":
		return fmt.Errorf("no gateway has the session %q", c.Kick)
	case kicked == 0:
		return fmt.Errorf("no gateway has a session of the client %q", c.KickClient)
	}
	fmt.Println("closed:", kicked)
	return nil
}

type rebalanceCmd struct {
	operatorFlags
	Percent      float64
	DryRun, JSON bool
}

func rebalanceCommand(p *program) *cobra.Command {
	var c rebalanceCmd
	cmd := &cobra.Command{
		Use:   "rebalance-sessions",
		Short: "Move sessions from the fullest gateways to new ones",
		Long:  "Ask some sessions of the fullest gateways to connect elsewhere, after gateways were added.\nIf the nodes use certificates, the command needs one of the same authority (--peer-tls-…).",
		Example: `  ganglion rebalance-sessions --url http://n1:8080 --dry-run
  ganglion rebalance-sessions --percent 10 --peer-tls-cert operator.pem --peer-tls-key operator.key --peer-tls-ca ca.pem`,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.run(cmd.Context(), p.logger()) },
	}
	f := cmd.Flags()
	c.operatorFlags.addTo(f)
	fromEnvironment(f)
	f.Float64Var(&c.Percent, "percent", 5, "largest share of a gateway's sessions to move, in percent")
	f.BoolVar(&c.DryRun, "dry-run", false, "show which sessions would move, and move none")
	f.BoolVar(&c.JSON, "json", false, "print JSON")
	return cmd
}

func (c rebalanceCmd) run(ctx context.Context, log *slog.Logger) error {
	if !(c.Percent > 0 && c.Percent <= 100) {
		return usagef("--percent is %v: it must be above 0 and at most 100", c.Percent)
	}
	op, list, err := c.ask(ctx, log, 0)
	if err != nil {
		return err
	}
	moves := surplus(list, c.Percent)
	if !c.JSON && !slices.ContainsFunc(moves, func(n int) bool { return n > 0 }) {
		fmt.Printf("no session needs to move: none of %d gateways has more than its share\n", len(list))
		return nil
	}
	asked := moves
	if !c.DryRun {
		asked = make([]int, len(list))
		var moving errgroup.Group
		for i, n := range moves {
			if n == 0 {
				continue
			}
			moving.Go(func() (err error) {
				if asked[i], err = op.Move(ctx, list[i].addr, n); err != nil {
					return fmt.Errorf("%s: %w", list[i].Member, err)
				}
				return nil
			})
		}
		err = moving.Wait()
	}
	if c.JSON {
		type row struct {
			Member   string `json:"member"`
			Sessions int    `json:"sessions"`
			Asked    int    `json:"asked"` // to move; with --dry-run, would be
		}
		rows := []row{}
		for i, g := range list {
			rows = append(rows, row{g.Member, g.Open, asked[i]})
		}
		return errors.Join(err, printJSON(rows))
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 3, ' ', 0)
	fmt.Fprintf(w, "MEMBER\tSESSIONS\t%s\n", map[bool]string{true: "WOULD BE ASKED", false: "ASKED TO MOVE"}[c.DryRun])
	for i, g := range list {
		fmt.Fprintf(w, "%s\t%d\t%d\n", g.Member, g.Open, asked[i])
	}
	return errors.Join(err, w.Flush())
}

// surplus returns how many sessions each gateway has beyond its share, bounded by a
// percentage of its sessions.
func surplus(list []tally, percent float64) []int {
	total := 0
	for _, g := range list {
		total += g.Open
	}
	share := (total + len(list) - 1) / len(list)
	moves := make([]int, len(list))
	for i, g := range list {
		most := int(math.Ceil(float64(g.Open) * percent / 100))
		moves[i] = min(max(g.Open-share, 0), most)
	}
	return moves
}
