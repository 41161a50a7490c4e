package main

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
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

type benchCmd struct {
	URL                                  []string
	Token                                string
	Duration, Reconnect, Timeout         time.Duration
	Rate                                 float64
	Connections, Subscribers, Aggregates int
	MaxErrors                            int
	Type, Command, Data                  string
	JSON                                 bool
}

func benchCommand() *cobra.Command {
	var c benchCmd
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Load a cluster, measure it, and check what it promises.",
		Long: `Loads a real cluster through the client library, and checks what it promises: each command that was acknowledged has its events in its aggregate's history, once, at the
version that it was told, and every subscriber gets that history in order and without a hole. Ends with 1 if it does not, or if more commands fail than --max-errors allows.`,
		Example: `  ganglion bench --url http://n1:8080 --url http://n2:8080
  ganglion bench --rate 2000 --connections 50 --subscribers 200 --duration 5m --reconnect-every 20s --json
  GANGLION_TOKEN=$(ganglion token --jwt-hmac-file secret --client bench) ganglion bench --url https://ganglion.example`,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.run(cmd.Context()) },
	}
	f := cmd.Flags()
	f.StringSliceVar(&c.URL, "url", []string{"http://127.0.0.1:8080"}, "`URL` of a gateway, or of a load balancer before them. Again for more.")
	f.StringVar(&c.Token, "token", "", "Proves who the clients are; without one they are bench-1, bench-2, …, for gateways that take that on trust.")
	fromEnvironment(f)
	f.DurationVar(&c.Duration, "duration", 30*time.Second, "How long commands are sent.")
	f.Float64Var(&c.Rate, "rate", 100, "Commands a second, of all connections together; they are sent at their times however long the answers take.")
	f.IntVar(&c.Connections, "connections", 10, "Connections that send commands.")
	f.IntVar(&c.Subscribers, "subscribers", 10, "Connections that follow the aggregates. Every event is to reach its subscribers.")
	f.IntVar(&c.Aggregates, "aggregates", 100, "How many new aggregates the commands are spread over.")
	f.DurationVar(&c.Reconnect, "reconnect-every", 0, "Cut each connection off about this often, without a word. Never, if not given.")
	f.DurationVar(&c.Timeout, "timeout", 30*time.Second, "How long a command may take with all that its client tries, and the last events once all is sent.")
	f.IntVar(&c.MaxErrors, "max-errors", 0, "How many commands may fail; none by default.")
	f.StringVar(&c.Type, "type", "counter", "The type of the aggregates. Give it, with --command and --data, where the application has no counters.")
	f.StringVar(&c.Command, "command", "add", "The command that is sent; it has one event or more.")
	f.StringVar(&c.Data, "data", `{"by":1}`, "Its data, in `JSON`.")
	f.BoolVar(&c.JSON, "json", false, "Print the report as JSON.")
	return cmd
}

// Rates past these have no time between two commands that can be told.
const rateLeast, rateMost = 0.001, 1_000_000

