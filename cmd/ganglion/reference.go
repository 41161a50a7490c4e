package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/alecthomas/kong"
)

type configReferenceCmd struct{}

func (configReferenceCmd) Run(call *kong.Context) error {
	return writeReference(os.Stdout, call.Model)
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
func writeReference(out io.Writer, app *kong.Application) error {
	var doc strings.Builder
	doc.WriteString(referenceHead)
	section := func(title string, flags []*kong.Flag) {
		fmt.Fprintf(&doc, "\n## %s\n\n| flag | by default | |\n| --- | --- | --- |\n", title)
		for _, f := range flags {
			if f.Hidden || f.Name == "help" {
				continue
			}
			fmt.Fprintf(&doc, "| `--%s`%s | %s | %s |\n", f.Name, flagArgument(f), flagDefault(f), flagHelp(f))
		}
	}
	section("Every command", app.Flags)
	for _, leaf := range app.Leaves(true) {
		if len(leaf.Flags) == 0 || leaf.Path() == "config check" {
			continue
		}
		section(fmt.Sprintf("`ganglion %s`", leaf.Path()), leaf.Flags)
	}
	_, err := io.WriteString(out, doc.String())
	return err
}

func flagArgument(f *kong.Flag) string {
	switch {
	case f.IsBool():
		return ""
	case f.PlaceHolder != "":
		return " `" + strings.ReplaceAll(f.PlaceHolder, "|", "` or `") + "`"
	case f.Enum != "":
		return " `" + strings.ReplaceAll(f.Enum, ",", "` or `") + "`"
	default:
		return " `" + strings.ToUpper(f.Target.Type().Name()) + "`"
	}
}

func flagDefault(f *kong.Flag) string {
	switch {
	case f.Default != "":
		return "`" + f.Default + "`"
	case f.Required:
		return "required"
	default:
		return ""
	}
}

func flagHelp(f *kong.Flag) string {
	help := strings.ReplaceAll(f.Help, "|", "\\|")
	for _, env := range f.Envs {
		help += " `" + env + "`"
	}
	return help
}
