// Package examples has the pages that "ganglion dev" serves, and nodes with
// --examples, built and ready.
package examples

import (
	"embed"
	"net/http"
)

//go:embed auction/index.html auction/auction.css auction/auction.js
var pages embed.FS

// Handler serves the pages under /examples/, and leads there from /.
func Handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /examples/", http.StripPrefix("/examples", http.FileServerFS(pages)))
	mux.Handle("GET /{$}", http.RedirectHandler("/examples/auction/", http.StatusFound))
	return mux
}
