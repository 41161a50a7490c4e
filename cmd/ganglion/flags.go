package main

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
	variable = "variable" // of the environment, which sets it as well
	required = "required" // it has to be set, by whatever sets it
	source   = "source"   // what set it, if that was not the command line
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

// fromEnvironment has the flags that are there so far read from the
// environment as well, as GANGLION_ and their names in capitals. What is read
// from there, and a node has, is also read from the file of --config. The
// flags that follow are for one call.
func fromEnvironment(flags *pflag.FlagSet) {
	flags.VisitAll(func(f *pflag.Flag) {
		name := envPrefix + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
		annotate(f, variable, name)
		f.Usage += " ($" + name + ")"
	})
}

// require says that a flag has to be set. Cobra's own mark has shells complete
// nothing else while the command line lacks it.
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

// oneOf says what a flag takes, or a list of it has.
func oneOf(cmd *cobra.Command, name string, words ...string) {
	f := cmd.Flag(name)
	f.Value = choice{f.Value, words}
	if err := cmd.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic(err)
	}
}

// choice is the value of a flag that takes a few words only.
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
			return fmt.Errorf("write %s", strings.Join(c.words, " or "))
		}
	}
	return c.Value.Set(text)
}

// settings are the flags that the environment sets as well.
func settings(flags *pflag.FlagSet) []*pflag.Flag {
	var found []*pflag.Flag
	flags.VisitAll(func(f *pflag.Flag) {
		if annotation(f, variable) != "" {
			found = append(found, f)
		}
	})
	return found
}

// prepare runs before every command: it sets the flags that the command line
// does not have, from the environment and then from the file of --config, and
// says what is missing.
func prepare(cmd *cobra.Command, _ []string) error {
	if err := setFromEnvironment(cmd.Flags()); err != nil {
		return misused(cmd, err)
	}
	if name := cmd.Flag("config").Value.String(); name != "" {
		if err := setFromFile(cmd.Flags(), name, nodeSettings(cmd.Root())); err != nil {
			return misused(cmd, fmt.Errorf("the configuration %s: %w", name, err))
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
			errs = append(errs, fmt.Errorf("%s: %w", name, plain(err)))
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
			errs = append(errs, plain(err))
		}
		annotate(f, source, "the file")
	}
	return errors.Join(errs...)
}

// plain says what is wrong with a flag's value, without the functions that
// found it.
func plain(err error) error {
	var invalid *pflag.InvalidValueError
	if !errors.As(err, &invalid) {
		return err
	}
	cause := invalid.Unwrap()
	var number *strconv.NumError
	if errors.As(cause, &number) {
		cause = number.Err
	}
	return fmt.Errorf("--%s does not take %q: %w", invalid.GetFlag().Name, invalid.GetValue(), cause)
}

// misused is a call that is not understood. It says where to find what a call
// may say.
func misused(cmd *cobra.Command, err error) error {
	return usagef("%w ('%s --help' shows what there is)", err, cmd.CommandPath())
}

// flagError is what flags are refused with.
func flagError(cmd *cobra.Command, err error) error {
	if args := cmd.Flags().Args(); cmd.HasSubCommands() && len(args) > 0 {
		return choose(cmd, args) // the flag is of a command that was misspelt
	}
	var unknown *pflag.NotExistError
	if errors.As(err, &unknown) && unknown.GetSpecifiedShortnames() == "" {
		var names []string
		cmd.Flags().VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
		err = fmt.Errorf("there is no --%s%s", unknown.GetSpecifiedName(), suggestion(unknown.GetSpecifiedName(), names))
	}
	return misused(cmd, plain(err))
}

// choose is what a command does that only has others.
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
	return misused(cmd, fmt.Errorf("there is no command %q%s", args[0], suggestion(args[0], names)))
}

// positional checks arguments against the line of usage, in which each has a
// name, and brackets if it may be left out.
func positional(cmd *cobra.Command, args []string) error {
	names := strings.Fields(cmd.Use)[1:]
	switch {
	case len(args) > len(names):
		return misused(cmd, fmt.Errorf("there is no place for %q", args[len(names)]))
	case len(args) < len(names) && !strings.HasPrefix(names[len(args)], "["):
		return misused(cmd, fmt.Errorf("%s is missing", names[len(args)]))
	case cmd.ValidArgs != nil && !slices.Contains(cmd.ValidArgs, args[0]):
		return misused(cmd, fmt.Errorf("there is no %s %q: write %s", names[0], args[0], strings.Join(cmd.ValidArgs, " or ")))
	}
	return nil
}
