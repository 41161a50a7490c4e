// Package examples contains the built pages that "ganglion dev" and nodes with
// --examples serve.
package examples

import (
	"embed"
	"net/http"
)

//go:embed auction/index.html auction/auction.css auction/auction.js
var pages embed.FS

// Handler serves the pages under /examples/, and redirects / to the auction.
func Handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /examples/", http.StripPrefix("/examples", http.FileServerFS(pages)))
	mux.Handle("GET /{$}", http.RedirectHandler("/examples/auction/", http.StatusFound))
	return mux
}
