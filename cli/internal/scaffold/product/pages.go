package main

import (
	"embed"
	"io/fs"
	"net/http"
)

//go:embed all:web/dist
var built embed.FS

// pages serves the page that Vite has built into web/dist.
func pages() http.Handler {
	dist, err := fs.Sub(built, "web/dist")
	if err != nil {
		panic(err) // the name is valid
	}
	if _, err := fs.Stat(dist, "index.html"); err != nil {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, "the page is not built: run npm --prefix web install && npm --prefix web run build, then build this program again", http.StatusNotFound)
		})
	}
	return http.FileServerFS(dist)
}
