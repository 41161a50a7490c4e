package main

import (
	"cmp"
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/BurntSushi/toml"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// nodeSettings are the flags that a configuration file may set: a node's, and
// those of every command.
func nodeSettings(root *cobra.Command) []*pflag.Flag {
	node, _, _ := root.Find([]string{"node"}) // it is there
	all := slices.Concat(settings(root.PersistentFlags()), settings(node.LocalFlags()))
	return slices.DeleteFunc(all, func(f *pflag.Flag) bool { return f.Name == "config" })
}

// readConfigFile reads a TOML file of flags, as the text that each flag would
// be given on the command line.
func readConfigFile(name string, known []*pflag.Flag) (map[string]string, error) {
	raw, err := readSecret(name)
	if err != nil {
		return nil, err
	}
	var content map[string]any
	if _, err := toml.Decode(string(raw), &content); err != nil {
		var parse toml.ParseError
		if errors.As(err, &parse) {
			return nil, fmt.Errorf("line %d is no TOML: %s", parse.Position.Line, parse.Message)
		}
		return nil, err
	}
	names := make([]string, len(known))
	for i, f := range known {
		names[i] = f.Name
	}
	var errs []error
	values := map[string]string{}
	for _, key := range slices.Sorted(maps.Keys(content)) {
		if !slices.Contains(names, key) {
			errs = append(errs, fmt.Errorf("there is no %q%s", key, suggestion(key, names)))
			continue
		}
		if values[key], err = tomlText(content[key]); err != nil {
			errs = append(errs, fmt.Errorf("%s %w", key, err))
		}
	}
	return values, errors.Join(errs...)
}

// tomlText writes a value of a file as it would stand on the command line.
func tomlText(value any) (string, error) {
	switch v := value.(type) {
	case string:
		return v, nil
	case bool, int64, float64:
		return fmt.Sprint(v), nil
	case []any:
		items := make([]string, len(v))
		for i, item := range v {
			text, ok := item.(string)
			if !ok {
				return "", errors.New("has something else than texts in its list")
			}
			items[i] = text
		}
		var line strings.Builder
		list := csv.NewWriter(&line) // as pflag reads lists
		err := list.Write(items)
		list.Flush()
		return strings.TrimSuffix(line.String(), "\n"), err
	default:
		return "", errors.New("can't be that: write a text, a number, true or false, or a list of texts")
	}
}

// suggestion names what was probably meant.
func suggestion(wrong string, known []string) string {
	if best := nearest(wrong, known); best != "" {
		return fmt.Sprintf(": did you mean %q?", best)
	}
	return ""
}

// nearest is the known word that is at most two slips away, a third of its
// letters at most, else empty.
func nearest(wrong string, known []string) string {
	best, least := "", min(2, (len(wrong)+1)/3)+1
	for _, k := range known {
		if d := slips(wrong, k); d < least {
			best, least = k, d
		}
	}
	return best
}

// slips is the Levenshtein distance of two words.
func slips(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost = 1 + min(diagonal, row[j], row[j+1])
			}
			diagonal, row[j+1] = row[j+1], cost
		}
	}
	return row[len(b)]
}

// misspelled are variables that are probably meant for a flag and reach none.
// Others of the prefix are left alone: Kubernetes sets some for a service that
// is called ganglion, and scripts have their own.
func misspelled(root *cobra.Command, environ []string) []error {
	var known []string
	each(root, func(cmd *cobra.Command) {
		for _, f := range slices.Concat(settings(cmd.PersistentFlags()), settings(cmd.LocalFlags())) {
			known = append(known, annotation(f, variable))
		}
	})
	var found []error
	for _, entry := range environ {
		name, _, _ := strings.Cut(entry, "=")
		word, ours := strings.CutPrefix(name, envPrefix)
		if !ours || slices.Contains(known, name) {
			continue
		}
		for _, k := range known {
			if meant := strings.TrimPrefix(k, envPrefix); nearest(word, []string{meant}) != "" {
				found = append(found, fmt.Errorf("%s sets nothing: did you mean %s?", name, k))
				break
			}
		}
	}
	return found
}

