package cli

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

func configReferenceCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "reference",
		Short:  "Print docs/configuration.md",
		Hidden: true,
		RunE:   func(cmd *cobra.Command, _ []string) error { return writeReference(cmd.OutOrStdout(), cmd.Root()) },
	}
}

const referenceHead = `# Configuration

Generated from the code by ` + "`make generate`" + `.

A node reads each setting from the first of these sources that has it:

1. the command line: ` + "`--drain-window 10s`" + `
2. the environment, under the flag's name in capitals after ` + "`GANGLION_`" + `, with ` + "`_`" + ` for ` + "`-`" + `: ` + "`GANGLION_DRAIN_WINDOW=10s`" + `
3. the [TOML](https://toml.io) file that ` + "`--config`" + ` (or ` + "`GANGLION_CONFIG`" + `) names, under the flag's name: ` + "`drain-window = \"10s\"`" + `
4. the default.

Sources are not merged: a list on the command line replaces the one in the file.
On the command line and in the environment, commas separate the items of a list.
Durations are written ` + "`500ms`" + `, ` + "`10s`" + `, ` + "`2m`" + `.
Other commands read the settings that they share with ` + "`ganglion node`" + `, such as ` + "`store`" + `, from the environment and the file too.

` + "```toml" + `
name = "n1"
store = "postgres://ganglion@db/ganglion?sslmode=verify-full"
store-password-file = "/run/secrets/db"
join = ["n1:7946", "n2:7946", "n3:7946"]
max-sessions = 20000
drain-window = "10s"
` + "```" + `

Each table ` + "`[[relay]]`" + ` of the file is a relay to a broker: [relays.md](relays.md#configure-a-relay) has its settings.
Each table ` + "`[[intake]]`" + ` is a queue with commands: see [intake.md](intake.md#configure-an-intake).

A key of the file that is not a flag of ` + "`ganglion node`" + ` is an error, which suggests a similar name.
A node logs a warning when it starts if a variable's name is close to that of a setting, since other programs may use the prefix; for ` + "`ganglion config check`" + ` such a variable is an error.

- ` + "`ganglion config check`" + ` accepts the settings of ` + "`ganglion node`" + ` and reports everything that is wrong with them and with the files that they name.
  It opens no port and no database. The exit status is 2 if anything is wrong.
- ` + "`ganglion node --print-config`" + ` prints the effective settings with the source of each, as a file for ` + "`--config`" + `.
  Passwords in URLs are replaced by ` + "`xxxxx`" + `; other secrets are in files, whose names are printed.
`

// writeReference writes docs/configuration.md.
func writeReference(out io.Writer, root *cobra.Command) error {
	var doc strings.Builder
	doc.WriteString(referenceHead)
	section := func(title string, flags *pflag.FlagSet) {
		fmt.Fprintf(&doc, "\n## %s\n\n| flag | default | environment | |\n| --- | --- | --- | --- |\n", title)
		flags.VisitAll(func(f *pflag.Flag) {
			if !f.Hidden && f.Name != "help" {
				doc.WriteString(referenceRow(f))
			}
		})
	}
	section("Every command", root.PersistentFlags())
	each(root, func(cmd *cobra.Command) {
		if flags := cmd.LocalFlags(); cmd != root && !cmd.Hidden && flags.HasAvailableFlags() && cmd.Name() != "check" {
			section("`"+cmd.CommandPath()+"`", flags)
		}
	})
	_, err := io.WriteString(out, doc.String())
	return err
}

// referenceRow formats a flag. A usage that ends with "(default X)" describes a
// default that is not the flag's value.
func referenceRow(f *pflag.Flag) string {
	argument, text := pflag.UnquoteUsage(f)
	if _, words := f.Value.(choice); !words {
		argument = strings.ToUpper(argument)
	}
	if argument != "" {
		argument = " `" + strings.ReplaceAll(argument, "|", "` or `") + "`"
	}
	env := annotation(f, variable)
	if env != "" {
		text, env = strings.TrimSuffix(text, " ($"+env+")"), "`"+env+"`"
	}
	text, byDefault, described := strings.Cut(text, " (default ")
	switch {
	case described:
		byDefault = strings.TrimSuffix(byDefault, ")")
	case annotation(f, required) != "":
		byDefault = "required"
	case !zeroByDefault(f):
		byDefault = "`" + strings.Trim(f.DefValue, "[]") + "`"
	}
	return fmt.Sprintf("| `--%s`%s | %s | %s | %s |\n", f.Name, argument, byDefault, env, strings.ReplaceAll(text, "|", "\\|"))
}
