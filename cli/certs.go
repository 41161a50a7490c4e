package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"github.com/ganglion-es/ganglion/node/trust"
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
		Short:   "Make a certificate authority and certificates for nodes",
		Example: `  ganglion certs --dir certs --node n1 --node n2 --node n3`,
		RunE:    func(*cobra.Command, []string) error { return c.run() },
	}
	f := cmd.Flags()
	f.StringVar(&c.Dir, "dir", "", "`DIR` for the files; an authority that exists there is reused")
	f.StringSliceVar(&c.Node, "node", nil, "a node's `NAME` (repeatable)")
	f.BoolVar(&c.Keep, "keep", false, "skip nodes whose files exist, instead of failing")
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
			fmt.Println("all certificates exist")
			return nil
		}
	}
	files, err := trust.MakeCerts(c.Dir, c.Node)
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
Copy ca.pem and its own two files to each node, and start it with
  --peer-tls-cert NAME.pem --peer-tls-key NAME.key --peer-tls-ca ca.pem
Keep %s elsewhere: its holder can add nodes to the cluster.
`, filepath.Join(c.Dir, "ca.key"))
	return nil
}
