package cli

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Annotations of a flag.
const (
	variable = "variable" // environment variable that also sets it
	required = "required" // must be set, by the command line, the environment or the file
	source   = "source"   // what set it; absent if the command line did
)

const envPrefix = "GANGLION_"

func annotation(f *pflag.Flag, key string) string {
	return strings.Join(f.Annotations[key], " ")
}

func annotate(f *pflag.Flag, key, value string) {
	if f.Annotations == nil {
		f.Annotations = map[string][]string{}
	}
	f.Annotations[key] = []string{value}
}

// fromEnvironment makes the flags defined so far readable from the environment,
// as GANGLION_ and their names in capitals. The file of --config can also set the
// flags of a node. Flags defined later exist on the command line only.
func fromEnvironment(flags *pflag.FlagSet) {
	flags.VisitAll(func(f *pflag.Flag) {
		name := envPrefix + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
		annotate(f, variable, name)
		f.Usage += " ($" + name + ")"
	})
}

// require marks flags that must be set. With cobra's own mark, shells would
// complete only these flags until they are set.
func require(flags *pflag.FlagSet, names ...string) {
	for _, name := range names {
		annotate(flags.Lookup(name), required, "true")
	}
}

func hide(flags *pflag.FlagSet, names ...string) {
	for _, name := range names {
		flags.Lookup(name).Hidden = true
	}
}

// oneOf restricts a flag, or each item of its list, to some words.
func oneOf(cmd *cobra.Command, name string, words ...string) {
	f := cmd.Flag(name)
	f.Value = choice{f.Value, words}
	if err := cmd.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic(err)
	}
}

// choice is the value of a flag that oneOf restricts.
type choice struct {
	pflag.Value
	words []string
}

func (c choice) Type() string { return strings.Join(c.words, "|") }

func (c choice) Set(text string) error {
	given := []string{text}
	if _, list := c.Value.(pflag.SliceValue); list {
		given = strings.Split(text, ",")
	}
	for _, word := range given {
		if !slices.Contains(c.words, word) {
			return fmt.Errorf("it must be %s", strings.Join(c.words, " or "))
		}
	}
	return c.Value.Set(text)
}

// settings returns the flags that the environment can set.
func settings(flags *pflag.FlagSet) []*pflag.Flag {
	var found []*pflag.Flag
	flags.VisitAll(func(f *pflag.Flag) {
		if annotation(f, variable) != "" {
			found = append(found, f)
		}
	})
	return found
}

// prepare runs before every command. It sets flags that the command line lacks
// from the environment, then from the file of --config, and reports required flags
// that are still missing.
func prepare(cmd *cobra.Command, _ []string) error {
	if err := setFromEnvironment(cmd.Flags()); err != nil {
		return misused(cmd, err)
	}
	if name := cmd.Flag("config").Value.String(); name != "" {
		if err := setFromFile(cmd.Flags(), name, nodeSettings(cmd.Root())); err != nil {
			return misused(cmd, fmt.Errorf("configuration file %s: %w", name, err))
		}
	}
	var errs []error
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if annotation(f, required) != "" && !f.Changed {
			errs = append(errs, fmt.Errorf("--%s is missing", f.Name))
		}
	})
	if err := errors.Join(append(errs, cmd.ValidateFlagGroups())...); err != nil {
		return misused(cmd, err)
	}
	return nil
}

func setFromEnvironment(flags *pflag.FlagSet) error {
	var errs []error
	for _, f := range settings(flags) {
		name := annotation(f, variable)
		text, ok := os.LookupEnv(name)
		if !ok || f.Changed {
			continue
		}
		if err := flags.Set(f.Name, text); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", name, plainFlagError(err)))
		}
		annotate(f, source, name)
	}
	return errors.Join(errs...)
}

func setFromFile(flags *pflag.FlagSet, name string, known []*pflag.Flag) error {
	values, err := readConfigFile(name, known)
	errs := []error{err}
	for _, f := range settings(flags) {
		text, ok := values[f.Name]
		if !ok || f.Changed {
			continue
		}
		if err := flags.Set(f.Name, text); err != nil {
			errs = append(errs, plainFlagError(err))
		}
		annotate(f, source, "file")
	}
	return errors.Join(errs...)
}

// plainFlagError removes the names of parsing functions from the error of a
// flag's value.
func plainFlagError(err error) error {
	var invalid *pflag.InvalidValueError
	if !errors.As(err, &invalid) {
		return err
	}
	cause := invalid.Unwrap()
	var number *strconv.NumError
	if errors.As(cause, &number) {
		cause = number.Err
	}
	return fmt.Errorf("--%s does not accept %q: %w", invalid.GetFlag().Name, invalid.GetValue(), cause)
}

// misused returns a usageError that names the help to read.
func misused(cmd *cobra.Command, err error) error {
	return usagef("%w (see '%s --help')", err, cmd.CommandPath())
}

// flagError replaces cobra's error for a wrong flag. It suggests a similar name.
func flagError(cmd *cobra.Command, err error) error {
	if args := cmd.Flags().Args(); cmd.HasSubCommands() && len(args) > 0 {
		return choose(cmd, args) // the flag belongs to a misspelt command
	}
	var unknown *pflag.NotExistError
	if errors.As(err, &unknown) && unknown.GetSpecifiedShortnames() == "" {
		var names []string
		cmd.Flags().VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
		err = fmt.Errorf("unknown flag --%s%s", unknown.GetSpecifiedName(), suggestion(unknown.GetSpecifiedName(), names))
	}
	return misused(cmd, plainFlagError(err))
}

// choose runs for a command that only has subcommands. It reports that the
// subcommand is missing or unknown.
func choose(cmd *cobra.Command, args []string) error {
	var names []string
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() {
			names = append(names, c.Name())
		}
	}
	if len(args) == 0 {
		return misused(cmd, fmt.Errorf("a command is missing: %s", strings.Join(names, ", ")))
	}
	return misused(cmd, fmt.Errorf("unknown command %q%s", args[0], suggestion(args[0], names)))
}

// positional checks arguments against the usage line, which names them and puts
// brackets around optional ones.
func positional(cmd *cobra.Command, args []string) error {
	names := strings.Fields(cmd.Use)[1:]
	switch {
	case len(args) > len(names):
		return misused(cmd, fmt.Errorf("unexpected argument %q", args[len(names)]))
	case len(args) < len(names) && !strings.HasPrefix(names[len(args)], "["):
		return misused(cmd, fmt.Errorf("%s is missing", names[len(args)]))
	case cmd.ValidArgs != nil && !slices.Contains(cmd.ValidArgs, args[0]):
		return misused(cmd, fmt.Errorf("unknown %s %q: it must be %s", names[0], args[0], strings.Join(cmd.ValidArgs, " or ")))
	}
	return nil
}
