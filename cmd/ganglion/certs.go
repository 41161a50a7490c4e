package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"github.com/ganglion-es/ganglion/node"
)

type certsCmd struct {
	Dir  string
	Node []string
	Keep bool
}

func certsCommand() *cobra.Command {
	var c certsCmd
	cmd := &cobra.Command{
		Use:     "certs",
		Short:   "Make a small authority and the certificates with which nodes know each other.",
		Example: `  ganglion certs --dir certs --node n1 --node n2 --node n3`,
		RunE:    func(*cobra.Command, []string) error { return c.run() },
	}
	f := cmd.Flags()
	f.StringVar(&c.Dir, "dir", "", "`DIR` for the files; an authority that is there already is used.")
	f.StringSliceVar(&c.Node, "node", nil, "A node's `NAME`. Again for more.")
	f.BoolVar(&c.Keep, "keep", false, "Leave alone the nodes whose files are there already, instead of refusing them.")
	require(f, "dir", "node")
	return cmd
}

func (c certsCmd) run() error {
	if c.Keep {
		c.Node = slices.DeleteFunc(c.Node, func(name string) bool {
			_, noCert := os.Stat(filepath.Join(c.Dir, name+".pem"))
			_, noKey := os.Stat(filepath.Join(c.Dir, name+".key"))
			return noCert == nil && noKey == nil
		})
		if len(c.Node) == 0 {
			fmt.Println("all certificates are there already")
			return nil
		}
	}
	files, err := node.MakeCerts(c.Dir, c.Node)
	for _, f := range files {
		fmt.Println(f)
	}
	var path *fs.PathError
	switch {
	case errors.As(err, &path):
		return err
	case err != nil:
		return usageError{err}
	}
	fmt.Printf(`
Bring ca.pem, and each node its own two files, to the nodes, and start them with
  --peer-tls-cert NAME.pem --peer-tls-key NAME.key --peer-tls-ca ca.pem
Keep %s elsewhere: whoever has it can make nodes.
`, filepath.Join(c.Dir, "ca.key"))
	return nil
}
