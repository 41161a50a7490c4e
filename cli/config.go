package cli

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

// nodeSettings returns the flags that a configuration file may set: those of a
// node, and the global ones.
func nodeSettings(root *cobra.Command) []*pflag.Flag {
	node, _, _ := root.Find([]string{"node"}) // never fails
	all := slices.Concat(settings(root.PersistentFlags()), settings(node.LocalFlags()))
	return slices.DeleteFunc(all, func(f *pflag.Flag) bool { return f.Name == "config" })
}

// readConfigFile reads a TOML file and returns each value as the command line
// would write it.
func readConfigFile(name string, known []*pflag.Flag) (map[string]string, error) {
	raw, err := readSecret(name)
	if err != nil {
		return nil, err
	}
	var content map[string]any
	if _, err := toml.Decode(string(raw), &content); err != nil {
		var parse toml.ParseError
		if errors.As(err, &parse) {
			return nil, fmt.Errorf("line %d is not TOML: %s", parse.Position.Line, parse.Message)
		}
		return nil, err
	}
	names := make([]string, len(known))
	for i, f := range known {
		names[i] = f.Name
	}
	var errs []error
	values := map[string]string{}
	delete(content, relayTable) // the commands that run nodes read these two
	delete(content, intakeTable)
	for _, key := range slices.Sorted(maps.Keys(content)) {
		if !slices.Contains(names, key) {
			errs = append(errs, fmt.Errorf("unknown key %q%s", key, suggestion(key, names)))
			continue
		}
		if values[key], err = tomlText(content[key]); err != nil {
			errs = append(errs, fmt.Errorf("%s %w", key, err))
		}
	}
	return values, errors.Join(errs...)
}

// tomlText formats a value as the command line would write it.
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
				return "", errors.New("must be a list of strings only")
			}
			items[i] = text
		}
		var line strings.Builder
		list := csv.NewWriter(&line) // the form in which pflag reads lists
		err := list.Write(items)
		list.Flush()
		return strings.TrimSuffix(line.String(), "\n"), err
	default:
		return "", errors.New("must be a string, a number, a boolean or a list of strings")
	}
}

// suggestion returns ": did you mean …?" with the nearest known word, or "" if
// none is near.
func suggestion(wrong string, known []string) string {
	if best := nearest(wrong, known); best != "" {
		return fmt.Sprintf(": did you mean %q?", best)
	}
	return ""
}

// nearest returns the known word with the smallest edit distance, or "" if that is
// more than 2 or more than a third of the letters.
func nearest(wrong string, known []string) string {
	best, bound := "", min(2, (len(wrong)+1)/3)+1
	for _, k := range known {
		if d := editDistance(wrong, k); d < bound {
			best, bound = k, d
		}
	}
	return best
}

// editDistance returns the Levenshtein distance of two words.
func editDistance(a, b string) int {
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

// misspelled returns an error for each environment variable whose name is close to
// that of a flag's variable. It ignores other variables with the prefix: Kubernetes
// sets some for a service named ganglion, and scripts have their own.
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

func configCommand(p *program) *cobra.Command {
	cmd := &cobra.Command{Use: "config COMMAND", Short: "Check a node's configuration"}
	cmd.AddCommand(configCheckCommand(p), configReferenceCommand())
	return cmd
}

// configCheckCommand has the flags of nodeCommand.
func configCheckCommand(p *program) *cobra.Command {
	var c nodeCmd
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Check a node's configuration without starting it",
		Long: `Check a node's configuration and the files that it names, without starting it.
The settings are those of "ganglion node": flags, environment variables and the file of --config. The command opens no port and no database.
The exit status is 2 if anything is wrong.`,
		Example: `  ganglion config check --config /etc/ganglion/node.toml`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if c.PrintConfig {
				return errors.Join(printConfig(cmd.OutOrStdout(), cmd.Flags()), p.printRelays(cmd.OutOrStdout()))
			}
			if err := errors.Join(append(misspelled(cmd.Root(), os.Environ()), c.check(cmd.Context(), p))...); err != nil {
				return usageError{err}
			}
			_, err := fmt.Fprintln(cmd.OutOrStdout(), "the configuration is valid")
			return err
		},
	}
	c.addTo(cmd, p)
	return cmd
}

// check reports everything that is wrong with the configuration.
func (c nodeCmd) check(ctx context.Context, p *program) error {
	log := p.logger()
	config, _, err := c.configure(ctx, p, log)
	err = errors.Join(err, config.Check())
	provider, wrong := c.provider(ctx, p.options.Name, config.Name, log)
	if provider != nil {
		wrong = provider.Shutdown(ctx)
	}
	return errors.Join(err, wrong)
}

// printConfig writes the effective configuration as a file for --config, with the
// source of each value.
func printConfig(out io.Writer, flags *pflag.FlagSet) error {
	var errs []error
	for _, f := range settings(flags) {
		if f.Hidden || f.Name == "config" {
			continue
		}
		from := "default"
		switch {
		case f.Changed:
			from = cmp.Or(annotation(f, source), "command line")
		case zeroByDefault(f):
			_, err := fmt.Fprintf(out, "# %s is not set\n", f.Name)
			errs = append(errs, err)
			continue
		}
		_, err := fmt.Fprintf(out, "%s = %s # %s\n", f.Name, tomlValue(f.Value), from)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// zeroByDefault reports whether a flag's default is the zero value.
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

// redacted removes passwords from URLs. All other secrets are in files, whose
// names are not secret.
func redacted(text string) string {
	if !strings.Contains(text, "://") {
		return text
	}
	u, err := url.Parse(text)
	if err != nil {
		return "redacted: not a URL"
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

// warnOfMisspelled logs misspelled variables.
func warnOfMisspelled(root *cobra.Command, log *slog.Logger) {
	for _, err := range misspelled(root, os.Environ()) {
		log.Warn("an environment variable sets nothing", "err", err)
	}
}