func configCommand(l *logging) *cobra.Command {
	cmd := &cobra.Command{Use: "config COMMAND", Short: "Check what a node is given."}
	cmd.AddCommand(configCheckCommand(l), configReferenceCommand())
	return cmd
}

// configCheckCommand takes what a node takes.
func configCheckCommand(l *logging) *cobra.Command {
	var c nodeCmd
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Check a node's configuration and the files that it names, without starting it.",
		Long: `Check a node's configuration and the files that it names, without starting it.
Takes what "ganglion node" takes, from the command line, the environment and the file that --config names. It opens no port and no database.`,
		Example: `  ganglion config check --config /etc/ganglion/node.toml`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if c.PrintConfig {
				return printConfig(cmd.OutOrStdout(), cmd.Flags())
			}
			if err := errors.Join(append(misspelled(cmd.Root(), os.Environ()), c.check(cmd.Context(), l.logger()))...); err != nil {
				return usageError{err}
			}
			_, err := fmt.Fprintln(cmd.OutOrStdout(), "the configuration is good")
			return err
		},
	}
	c.addTo(cmd)
	return cmd
}

// check reports everything that is wrong.
func (c nodeCmd) check(ctx context.Context, log *slog.Logger) error {
	config, _, err := c.configure(ctx, log)
	err = errors.Join(err, config.Check())
	provider, wrong := c.provider(ctx, config.Name, log)
	if provider != nil {
		wrong = provider.Shutdown(ctx)
	}
	return errors.Join(err, wrong)
}

// printConfig writes the configuration that holds, as a file that --config
// takes, and where each value comes from.
func printConfig(out io.Writer, flags *pflag.FlagSet) error {
	var errs []error
	for _, f := range settings(flags) {
		if f.Hidden || f.Name == "config" {
			continue
		}
		from := "by default"
		switch {
		case f.Changed:
			from = cmp.Or(annotation(f, source), "the command line")
		case zeroByDefault(f):
			_, err := fmt.Fprintf(out, "# %s is not given\n", f.Name)
			errs = append(errs, err)
			continue
		}
		_, err := fmt.Fprintf(out, "%s = %s # %s\n", f.Name, tomlValue(f.Value), from)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// zeroByDefault says that a flag is nothing if it is not given.
func zeroByDefault(f *pflag.Flag) bool {
	return slices.Contains([]string{"", "0", "0s", "false", "[]"}, f.DefValue)
}

func tomlValue(value pflag.Value) string {
	if one, ok := value.(choice); ok {
		value = one.Value
	}
	if list, ok := value.(pflag.SliceValue); ok {
		items := slices.Clone(list.GetSlice())
		for i, item := range items {
			items[i] = strconv.Quote(redacted(item))
		}
		return "[" + strings.Join(items, ", ") + "]"
	}
	switch value.Type() {
	case "bool", "int", "float64":
		return value.String()
	}
	return strconv.Quote(redacted(value.String()))
}

// redacted takes passwords out of URLs. Every other secret is in a file, and
// its name is none.
func redacted(text string) string {
	if !strings.Contains(text, "://") {
		return text
	}
	u, err := url.Parse(text)
	if err != nil {
		return "redacted: no URL"
	}
	query := u.Query()
	for name := range query {
		if strings.Contains(strings.ToLower(name), "password") {
			query.Set(name, "xxxxx")
			u.RawQuery = query.Encode()
		}
	}
	return u.Redacted()
}

// warnOfMisspelled says at a node's start what it does not take.
func warnOfMisspelled(root *cobra.Command, log *slog.Logger) {
	for _, err := range misspelled(root, os.Environ()) {
		log.Warn("the environment has a variable that nothing reads", "problem", err)
	}
}
