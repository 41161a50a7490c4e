// Command diner takes orders. "diner dev" runs it for development, "diner node" in
// production; "diner --help" lists the rest.
package main

import (
	"os"

	"github.com/ganglion-es/ganglion/cli"
)

//go:generate go run . gen ts --out web/src/contract.ts

func main() {
	os.Exit(cli.Main(&Catalog, cli.Options{Name: "diner", Pages: pages()}))
}
