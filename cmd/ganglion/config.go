package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/url"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/BurntSushi/toml"
	"github.com/alecthomas/kong"
)

const envPrefix = "GANGLION_"

// BeforeResolve reads the file that --config names. It holds what a node's
// flags hold, under their names; the command line and the environment go
// before it.
func (c *cli) BeforeResolve(call *kong.Context) error {
	var file string
	for _, f := range call.Model.Flags {
		if f.Name == "config" {
			file, _ = call.FlagValue(f).(string)
		}
	}
	if file == "" {
		return nil
	}
	values, err := readConfigFile(file, nodeFlags(call.Model))
	if err != nil {
		return usageError{fmt.Errorf("the configuration %s: %w", file, err)}
	}
	call.AddResolver(kong.ResolverFunc(func(_ *kong.Context, _ *kong.Path, f *kong.Flag) (any, error) {
		value, ok := values[f.Name]
		// A flag that no variable sets is one call's, even if a node has one of
		// its name.
		if !ok || len(f.Envs) == 0 || fromEnvironment(f) != "" {
			return nil, nil
		}
		if err := fits(f, value); err != nil {
			return nil, fmt.Errorf("in the configuration %s: %w", file, err)
		}
		return value, nil
	}))
	return nil
}

// fits says whether a flag can take a value of the file. Kong would find out
// as well, and not say where the value came from.
func fits(f *kong.Flag, value string) error {
	target := reflect.New(f.Target.Type()).Elem()
	return f.Parse(kong.ScanFromTokens(kong.Token{Type: kong.FlagValueToken, Value: value}), target)
}

// fromEnvironment is the variable that gives a flag its value, empty if none
// does.
func fromEnvironment(f *kong.Flag) string {
	for _, name := range f.Envs {
		if _, ok := os.LookupEnv(name); ok {
			return name
		}
	}
	return ""
}

// nodeFlags are the flags that a configuration file may set: a node's, and
// those of every command.
func nodeFlags(app *kong.Application) []*kong.Flag {
	var found []*kong.Flag
	for _, leaf := range app.Leaves(true) {
		if leaf.Path() != "node" {
			continue
		}
		for _, group := range leaf.AllFlags(false) {
			for _, f := range group {
				if len(f.Envs) > 0 && f.Name != "config" {
					found = append(found, f)
				}
			}
		}
	}
	return found
}

// readConfigFile reads a TOML file of flags, as the text that each flag would
// be given on the command line.
func readConfigFile(name string, known []*kong.Flag) (map[string]string, error) {
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
	case bool, int64:
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
		return kong.JoinEscaped(items, ','), nil
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
func misspelled(app *kong.Application, environ []string) []error {
	var known []string
	for _, leaf := range app.Leaves(false) {
		for _, group := range leaf.AllFlags(false) {
			for _, f := range group {
				known = append(known, f.Envs...)
			}
		}
	}
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

type configCmd struct {
	Check     configCheckCmd     `cmd:"" help:"Check a node's configuration and the files that it names, without starting it."`
	Reference configReferenceCmd `cmd:"" hidden:"" help:"Print docs/configuration.md."`
}

// configCheckCmd takes what a node takes.
type configCheckCmd struct {
	nodeCmd
}

// Help is what --help says beside the flags.
func (configCheckCmd) Help() string {
	return `Takes what «ganglion node» takes, from the command line, the environment and the file that --config names. It opens no port and no database.

  ganglion config check --config /etc/ganglion/node.toml`
}

func (c configCheckCmd) Run(ctx context.Context, call *kong.Context, log *slog.Logger) error {
	if c.PrintConfig {
		return printConfig(os.Stdout, call)
	}
	errs := misspelled(call.Model, os.Environ())
	config, _, err := c.config(ctx, log)
	if err == nil {
		err = config.Check()
	}
	if provider, wrong := c.provider(ctx, config.Name, log); wrong != nil {
		errs = append(errs, wrong)
	} else if provider != nil {
		errs = append(errs, provider.Shutdown(ctx))
	}
	if err := errors.Join(append(errs, err)...); err != nil {
		return usageError{err}
	}
	fmt.Println("the configuration is good")
	return nil
}

// printConfig writes the configuration that holds, as a file that --config
// takes, and where each value comes from.
func printConfig(out io.Writer, call *kong.Context) error {
	set := map[*kong.Flag]string{}
	for _, p := range call.Path {
		switch {
		case p.Flag == nil:
		case p.Resolved:
			set[p.Flag] = "the file"
		default:
			set[p.Flag] = "the command line"
		}
	}
	for _, f := range nodeFlags(call.Model) {
		// The tree has a flag of its own for each command that shares it.
		var here *kong.Flag
		for _, given := range call.Flags() {
			if given.Name == f.Name {
				here = given
			}
		}
		if here == nil || f.Hidden {
			continue
		}
		from := set[here]
		if name := fromEnvironment(here); from == "" && name != "" {
			from = name
		}
		value := here.Target.Interface()
		if from == "" {
			if here.Target.IsZero() || here.Target.Kind() == reflect.Slice && here.Target.Len() == 0 {
				fmt.Fprintf(out, "# %s is not given\n", f.Name)
				continue
			}
			from = "by default"
		}
		if _, err := fmt.Fprintf(out, "%s = %s # %s\n", f.Name, tomlValue(value), from); err != nil {
			return err
		}
	}
	return nil
}

func tomlValue(value any) string {
	switch v := value.(type) {
	case []string:
		items := make([]string, len(v))
		for i, item := range v {
			items[i] = strconv.Quote(redacted(item))
		}
		return "[" + strings.Join(items, ", ") + "]"
	case bool, int:
		return fmt.Sprint(v)
	default:
		return strconv.Quote(redacted(fmt.Sprint(v)))
	}
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
func warnOfMisspelled(call *kong.Context, log *slog.Logger) {
	for _, err := range misspelled(call.Model, os.Environ()) {
		log.Warn("the environment has a variable that nothing reads", "problem", err)
	}
}
