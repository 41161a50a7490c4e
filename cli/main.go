// Package cli implements the command line of the program ganglion, and of every
// program with its own aggregates that calls [Main] with its catalog. It runs a node,
// or a whole cluster in one process, and has the commands for operators.
package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"regexp"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"

	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/gateway"
	"github.com/ganglion-es/ganglion/node"
	"github.com/ganglion-es/ganglion/relay"
)

// Exit statuses. They distinguish wrong usage from a failed command, and a damaged
// log from one that could not be read.
const (
	exitFailed  = 1
	exitUsage   = 2
	exitDamaged = 3
)

// Options extend the program. The zero value adds nothing.
type Options struct {
	// Name is the program's name in help, in messages, in the ready line and in
	// traces. Settings keep their names: the variables begin with GANGLION_ and
	// metrics with ganglion_ in every program, so that the compose file, the
	// manifests, the alerts and the documentation apply to each as they are.
	//
	// Defaults to "ganglion".
	Name string

	// Pages answers requests outside a node's own paths, which are /v1/, /healthz,
	// /readyz and /metrics. The commands dev and node serve it.
	//
	// Defaults to one that answers 404.
	Pages http.Handler

	// Examples makes Pages examples: the command node serves them only with
	// --examples, a flag that exists only then.
	Examples bool

	// Auth is the program's own way to identify clients. --auth then has a third
	// choice, program, which is its default; dev and jwt remain. The command dev uses
	// development authentication.
	Auth gateway.Authenticator

	// Consumers, Memories and Clients are those of [node.Config], for the commands
	// dev and node. A node without the gateway role leaves out Consumers and Clients.
	Consumers []node.Consumer
	Memories  func(node.Memories)
	Clients   func(node.Clients)

	// Brokers are those to which the configuration file can name relays and intakes, such
	// as Broker of package relay/rabbitmq. Relays and Intakes are further ones, for the
	// commands dev and node.
	Brokers []relay.Broker
	Relays  []node.Relay
	Intakes []node.Intake
}

// Main runs the command line of the process with the aggregates of a catalog,
// and returns the status with which the process must exit: 0 for success, 1 for
// a command that failed, 2 for wrong flags or a wrong configuration, 3 for a log
// that "ganglion verify" found damaged. SIGINT and SIGTERM begin a drain; a
// second signal ends the process.
func Main(catalog *aggregate.Catalog, options Options) int {
	ctx, stop := untilSignal()
	defer stop()
	p := newProgram(catalog, options)
	root := newRoot(p)
	root.SetArgs(os.Args[1:])
	err := root.ExecuteContext(ctx)
	var usage usageError
	var unfinished unfinishedError
	var damaged damagedError
	var config *node.ConfigError
	switch {
	case errors.As(err, &damaged):
		return p.failed(err, exitDamaged)
	case errors.As(err, &usage), errors.As(err, &config):
		return p.failed(err, exitUsage)
	case errors.As(err, &unfinished), err != nil && ctx.Err() == nil:
		return p.failed(err, exitFailed)
	}
	return 0
}

