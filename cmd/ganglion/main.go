// Command ganglion runs Ganglion: a node of a cluster, or a whole cluster in
// one process for trying things out, and the operators' commands beside them.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/ganglion-es/ganglion/node"
)

// Exit codes. A wrong call is told apart from one that failed, and a damaged
// log from one that could not be looked at.
const (
	exitFailed  = 1
	exitUsage   = 2
	exitDamaged = 3
)

func main() {
	os.Exit(run(os.Args[1:]))
}

func run(args []string) int {
	ctx, stop := untilSignal()
	defer stop()
	root := newRoot()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	var usage usageError
	var unfinished unfinishedError
	var damaged damagedError
	var config *node.ConfigError
	switch {
	case errors.As(err, &damaged):
		return failed(err, exitDamaged)
	case errors.As(err, &usage), errors.As(err, &config):
		return failed(err, exitUsage)
	case errors.As(err, &unfinished), err != nil && ctx.Err() == nil:
		return failed(err, exitFailed)
	}
	return 0
}

// newRoot is the command line. Nearly every flag can also be given in the
// environment, and those of a node in a file.
func newRoot() *cobra.Command {
	var log logging
	root := &cobra.Command{
		Use:           "ganglion COMMAND",
		Short:         "Event-sourced aggregates and WebSocket clients, on one log.",
		Version:       node.Version(),
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.SetVersionTemplate("ganglion {{.Version}}\n")
	root.Flags().Bool("version", false, "Print the version.")
	f := root.PersistentFlags()
	f.String("config", "", "`FILE` of settings in TOML, each under its flag's name; the command line and the environment go before it.")
	f.StringVar(&log.level, "log-level", "info", "Log lines of at least this level: debug, info, warn or error.")
	f.StringVar(&log.format, "log-format", "text", "How log lines are written: text or json.")
	fromEnvironment(f)
	oneOf(root, "log-level", "debug", "info", "warn", "error")
	oneOf(root, "log-format", "text", "json")
	root.AddCommand(
		devCommand(&log),
		nodeCommand(&log),
		membersCommand(),
		sessionsCommand(&log),
		rebalanceCommand(&log),
		drainCommand(&log),
		debugCommand(&log),
		ownerCommand(),
		ringCommand(),
		eventsCommand(&log),
		verifyCommand(&log),
		exportCommand(&log),
		importCommand(&log),
		logCommand(&log),
		benchCommand(),
		schemaCommand(),
		genCommand(),
		tokenCommand(),
		revokeCommand(),
		certsCommand(),
		configCommand(&log),
		healthcheckCommand(),
		completionCommand(),
		versionCommand(),
	)
	root.SetFlagErrorFunc(flagError)
	root.SetUsageFunc(usage)
	each(root, func(cmd *cobra.Command) {
		cmd.Flags().SortFlags = false
		cmd.PersistentFlags().SortFlags = false
		if cmd.HasSubCommands() {
			cmd.Args, cmd.RunE = cobra.ArbitraryArgs, choose
			return
		}
		cmd.Args, cmd.PreRunE = positional, prepare
		if !strings.Contains(cmd.Use, "FILE") && cmd.ValidArgs == nil {
			cmd.ValidArgsFunction = cobra.NoFileCompletions
		}
	})
	return root
}

func init() { cobra.EnableCommandSorting = false } // they stand in the order of their use

// each calls do for a command and all below it.
func each(cmd *cobra.Command, do func(*cobra.Command)) {
	do(cmd)
	for _, below := range cmd.Commands() {
		each(below, do)
	}
}

// logging is how log lines are written.
type logging struct {
	level, format string
	current       slog.LevelVar // may change later
}

// logger writes to standard error; standard output is for answers.
func (l *logging) logger() *slog.Logger {
	_ = l.current.UnmarshalText([]byte(l.level)) // one of the four names
	options := &slog.HandlerOptions{Level: &l.current}
	if l.format == "json" {
		return slog.New(slog.NewJSONHandler(os.Stderr, options))
	}
	return slog.New(slog.NewTextHandler(os.Stderr, options))
}

// usage is what cobra writes, with lines that fit the terminal.
func usage(cmd *cobra.Command) error {
	width, _, err := term.GetSize(int(os.Stdout.Fd()))
	if err != nil {
		width = 100
	}
	out := cmd.OutOrStderr()
	fmt.Fprintf(out, "Usage:\n  %s\n", cmd.UseLine())
	if cmd.HasExample() {
		fmt.Fprintf(out, "\nExamples:\n%s\n", cmd.Example)
	}
	if cmd.HasAvailableSubCommands() {
		fmt.Fprintln(out, "\nCommands:")
		for _, c := range cmd.Commands() {
			if c.IsAvailableCommand() {
				fmt.Fprintf(out, "  %-*s %s\n", c.NamePadding(), c.Name(), c.Short)
			}
		}
	}
	own, everywhere := cmd.LocalFlags(), cmd.InheritedFlags()
	everywhere.SortFlags = false
	if own.HasAvailableFlags() {
		fmt.Fprintf(out, "\nFlags:\n%s", own.FlagUsagesWrapped(width))
	}
	if everywhere.HasAvailableFlags() {
		fmt.Fprintf(out, "\nFlags of every command:\n%s", everywhere.FlagUsagesWrapped(width))
	}
	return nil
}

func failed(err error, code int) int {
	fmt.Fprintf(os.Stderr, "ganglion: %s\n", sentence(err))
	return code
}

// usageError is a call that can't be carried out as it was written.
type usageError struct{ error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// untilSignal returns a context that ends with the first SIGINT or SIGTERM,
// which begins an orderly drain; a second one stops the process at once.
func untilSignal() (context.Context, func()) {
	ctx, cancel := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		if _, ok := <-signals; !ok {
			return
		}
		cancel()
		if s, ok := <-signals; ok {
			fmt.Fprintf(os.Stderr, "ganglion: stopped at once by a second signal, %v\n", s)
			os.Exit(exitFailed)
		}
	}()
	return ctx, func() { signal.Stop(signals); close(signals); cancel() }
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Print the version.",
		Example: `  ganglion version`,
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Println("ganglion", node.Version())
			return err
		},
	}
}
