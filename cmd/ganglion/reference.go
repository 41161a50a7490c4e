package main

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
		Short:  "Print docs/configuration.md.",
		Hidden: true,
		RunE:   func(cmd *cobra.Command, _ []string) error { return writeReference(cmd.OutOrStdout(), cmd.Root()) },
	}
}

const referenceHead = `# Configuration

Generated from the code by ` + "`make generate`" + `.

A node takes each of its settings from the first of these that has it:

1. the command line: ` + "`--drain-window 10s`" + `
2. the environment: the flag's name in capitals behind ` + "`GANGLION_`" + `, with ` + "`_`" + ` for ` + "`-`" + `: ` + "`GANGLION_DRAIN_WINDOW=10s`" + `
3. the file that ` + "`--config`" + ` (or ` + "`GANGLION_CONFIG`" + `) names, in [TOML](https://toml.io), under the flag's name: ` + "`drain-window = \"10s\"`" + `
4. what it is by default.

They don't add up: a list on the command line replaces the one in the file. On the command line and in the environment the items of a list have commas between
them. Durations are written ` + "`500ms`" + `, ` + "`10s`" + `, ` + "`2m`" + `. The other commands take from the environment and the file what they share with ` + "`ganglion node`" + `, such as ` + "`store`" + `.

` + "```toml" + `
name = "n1"
store = "postgres://ganglion@db/ganglion?sslmode=verify-full"
store-password-file = "/run/secrets/db"
join = ["n1:7946", "n2:7946", "n3:7946"]
max-sessions = 20000
drain-window = "10s"
` + "```" + `

A key of the file that is no flag of ` + "`ganglion node`" + ` is an error, and what was probably meant is named. A variable of the environment that looks like a misspelt one
is warned of at the start, since other programs may use the prefix, and is an error for ` + "`ganglion config check`" + `.

- ` + "`ganglion config check`" + ` takes what ` + "`ganglion node`" + ` takes, and reports everything that is wrong with it and with the files that it names. It opens no port and no database; it exits with 2 when
  something is wrong.
- ` + "`ganglion node --print-config`" + ` prints the settings that hold and where each comes from, as a file that ` + "`--config`" + ` takes. Passwords in URLs are replaced by ` + "`xxxxx`" + `; other secrets are in files, of which the names are printed.
`

// writeReference writes docs/configuration.md.
func writeReference(out io.Writer, root *cobra.Command) error {
	var doc strings.Builder
	doc.WriteString(referenceHead)
	section := func(title string, flags *pflag.FlagSet) {
		fmt.Fprintf(&doc, "\n## %s\n\n| flag | by default | |\n| --- | --- | --- |\n", title)
		flags.VisitAll(func(f *pflag.Flag) {
			if !f.Hidden && f.Name != "help" {
				argument, text := flagTexts(f)
				fmt.Fprintf(&doc, "| `--%s`%s | %s | %s |\n", f.Name, argument, flagDefault(f), text)
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

func flagTexts(f *pflag.Flag) (argument, text string) {
	argument, text = pflag.UnquoteUsage(f)
	if _, words := f.Value.(choice); !words {
		argument = strings.ToUpper(argument)
	}
	if argument != "" {
		argument = " `" + strings.ReplaceAll(argument, "|", "` or `") + "`"
	}
	text = strings.ReplaceAll(text, "|", "\\|")
	if name := annotation(f, variable); name != "" {
		text = strings.TrimSuffix(text, " ($"+name+")") + " `" + name + "`"
	}
	return argument, text
}

func flagDefault(f *pflag.Flag) string {
	switch {
	case annotation(f, required) != "":
		return "required"
	case zeroByDefault(f):
		return ""
	}
	return "`" + strings.Trim(f.DefValue, "[]") + "`"
}