// newRoot returns the command tree. Most flags can also be set in the environment,
// and those of a node in a file.
func newRoot(p *program) *cobra.Command {
	root := &cobra.Command{
		Use:           p.options.Name + " COMMAND",
		Short:         "Event-sourced aggregates and WebSocket clients on one log",
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	// Without cobra's own flag, which needs text/template. That finds methods by name,
	// so the linker would keep the methods of all types.
	root.Flags().Bool("version", false, "print the version")
	f := root.PersistentFlags()
	f.StringVar(&p.config, "config", "", "TOML `FILE` of settings, each under its flag's name; flags and environment variables override it")
	f.StringVar(&p.level, "log-level", "info", "lowest level of log lines to print: debug, info, warn or error")
	f.StringVar(&p.format, "log-format", "text", "format of log lines: text or json")
	fromEnvironment(f)
	oneOf(root, "log-level", "debug", "info", "warn", "error")
	oneOf(root, "log-format", "text", "json")
	root.AddCommand(
		devCommand(p),
		nodeCommand(p),
		membersCommand(),
		sessionsCommand(p),
		rebalanceCommand(p),
		drainCommand(p),
		debugCommand(p),
		ownerCommand(),
		ringCommand(),
		sendCommand(p),
		getCommand(p),
		queryCommand(p),
		eventsCommand(p),
		verifyCommand(p),
		exportCommand(p),
		importCommand(p),
		processorsCommand(p),
		processorCommand(p),
		groupsCommand(p),
		groupCommand(p),
		relaysCommand(p),
		relayCommand(p),
		intakesCommand(),
		wakesCommand(p),
		wakeCommand(p),
		logCommand(p),
		benchCommand(),
		schemaCommand(p),
		genCommand(p),
		tokenCommand(),
		revokeCommand(),
		certsCommand(),
		configCommand(p),
		healthcheckCommand(),
		completionCommand(),
		versionCommand(p),
	)
	if p.options.Name == "ganglion" { // other programs exist already
		root.AddCommand(newCommand())
	}
	showVersion := versionCommand(p).RunE
	root.SetFlagErrorFunc(flagError)
	root.SetUsageFunc(usage)
	each(root, func(cmd *cobra.Command) {
		cmd.Flags().SortFlags = false
		cmd.PersistentFlags().SortFlags = false
		p.rename(root, cmd)
		if cmd.HasSubCommands() {
			cmd.Args, cmd.RunE = cobra.ArbitraryArgs, choose
			return
		}
		cmd.Args, cmd.PreRunE = positional, prepare
		if !strings.Contains(cmd.Use, "FILE") && cmd.ValidArgs == nil && cmd.ValidArgsFunction == nil {
			cmd.ValidArgsFunction = cobra.NoFileCompletions
		}
	})
	root.RunE = func(cmd *cobra.Command, args []string) error {
		if asked, _ := cmd.Flags().GetBool("version"); asked {
			return showVersion(cmd, args)
		}
		return choose(cmd, args)
	}
	return root
}

func init() { cobra.EnableCommandSorting = false } // help lists commands in the order of newRoot

// each calls do for a command and all its subcommands.
func each(cmd *cobra.Command, do func(*cobra.Command)) {
	do(cmd)
	for _, below := range cmd.Commands() {
		each(below, do)
	}
}

// program is what all commands share.
type program struct {
	logging
	catalog *aggregate.Catalog
	options Options
	config  string // file of --config
}

func newProgram(catalog *aggregate.Catalog, o Options) *program {
	o.Name = cmp.Or(o.Name, "ganglion")
	return &program{catalog: catalog, options: o}
}

// rename replaces the name ganglion in the texts of a command with the program's.
func (p *program) rename(root, cmd *cobra.Command) {
	if p.options.Name == "ganglion" {
		return
	}
	var names []string
	for _, c := range root.Commands() {
		names = append(names, c.Name())
	}
	// A call is the name and a command. The name in a URL of a database or of a file is not one.
	calls := regexp.MustCompile(`(^|[\s'"(\x60])ganglion (` + strings.Join(names, "|") + `)\b`)
	text := func(s string) string { return calls.ReplaceAllString(s, "${1}"+p.options.Name+" ${2}") }
	cmd.Long, cmd.Example = text(cmd.Long), text(cmd.Example)
	cmd.LocalFlags().VisitAll(func(f *pflag.Flag) { f.Usage = text(f.Usage) })
}

// logging holds the flags for log lines.
type logging struct {
	level, format string
	current       slog.LevelVar // operators can change it while the program runs
}

// logger returns a logger that writes to standard error; standard output is for
// results.
func (l *logging) logger() *slog.Logger {
	_ = l.current.UnmarshalText([]byte(l.level)) // oneOf admits only valid names
	options := &slog.HandlerOptions{Level: &l.current}
	if l.format == "json" {
		return slog.New(slog.NewJSONHandler(os.Stderr, options))
	}
	return slog.New(slog.NewTextHandler(os.Stderr, options))
}

// usage replaces cobra's usage text with one whose lines fit the terminal.
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
		fmt.Fprintf(out, "\nGlobal flags:\n%s", everywhere.FlagUsagesWrapped(width))
	}
	return nil
}

func (p *program) failed(err error, code int) int {
	fmt.Fprintf(os.Stderr, "%s: %s\n", p.options.Name, sentence(err))
	return code
}

// usageError reports wrong flags or arguments.
type usageError struct{ error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// untilSignal returns a context that the first SIGINT or SIGTERM cancels, which
// begins a drain. A second signal ends the process immediately.
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
			fmt.Fprintf(os.Stderr, "stopped by a second signal, %v\n", s)
			os.Exit(exitFailed)
		}
	}()
	return ctx, func() { signal.Stop(signals); close(signals); cancel() }
}

func versionCommand(p *program) *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Print the version",
		Example: `  ganglion version`,
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Println(p.options.Name, node.Version())
			return err
		},
	}
}

// sentence formats an error for a person: on one line, without the names of the
// packages that wrapped it.
func sentence(err error) string {
	var text string
	for line := range strings.Lines(err.Error()) {
		line = strings.Join(strings.Fields(line), " ")
		switch {
		case text == "", line == "":
		case strings.HasSuffix(text, ":"): // the next line completes it
			text += " "
		default:
			text += "; "
		}
		text += line
	}
	for _, prefix := range []string{"ganglion: ", "eventstore: ", "postgres: ", "sqlite: ", "gateway: ", "cluster: ", "token: ", "transfer: ", "import: ", "export: "} {
		text = strings.TrimPrefix(text, prefix)
		for _, before := range []string{": ", "; ", "("} { // keeps "this cluster: "
			text = strings.ReplaceAll(text, before+prefix, before)
		}
	}
	return text
}
