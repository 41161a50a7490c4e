package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/ganglion-es/ganglion/cli/internal/loadgen"
)

type benchCmd struct {
	loadgen.Config
	Data      string
	MaxErrors int
	JSON      bool
}

func benchCommand() *cobra.Command {
	var c benchCmd
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Load a cluster, measure it, and check its promises",
		Long: `Load a cluster through the client library, measure it, and check its promises:
each acknowledged command has its events in its aggregate's history, once, at the version in its acknowledgement;
each subscriber receives that history in order and without a gap.
The exit status is 1 if a promise was broken, or if more commands failed than --max-errors allows.`,
		Example: `  ganglion bench --url http://n1:8080 --url http://n2:8080
  ganglion bench --rate 2000 --connections 50 --subscribers 200 --duration 5m --reconnect-every 20s --json
  GANGLION_TOKEN=$(ganglion token --jwt-hmac-file secret --client bench) ganglion bench --url https://ganglion.example`,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.run(cmd.Context()) },
	}
	f := cmd.Flags()
	f.StringSliceVar(&c.URLs, "url", []string{"http://127.0.0.1:8080"}, "`URL` of a gateway or load balancer (repeatable)")
	f.StringVar(&c.Token, "token", "", "token of all clients; without one they claim the ids bench-1, bench-2, …, which only gateways in development mode accept")
	fromEnvironment(f)
	f.DurationVar(&c.Duration, "duration", 30*time.Second, "time during which commands are sent")
	f.Float64Var(&c.Rate, "rate", 100, "commands per second over all connections, sent on schedule whether or not earlier ones were answered")
	f.IntVar(&c.Connections, "connections", 10, "connections that send commands")
	f.IntVar(&c.Subscribers, "subscribers", 10, "further connections, which follow the aggregates and must receive every event")
	f.IntVar(&c.Aggregates, "aggregates", 100, "new aggregates that the commands are spread over")
	f.DurationVar(&c.ReconnectEvery, "reconnect-every", 0, "mean time after which a connection is cut without a close frame (default never)")
	f.DurationVar(&c.Timeout, "timeout", 30*time.Second, "time limit of a command with its retries, and of the wait for the last events")
	f.IntVar(&c.MaxErrors, "max-errors", 0, "commands that may fail (default 0)")
	f.StringVar(&c.Type, "type", "counter", "aggregate type; set it with --command and --data if the application has no counters")
	f.StringVar(&c.Command, "command", "add", "command to send; it must store at least one event each time")
	f.StringVar(&c.Data, "data", `{"by":1}`, "the command's data, in `JSON`")
	f.BoolVar(&c.JSON, "json", false, "print the report as JSON")
	return cmd
}

// Bounds of --rate: outside them the interval between two commands is not a
// usable duration.
const minRate, maxRate = 0.001, 1_000_000

func (c benchCmd) validate() error {
	var errs []error
	for name, n := range map[string]int{"connections": c.Connections, "aggregates": c.Aggregates} {
		if n < 1 {
			errs = append(errs, fmt.Errorf("--%s is %d: it must be at least 1", name, n))
		}
	}
	for name, n := range map[string]int{"subscribers": c.Subscribers, "max-errors": c.MaxErrors} {
		if n < 0 {
			errs = append(errs, fmt.Errorf("--%s is %d: it must not be negative", name, n))
		}
	}
	if !(c.Rate >= minRate && c.Rate <= maxRate) {
		errs = append(errs, fmt.Errorf("--rate is %v: it must be from %v to %v", c.Rate, minRate, maxRate))
	}
	for name, d := range map[string]time.Duration{"duration": c.Duration, "timeout": c.Timeout} {
		if d <= 0 {
			errs = append(errs, fmt.Errorf("--%s is %v: it must be positive", name, d))
		}
	}
	if c.ReconnectEvery < 0 {
		errs = append(errs, fmt.Errorf("--reconnect-every is %v: it must not be negative", c.ReconnectEvery))
	}
	if !json.Valid([]byte(c.Data)) || !strings.HasPrefix(strings.TrimSpace(c.Data), "{") {
		errs = append(errs, fmt.Errorf("--data %q is not a JSON object", c.Data))
	}
	for _, url := range c.URLs {
		if _, err := nodeURL(url); err != nil {
			errs = append(errs, err)
		}
	}
	slices.SortFunc(errs, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return errors.Join(errs...)
}

func (c benchCmd) run(ctx context.Context) error {
	if err := c.validate(); err != nil {
		return usageError{err}
	}
	if err := c.checkCommand(ctx); err != nil {
		return err
	}
	c.Config.Data = json.RawMessage(c.Data)
	load := loadgen.New(c.Config)
	stop := showProgress(load.Progress, os.Stderr, term.IsTerminal(int(os.Stderr.Fd())))
	err := load.Run(ctx)
	stop()
	var options *loadgen.ConnectOptionsError
	if errors.As(err, &options) {
		err = usageError{err}
	}
	if err != nil {
		return unfinished(ctx, err, "before all clients were connected")
	}
	report := load.Report()
	if c.JSON {
		err = printJSON(report)
	} else {
		err = report.Write(os.Stdout)
	}
	if err != nil {
		return err
	}
	if err := report.Verdict(c.MaxErrors); err != nil {
		return unfinishedError{err} // it counts as a failure even after a signal
	}
	return nil
}

// checkCommand returns an error if the application lacks the command. The error
// lists the commands that exist.
func (c benchCmd) checkCommand(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	doc, err := fetchDocument(ctx, c.URLs[0])
	if err != nil {
		return err
	}
	var have []string
	for _, name := range slices.Sorted(maps.Keys(doc.Aggregates)) {
		have = append(have, fmt.Sprintf("%s (%s)", name, strings.Join(slices.Sorted(maps.Keys(doc.Aggregates[name].Commands)), ", ")))
	}
	typ, ok := doc.Aggregates[c.Type]
	if _, has := typ.Commands[c.Command]; ok && has {
		return nil
	}
	missing := fmt.Sprintf("no aggregates of type %q", c.Type)
	if ok {
		missing = fmt.Sprintf("no command %q of type %q", c.Command, c.Type)
	}
	return usagef("the cluster at %s has %s: set --type, --command and --data to a command that stores an event each time; the cluster has %s", c.URLs[0], missing, strings.Join(have, ", "))
}

// showProgress prints the line that progress returns. On a terminal it overwrites
// the line every second; elsewhere it prints a new one every 10 s.
func showProgress(progress func() string, out io.Writer, terminal bool) (stop func()) {
	every, begin, end := lineEvery, "", "\n"
	if terminal {
		every, begin, end = time.Second, "\r\x1b[K", ""
	}
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				fmt.Fprint(out, begin+progress()+end)
			case <-done:
				if terminal {
					fmt.Fprint(out, begin)
				}
				return
			}
		}
	}()
	return func() { close(done); <-ended }
}
