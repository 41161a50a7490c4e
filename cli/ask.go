package cli

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"unicode"

	"github.com/spf13/cobra"

	client "github.com/ganglion-es/ganglion/client/go"
	"github.com/ganglion-es/ganglion/eventstore"
)

// dataHelp explains the argument DATA of a command.
const dataHelp = "DATA is JSON, @FILE for the content of a file, or - for standard input; without it, it is {}."

// maxData bounds the data that a command reads from a file or standard input. It is
// far above what a gateway accepts.
const maxData = 16 << 20

// readData returns the argument DATA of a command.
func readData(in io.Reader, args []string) (json.RawMessage, error) {
	if len(args) == 0 {
		return json.RawMessage("{}"), nil
	}
	text, from := []byte(args[0]), "DATA"
	name, isFile := strings.CutPrefix(args[0], "@")
	switch {
	case isFile:
		file, err := os.Open(name)
		if err != nil {
			return nil, usagef("can't read DATA: %w", err)
		}
		defer file.Close()
		in, from = file, name
	case args[0] == "-":
		from = "standard input"
	default:
		in = nil
	}
	if in != nil {
		var err error
		if text, err = io.ReadAll(io.LimitReader(in, maxData)); err != nil {
			return nil, fmt.Errorf("can't read %s: %w", from, err)
		}
	}
	if !json.Valid(text) {
		return nil, usagef("%s is not JSON: write an object such as '{\"amount\": 1500}', @FILE, or - for standard input", from)
	}
	return text, nil
}

type sendCmd struct {
	gatewayFlags
	Key    string
	Expect *uint64 // nil if not set
	JSON   bool
}

func sendCommand(p *program) *cobra.Command {
	var c sendCmd
	var expect uint64
	cmd := &cobra.Command{
		Use:   "send AGGREGATE COMMAND [DATA]",
		Short: "Send a command to an aggregate",
		Long: "Send a command to an aggregate, and print the version that it made.\n" + dataHelp + "\n" +
			"The exit status is 1 if the command was rejected or not executed.",
		Example: `  ganglion send auction/42 bid '{"amount":1500}'
  ganglion send counter/a add @add.json --token dev:ada`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if cmd.Flags().Changed("expect") {
				c.Expect = &expect
			}
			return c.run(cmd, args, p.logger())
		},
		ValidArgsFunction: completeNames(p, aggregateTypes, commandNames),
	}
	f := cmd.Flags()
	c.gatewayFlags.addTo(f)
	fromEnvironment(f)
	f.StringVar(&c.Key, "key", "", "idempotency `KEY`: a second command with the same key gets the answer to the first (default a new one)")
	f.Uint64Var(&expect, "expect", 0, "execute the command only if the aggregate is at this `VERSION`")
	f.BoolVar(&c.JSON, "json", false, "print JSON")
	return cmd
}

// sent is what "ganglion send --json" prints.
type sent struct {
	Stream   string          `json:"stream"`
	Key      string          `json:"key"`
	Version  uint64          `json:"version"`
	Position uint64          `json:"position"`
	Replayed bool            `json:"replayed"`
	Data     json.RawMessage `json:"data,omitempty"`
}

func (c sendCmd) run(cmd *cobra.Command, args []string, log *slog.Logger) error {
	stream, err := eventstore.ParseStreamID(args[0])
	if err != nil {
		return usageError{err}
	}
	data, err := readData(cmd.InOrStdin(), args[2:])
	if err != nil {
		return err
	}
	key := cmp.Or(c.Key, client.NewKey())
	options := []client.SendOption{client.WithKey(key)}
	if c.Expect != nil {
		options = append(options, client.WithExpect(*c.Expect))
	}
	var result client.Result
	unknown := func(err error) bool { // reports whether the command may have been executed
		var refused *client.Error
		return errors.As(err, &refused) && refused.Retry == client.RetrySameKey
	}
	var failure error // of the command, which the loss of the gateway may have caused
	err = c.connect(cmd.Context(), log, false, func(ctx context.Context, gateway *client.Client, start func()) error {
		start()
		result, failure = gateway.Aggregate(stream.Type, stream.ID).Send(ctx, args[1], data, options...)
		return failure
	})
	isRefused := errors.As(err, new(*client.Error)) && !unknown(err)
	if err != nil && unknown(failure) && !isRefused {
		return unfinishedError{fmt.Errorf("%w; the command may have been executed: send it again with --key %s", err, key)}
	}
	if err != nil {
		return unfinished(cmd.Context(), err, "the command was not executed")
	}
	r := sent{stream.String(), result.Key, result.Version, result.Position, result.Replayed, result.Data}
	if c.JSON {
		return encoder(cmd.OutOrStdout()).Encode(r)
	}
	out := cmd.OutOrStdout()
	fmt.Fprintf(out, "%s is at version %d", r.Stream, r.Version)
	if r.Position > 0 {
		fmt.Fprintf(out, ", position %d", r.Position)
	}
	if r.Replayed {
		fmt.Fprint(out, "; the command had been executed before")
	}
	fmt.Fprintln(out)
	if len(r.Data) > 0 {
		return printIndented(out, r.Data)
	}
	return nil
}

