// Package web contains the built pages of the console, compressed with gzip. Their
// sources are beside them; "scripts/client-js.sh examples" builds them.
package web

import (
	"embed"
	"io/fs"
)

//go:embed console/dist
var files embed.FS

// Console returns the files of the console. The name of each ends with .gz.
func Console() fs.FS {
	pages, err := fs.Sub(files, "console/dist")
	if err != nil {
		panic(err) // the name is valid
	}
	return pages
}
