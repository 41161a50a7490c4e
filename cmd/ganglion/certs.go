package main

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/ganglion-es/ganglion"
)

type certsCmd struct {
	Dir  string   `help:"Folder for the files; an authority that is there already is used." required:"" placeholder:"DIR"`
	Node []string `help:"A node's name. Again for more." required:"" placeholder:"NAME"`
}

func (c certsCmd) Run() error {
	files, err := ganglion.MakeCerts(c.Dir, c.Node)
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