// encoder returns an encoder that writes one JSON value per line.
func encoder(out io.Writer) *json.Encoder {
	e := json.NewEncoder(out)
	e.SetEscapeHTML(false) // the output is not a web page
	return e
}

func printIndented(out io.Writer, data json.RawMessage) error {
	var text bytes.Buffer
	if err := json.Indent(&text, data, "", "  "); err != nil {
		return err
	}
	_, err := fmt.Fprintln(out, text.String())
	return err
}

type getCmd struct {
	gatewayFlags
	At     *uint64 // nil if not set
	Strong bool
	JSON   bool
}

func getCommand(p *program) *cobra.Command {
	var c getCmd
	var at uint64
	cmd := &cobra.Command{
		Use:   "get AGGREGATE",
		Short: "Print the state of an aggregate",
		Long: "Print the public state of an aggregate.\n" +
			"With --at, this program makes the state at an earlier version from the events up to it.",
		Example: `  ganglion get auction/42
  ganglion get auction/42 --at 2 --json`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if cmd.Flags().Changed("at") {
				c.At = &at
			}
			return c.run(cmd, args[0], p)
		},
		ValidArgsFunction: completeNames(p, aggregateTypes),
	}
	f := cmd.Flags()
	c.gatewayFlags.addTo(f)
	fromEnvironment(f)
	f.Uint64Var(&at, "at", 0, "print the state at this `VERSION` (default the newest)")
	f.BoolVar(&c.Strong, "strong", false, "compare the state with the log first, so the read is linearizable")
	f.BoolVar(&c.JSON, "json", false, "print JSON")
	cmd.MarkFlagsMutuallyExclusive("at", "strong")
	return cmd
}

// shown is what "ganglion get --json" prints.
type shown struct {
	Stream   string          `json:"stream"`
	Version  uint64          `json:"version"`
	Position uint64          `json:"position"`
	Data     json.RawMessage `json:"data"`
}

func (c getCmd) run(cmd *cobra.Command, name string, p *program) error {
	stream, err := eventstore.ParseStreamID(name)
	if err != nil {
		return usageError{err}
	}
	var r shown
	err = c.connect(cmd.Context(), p.logger(), false, func(ctx context.Context, gateway *client.Client, start func()) (err error) {
		start()
		if c.At != nil {
			r, err = c.earlier(ctx, newStates(p.catalog, historyAt(gateway)), stream.String())
			return err
		}
		var options []client.GetOption
		if c.Strong {
			options = append(options, client.Strong())
		}
		state, err := gateway.Aggregate(stream.Type, stream.ID).Get(ctx, options...)
		r = shown{stream.String(), state.Version, state.Position, state.Data}
		return err
	})
	if err != nil {
		return err
	}
	out := cmd.OutOrStdout()
	if c.JSON {
		return encoder(out).Encode(r)
	}
	fmt.Fprintf(out, "%s at version %d, position %d\n", r.Stream, r.Version, r.Position)
	return printIndented(out, r.Data)
}

// earlier returns the state at the version of --at.
func (c getCmd) earlier(ctx context.Context, states *states, stream string) (shown, error) {
	at, err := states.start(stream)
	if err != nil {
		return shown{}, err
	}
	r := shown{Stream: stream, Version: *c.At}
	if *c.At > 0 {
		for l, err := range states.history(ctx, stream) {
			if err == nil {
				err = at.apply(l)
			}
			if err != nil {
				return r, err
			}
			if r.Position = uint64(l.Position); uint64(l.Version) == *c.At {
				break
			}
		}
	}
	if uint64(at.version) != *c.At {
		return r, fmt.Errorf("--at %d is past the newest version of %s, %d", *c.At, stream, at.version)
	}
	r.Data, err = at.View(at.state)
	return r, err
}

type queryCmd struct {
	gatewayFlags
	Follow bool
	Page   string
	JSON   bool
}

func queryCommand(p *program) *cobra.Command {
	var c queryCmd
	cmd := &cobra.Command{
		Use:   "query NAME [DATA]",
		Short: "Ask a query",
		Long: "Ask a query, and print its rows as a table, or the answer of a query that code answers.\n" + dataHelp + "\n" +
			"With --follow, print all rows again after each change.",
		Example: `  ganglion query open_auctions '{"budget":5000}'
  ganglion query open_auctions --follow --json`,
		RunE: func(cmd *cobra.Command, args []string) error { return c.run(cmd, args, p.logger()) },

		ValidArgsFunction: completeNames(p, queryNames),
	}
	f := cmd.Flags()
	c.gatewayFlags.addTo(f)
	fromEnvironment(f)
	f.BoolVar(&c.Follow, "follow", false, "continue with the changes of the rows")
	f.StringVar(&c.Page, "page", "", "print the `PAGE` that the output before names")
	f.BoolVar(&c.JSON, "json", false, "print JSON, with --follow one object per line")
	cmd.MarkFlagsMutuallyExclusive("follow", "page")
	return cmd
}