func (c benchCmd) validate() error {
	var errs []error
	for name, n := range map[string]int{"connections": c.Connections, "aggregates": c.Aggregates} {
		if n < 1 {
			errs = append(errs, fmt.Errorf("--%s is %d: at least 1 is needed", name, n))
		}
	}
	for name, n := range map[string]int{"subscribers": c.Subscribers, "max-errors": c.MaxErrors} {
		if n < 0 {
			errs = append(errs, fmt.Errorf("--%s is %d: it can't be negative", name, n))
		}
	}
	if !(c.Rate >= rateLeast && c.Rate <= rateMost) {
		errs = append(errs, fmt.Errorf("--rate is %v: write a number from %v to %v", c.Rate, rateLeast, rateMost))
	}
	for name, d := range map[string]time.Duration{"duration": c.Duration, "timeout": c.Timeout} {
		if d <= 0 {
			errs = append(errs, fmt.Errorf("--%s is %v: it must be above 0", name, d))
		}
	}
	if c.Reconnect < 0 {
		errs = append(errs, fmt.Errorf("--reconnect-every is %v: it can't be negative", c.Reconnect))
	}
	if !json.Valid([]byte(c.Data)) || !strings.HasPrefix(strings.TrimSpace(c.Data), "{") {
		errs = append(errs, fmt.Errorf("--data %q is no JSON object", c.Data))
	}
	for _, url := range c.URL {
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
	b := newBench(c)
	stop := b.show(os.Stderr, term.IsTerminal(int(os.Stderr.Fd())))
	err := b.run(ctx)
	stop()
	if err != nil {
		return unfinished(ctx, err, "before all clients were connected")
	}
	report := b.report()
	if c.JSON {
		err = printJSON(report)
	} else {
		err = report.write(os.Stdout)
	}
	if err != nil {
		return err
	}
	return report.verdict(c.MaxErrors)
}

// checkCommand returns an error that says what to give if the application has
// not the command that is to be sent.
func (c benchCmd) checkCommand(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	doc, err := sourceFlags{URL: c.URL[0]}.document(ctx)
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
	return usagef("the cluster at %s has %s: give --type, --command and --data of a command that has an event each time; it has %s", c.URL[0], missing, strings.Join(have, ", "))
}

// show writes how far the load is: each second over the last line on a
// terminal, else a line now and then.
func (b *bench) show(out io.Writer, terminal bool) (stop func()) {
	every, begin, end := plainEvery, "", "\n"
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
				fmt.Fprint(out, begin+b.progress()+end)
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

// benchReport is what came of a load. Latencies are in milliseconds.
type benchReport struct {
	Seconds      float64        `json:"seconds"` // in which commands were sent
	Sent         int            `json:"sent"`
	Acknowledged int            `json:"acknowledged"`
	Rate         float64        `json:"rate"`      // acknowledged commands a second
	Delivered    int            `json:"delivered"` // events, to all subscribers together
	Cuts         int            `json:"cuts"`      // connections that were cut off
	Connects     int            `json:"connects"`  // connections that were made
	Command      percentiles    `json:"command_ms"`
	Delivery     percentiles    `json:"delivery_ms"`
	Errors       map[string]int `json:"errors"` // commands that failed, by code
	// Violations are promises that were broken, the first ones in words.
	Violations int      `json:"violations"`
	Broken     []string `json:"broken,omitempty"`
	// Refused are subscriptions that a gateway refused, which is no promise
	// broken; Errors counts them by code too.
	Refused int `json:"refused"`
}

// percentiles are of latencies: of a command from the time at which it was to
// be sent to its acknowledgement, of a delivery from there to a subscriber.
type percentiles struct {
	P50  float64 `json:"p50"`
	P90  float64 `json:"p90"`
	P99  float64 `json:"p99"`
	P999 float64 `json:"p99.9"`
	Max  float64 `json:"max"`
}

func (r benchReport) failed() int { return r.Sent - r.Acknowledged }

func (r benchReport) write(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	fmt.Fprintf(w, "commands\t%d sent, %d acknowledged, %d failed, in %.1f s: %.1f/s\n", r.Sent, r.Acknowledged, r.failed(), r.Seconds, r.Rate)
	fmt.Fprintf(w, "deliveries\t%d\n", r.Delivered)
	fmt.Fprintf(w, "connections\t%d made, %d cut off\n\n", r.Connects, r.Cuts)
	fmt.Fprintln(w, "MS\tP50\tP90\tP99\tP99.9\tMAX")
	for _, row := range []struct {
		name string
		percentiles
	}{{"command", r.Command}, {"delivery", r.Delivery}} {
		fmt.Fprintf(w, "%s\t%.2f\t%.2f\t%.2f\t%.2f\t%.2f\n", row.name, row.P50, row.P90, row.P99, row.P999, row.Max)
	}
	if len(r.Errors) > 0 {
		fmt.Fprintln(w, "\nERROR\tCOMMANDS")
		for _, code := range slices.Sorted(maps.Keys(r.Errors)) {
			fmt.Fprintf(w, "%s\t%d\n", code, r.Errors[code])
		}
	}
	fmt.Fprintln(w)
	for _, text := range r.Broken {
		fmt.Fprintln(w, "BROKEN: "+text)
	}
	return w.Flush()
}

// verdict is an error if promises were broken, or too many commands failed.
func (r benchReport) verdict(maxErrors int) error {
	switch {
	case r.Violations > 0:
		return unfinishedError{fmt.Errorf("promises were broken: %d times", r.Violations)}
	case r.Refused > 0:
		return unfinishedError{fmt.Errorf("%d subscriptions were refused: give --token of a client that may read the aggregates, or --subscribers 0", r.Refused)}
	case r.failed() > maxErrors:
		return unfinishedError{fmt.Errorf("%d commands failed, --max-errors allows %d", r.failed(), maxErrors)}
	}
	return nil
}
