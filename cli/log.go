package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/verify"
	"github.com/ganglion-es/ganglion/node"
)

type verifyCmd struct {
	storeFlags
	JSON bool
}

func verifyCommand(p *program) *cobra.Command {
	var c verifyCmd
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Audit a log: positions, versions, keys",
		Long:  "Audit a log: positions, versions, keys. Nodes can keep running, including the process that has an embedded log open.\nThe exit status is 3 if the log is damaged, and 1 if it could not be read.",
		Example: `  ganglion verify --store postgres://ganglion@db/ganglion
  ganglion verify --store ./ganglion-data --json`,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.run(cmd.Context(), p.logger()) },
	}
	f := cmd.Flags()
	c.storeFlags.addTo(f)
	fromEnvironment(f)
	f.BoolVar(&c.JSON, "json", false, "print the report as JSON")
	return cmd
}

func (c verifyCmd) run(ctx context.Context, log *slog.Logger) error {
	store, err := c.openToRead(ctx, log)
	if err != nil {
		return err
	}
	defer store.Close()
	p := newProgress("verify", "positions")
	report, err := verify.LogWith(ctx, store, verify.Options{Progress: func(check verify.Check, at, head eventstore.Position) {
		if check == verify.Rows {
			p.set(int64(at), int64(head))
			return
		}
		p.step("verify " + string(check))
	}})
	p.finish()
	if err != nil {
		return unfinished(ctx, err, "the audit is incomplete")
	}
	if c.JSON {
		report.Faults = append([]verify.Fault{}, report.Faults...) // printed as [], not null
		err = printJSON(report)
	} else {
		printReport(report)
	}
	if err != nil || len(report.Faults) == 0 {
		return err
	}
	return damagedError{fmt.Errorf("the log is damaged, first at position %d", report.Faults[0].Position)}
}

// damagedError reports a log in which verify found faults.
type damagedError struct{ error }

func printReport(r verify.Report) {
	fmt.Printf("log %s: %d events in %d commits of %d streams, up to position %d\n", r.LogID, r.Events, r.Commits, r.Streams, r.Head)
	if len(r.Faults) == 0 {
		fmt.Println("no faults found")
	}
	for _, fault := range r.Faults {
		fmt.Println(fault)
	}
}

func logCommand(p *program) *cobra.Command {
	cmd := &cobra.Command{Use: "log COMMAND", Short: "Recover a log (needs an operator's decision)"}
	cmd.AddCommand(acceptLossCommand(p))
	return cmd
}

type acceptLossCmd struct {
	storeFlags
	Yes bool
}

func acceptLossCommand(p *program) *cobra.Command {
	var c acceptLossCmd
	cmd := &cobra.Command{
		Use:   "accept-loss",
		Short: "Accept that a restored log lost its newest events",
		Long: "Accept that a restored log lost its newest events: nodes serve it again, and clients that saw lost events start over.\n" +
			"Restore everything that can be restored first: accepted losses are final.\n" +
			"The command describes its effects and asks for confirmation.",
		Example: `  ganglion log accept-loss --store postgres://ganglion@db/ganglion`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.run(cmd.Context(), cmd.InOrStdin(), p.logger())
		},
	}
	f := cmd.Flags()
	c.storeFlags.addTo(f)
	fromEnvironment(f)
	f.BoolVar(&c.Yes, "yes", false, "accept the loss without confirmation")
	return cmd
}

func (c acceptLossCmd) run(ctx context.Context, in io.Reader, log *slog.Logger) error {
	store, err := c.openExisting(ctx, log)
	if err != nil {
		return err
	}
	defer store.Close()
	head, err := store.Head(ctx)
	if err != nil {
		return err
	}
	newest, err := newestCommit(ctx, store, head)
	if err != nil {
		return err
	}
	old := store.LogID()
	fmt.Fprint(os.Stderr, lossNotice(old, head, newest))
	if !c.Yes {
		if err := confirm(in, os.Stderr, "Accept the loss?"); err != nil {
			return err
		}
	}
	id, err := store.AcceptLoss(ctx)
	if err != nil {
		return err
	}
	if head, err = store.Head(ctx); err != nil {
		return err
	}
	fmt.Printf("The log now ends at position %d and has the id %s (before: %s).\n", head, id, old)
	return nil
}

// newestCommit returns the time of the last commit, zero if the log is empty.
func newestCommit(ctx context.Context, store node.Store, head eventstore.Position) (time.Time, error) {
	if head == 0 {
		return time.Time{}, nil
	}
	commits, err := store.Read(ctx, head-1, 1)
	if err != nil || len(commits) == 0 {
		return time.Time{}, err
	}
	return commits[0].At, nil
}

// lossNotice describes the effects of accepting a loss.
func lossNotice(log string, head eventstore.Position, newest time.Time) string {
	ends := "is empty"
	if head > 0 {
		ends = fmt.Sprintf("ends at position %d, stored at %s", head, newest.UTC().Format(time.RFC3339))
	}
	return fmt.Sprintf(`The log %s %s.
Accept a loss only after a restore, or the promotion of a standby, that lost events. The effects are:
- Events after position %d are given up. A better backup cannot bring them back afterwards.
- The log gets a new id. Nodes serve it again within 2 seconds.
- Each client with a cursor of the log %s gets "cursor_ahead" and starts over, even if it saw no lost event.
`, log, ends, head, log)
}

// confirm asks a question for the word yes and returns an error for any other answer. It
// asks only on a terminal: a script must use --yes.
func confirm(in io.Reader, out io.Writer, question string) error {
	if file, ok := in.(*os.File); ok && !term.IsTerminal(int(file.Fd())) {
		return usagef("nothing was changed: standard input is not a terminal, so the command cannot ask for confirmation; use --yes to confirm")
	}
	fmt.Fprint(out, question+" Type yes: ")
	answer, err := bufio.NewReader(in).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if strings.TrimSpace(answer) != "yes" {
		return errors.New("nothing was changed: the answer was not yes")
	}
	return nil
}