// result is what "ganglion query --json" prints.
type result struct {
	Position uint64          `json:"position"`
	Rows     []row           `json:"rows"`
	Next     string          `json:"next,omitempty"`
	Blocked  int             `json:"blocked,omitempty"`
	Answer   json.RawMessage `json:"answer,omitempty"` // of code, instead of rows
}

type row struct {
	Key      string          `json:"key"`
	Position uint64          `json:"position"`
	Data     json.RawMessage `json:"data"`
}

func (c queryCmd) run(cmd *cobra.Command, args []string, log *slog.Logger) error {
	data, err := readData(cmd.InOrStdin(), args[1:])
	if err != nil {
		return err
	}
	ctx, out := cmd.Context(), cmd.OutOrStdout()
	return c.connect(ctx, log, c.Follow, func(asking context.Context, gateway *client.Client, start func()) error {
		if c.Follow {
			live := client.Query[json.RawMessage, json.RawMessage]{Name: args[0]}.Follow(gateway, data)
			defer live.Close()
			start()
			for s, err := range live.Snapshots(asking) {
				if ctx.Err() != nil {
					return nil
				}
				if err == nil {
					err = c.print(out, result{Position: s.Position, Rows: rowsOf(s.Rows), Blocked: s.Blocked})
				}
				if err != nil {
					return err
				}
			}
			return nil
		}
		start()
		var options []client.QueryOption
		if c.Page != "" {
			options = append(options, client.AfterPage(c.Page))
		}
		page, err := gateway.Query(asking, args[0], data, options...)
		if err != nil {
			return err
		}
		return c.print(out, result{page.Position, rowsOf(page.Rows), page.Next, page.Blocked, page.Answer})
	})
}

func rowsOf(rows []client.Row[json.RawMessage]) []row {
	all := make([]row, len(rows))
	for i, r := range rows {
		all[i] = row{r.Key, r.Position, r.Data}
	}
	return all
}

func (c queryCmd) print(out io.Writer, r result) error {
	switch {
	case c.JSON:
		return encoder(out).Encode(r)
	case r.Answer != nil:
		return printIndented(out, r.Answer)
	case len(r.Rows) == 0:
		fmt.Fprintf(out, "no rows at position %d\n", r.Position)
	default:
		if err := writeTable(out, r.Rows); err != nil {
			return err
		}
		rows := fmt.Sprint(len(r.Rows), " rows")
		if len(r.Rows) == 1 {
			rows = "1 row"
		}
		fmt.Fprintf(out, "%s at position %d\n", rows, r.Position)
	}
	if r.Blocked > 0 {
		fmt.Fprintf(out, "%d rows of the projection wait for an operator: see 'ganglion processors'\n", r.Blocked)
	}
	if r.Next != "" {
		fmt.Fprintf(out, "more rows: --page %s\n", r.Next)
	}
	return nil
}

// writeTable writes rows with a column for each member of their data, in the order
// in which the members appear.
func writeTable(out io.Writer, rows []row) error {
	var columns []string
	cells := make([]map[string]string, len(rows))
	for i, r := range rows {
		names, values := members(r.Data)
		for _, name := range names {
			if !slices.Contains(columns, name) {
				columns = append(columns, name)
			}
		}
		cells[i] = values
	}
	w := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, strings.ToUpper(strings.Join(append([]string{"key"}, columns...), "\t")))
	for i, r := range rows {
		line := []string{printable(r.Key)}
		for _, name := range columns {
			line = append(line, cmp.Or(cells[i][name], "-"))
		}
		fmt.Fprintln(w, strings.Join(line, "\t"))
	}
	return w.Flush()
}

// members returns the members of an object in order, and their values as text: a
// string without quotes, everything else as JSON.
func members(data json.RawMessage) (names []string, values map[string]string) {
	values = map[string]string{}
	d := json.NewDecoder(bytes.NewReader(data))
	if start, err := d.Token(); err != nil || start != json.Delim('{') {
		return []string{"data"}, map[string]string{"data": string(data)}
	}
	for d.More() {
		name, err := d.Token()
		if err != nil {
			break
		}
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			break
		}
		text := string(value)
		if text[0] == '"' {
			var s string
			if err := json.Unmarshal(value, &s); err != nil {
				break
			}
			text = printable(s)
		}
		names = append(names, fmt.Sprint(name))
		values[fmt.Sprint(name)] = text
	}
	return names, values
}

// printable returns a text for one cell of a table: on one line, and without
// characters that control the terminal.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, text)
}
