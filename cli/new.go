package cli

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/ganglion-es/ganglion/cli/internal/scaffold"
	"github.com/ganglion-es/ganglion/node"
)

func newCommand() *cobra.Command {
	var o scaffold.Options
	cmd := &cobra.Command{
		Use:   "new NAME",
		Short: "Write a new program with an aggregate, a list, a process manager and a page",
		Long: `Write a new program: an aggregate, a list, a process manager, tests, a page with live data (Vite, TypeScript, React), an image, a compose file and a CI workflow.
A release of ganglion writes a program that requires the released modules. Otherwise the program is built against a clone of Ganglion, by a go.work file: that of --ganglion, or the one in which the command runs.`,
		Example: `  ganglion new diner
  ganglion new diner --module github.com/ada/diner --dir ../diner --ganglion .`,
		RunE: func(cmd *cobra.Command, args []string) error { return writeProduct(cmd, args[0], o) },
	}
	f := cmd.Flags()
	f.StringVar(&o.Module, "module", "", "module `PATH` of the program (default example.com/NAME)")
	f.StringVar(&o.Dir, "dir", "", "`DIR` to write, which must be empty or missing (default NAME)")
	f.StringVar(&o.Clone, "ganglion", "", "`DIR` of a clone of Ganglion to build against (default the clone in which the command runs, if this program is not a release)")
	return cmd
}

func writeProduct(cmd *cobra.Command, name string, o scaffold.Options) error {
	o.Name, o.Version = name, node.Version()
	o.Module, o.Dir = cmp.Or(o.Module, "example.com/"+name), cmp.Or(o.Dir, name)
	if here, err := os.Getwd(); err == nil && o.Clone == "" && !scaffold.IsRelease(o.Version) {
		o.Clone = scaffold.FindClone(here)
	}
	if err := o.Check(); err != nil {
		return usageError{err}
	}
	if err := scaffold.Write(o); err != nil {
		return err
	}
	_, err := fmt.Fprintf(cmd.OutOrStdout(), `%s is a complete program. To build it, its page included, and to run it:

  cd %s
  ./build.sh
  ./%s dev

README.md describes its files.
`, name, filepath.Clean(o.Dir), name)
	return err
}
