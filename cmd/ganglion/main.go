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

	"github.com/alecthomas/kong"
	kongcompletion "github.com/jotaen/kong-completion"

	"github.com/ganglion-es/ganglion"
)

// Exit codes. A wrong call is told apart from one that failed.
const (
	exitFailed = 1
	exitUsage  = 2
)

// cli is the command line. Every flag can also be given in the environment,
// as GANGLION_ and the flag's name in capitals, and those of a node in a file.
type cli struct {
	ConfigFile string `name:"config" help:"File of settings in TOML, each under its flag's name; the command line and the environment go before it." env:"GANGLION_CONFIG" placeholder:"FILE"`
	LogLevel   string `help:"Log lines of at least this level: debug, info, warn or error." enum:"debug,info,warn,error" default:"info" env:"GANGLION_LOG_LEVEL"`
	LogFormat  string `help:"How log lines are written: text or json." enum:"text,json" default:"text" env:"GANGLION_LOG_FORMAT"`

	Dev         devCmd         `cmd:"" help:"Run a cluster in one process on an embedded store, to try things out."`
	Node        nodeCmd        `cmd:"" help:"Run a member of a cluster."`
	Members     membersCmd     `cmd:"" help:"Show the members of a cluster."`
	Sessions    sessionsCmd    `cmd:"" help:"Count the sessions of each gateway, list slow ones, close some."`
	Rebalance   rebalanceCmd   `cmd:"" name:"rebalance-sessions" help:"After gateways were added: ask some sessions of the fullest ones to connect elsewhere."`
	Drain       drainCmd       `cmd:"" help:"Have a node leave the cluster: its sessions and aggregates go to others."`
	Owner       ownerCmd       `cmd:"" help:"Show which member owns an aggregate."`
	Ring        ringCmd        `cmd:"" help:"Show which member owns how much, and what a join or a leave would move."`
	Events      eventsCmd      `cmd:"" help:"Show events, from a gateway or from the log itself."`
	Verify      verifyCmd      `cmd:"" help:"Audit a log: positions, versions, keys."`
	Export      exportCmd      `cmd:"" help:"Write a log to a file, as JSON lines."`
	Import      importCmd      `cmd:"" help:"Read an exported log into another one."`
	Log         logCmd         `cmd:"" help:"Repair what only an operator may decide."`
	Bench       benchCmd       `cmd:"" help:"Load a cluster, measure it, and check what it promises."`
	Schema      schemaCmd      `cmd:"" help:"Write what the aggregates take and show, as JSON Schema or AsyncAPI."`
	Gen         genCmd         `cmd:"" help:"Write code for clients."`
	Token       tokenCmd       `cmd:"" help:"Make a token for a client, with the secret that --jwt-hmac-file names."`
	Revoke      revokeCmd      `cmd:"" help:"Revoke tokens before they expire, in the file that --jwt-revocations names."`
	Certs       certsCmd       `cmd:"" help:"Make a small authority and the certificates with which nodes know each other."`
	Config      configCmd      `cmd:"" name:"config" help:"Check what a node is given."`
	Healthcheck healthcheckCmd `cmd:"" help:"Ask the node on this machine whether it serves; for containers."`
	Completion  completionCmd  `cmd:"" help:"Have bash, zsh or fish complete commands and flags."`
	Version     versionCmd     `cmd:"" help:"Print the version."`
}

// logger writes to standard error; standard output is for answers. The level
// may change later.
func (c *cli) logger(level *slog.LevelVar) *slog.Logger {
	_ = level.UnmarshalText([]byte(c.LogLevel)) // one of the four names
	options := &slog.HandlerOptions{Level: level}
	if c.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(os.Stderr, options))
	}
	return slog.New(slog.NewTextHandler(os.Stderr, options))
}

func main() {
	os.Exit(run(os.Args[1:]))
}

func run(args []string) int {
	var c cli
	parser, err := newParser(&c)
	if err != nil {
		return failed(err, exitFailed)
	}
	kongcompletion.Register(parser) // ends here if it was a shell that asked
	call, err := parser.Parse(args)
	if err != nil {
		return failed(hinted(err), exitUsage)
	}

	ctx, stop := untilSignal()
	defer stop()
	call.BindTo(ctx, (*context.Context)(nil))
	level := new(slog.LevelVar)
	err = call.Run(c.logger(level), level)
	var usage usageError
	var unfinished unfinishedError
	var config *ganglion.ConfigError
	switch {
	case errors.As(err, &usage), errors.As(err, &config):
		return failed(err, exitUsage)
	case errors.As(err, &unfinished), err != nil && ctx.Err() == nil:
		return failed(err, exitFailed)
	}
	return 0
}

func newParser(c *cli) (*kong.Kong, error) {
	return kong.New(c,
		kong.Name("ganglion"),
		kong.Description("Event-sourced aggregates and WebSocket clients, on one log."),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}),
		kong.ValueFormatter(describe),
	)
}

// describe is a flag's help. A flag with a placeholder would otherwise not say
// what it is when it is not given.
func describe(v *kong.Value) string {
	if v.Tag.PlaceHolder != "" && v.Default != "" {
		described := *v
		described.Help = strings.TrimSuffix(v.Help, ".") + fmt.Sprintf("; %s by default.", v.Default)
		v = &described
	}
	return kong.DefaultHelpValueFormatter(v)
}

// hinted says where to find what a call may say.
func hinted(err error) error {
	help := "ganglion"
	var parse *kong.ParseError
	if errors.As(err, &parse) {
		if command := parse.Context.Selected(); command != nil {
			help = command.FullPath()
		}
	}
	return fmt.Errorf("%w («%s --help» shows what there is)", err, help)
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

type versionCmd struct{}

// Help is what --help says beside the flags.
func (versionCmd) Help() string {
	return `  ganglion version`
}

func (versionCmd) Run() error {
	fmt.Println("ganglion", ganglion.Version())
	return nil
}
