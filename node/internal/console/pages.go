package console

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"io/fs"
	"mime"
	"net/http"
	"path"
	"strings"
	"sync"
	"time"
)

// pages serves the console's files, which are compressed with gzip. A browser asks each
// time whether they have changed, since the next node behind a load balancer may have
// another version.
type pages struct {
	files fs.FS

	mu     sync.Mutex
	loaded map[string]*page
}

type page struct {
	compressed       []byte
	tag, contentType string
}

func newPages(files fs.FS) *pages { return &pages{files: files, loaded: map[string]*page{}} }

// load returns a file.
func (p *pages) load(name string) (*page, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if known := p.loaded[name]; known != nil {
		return known, nil
	}
	compressed, err := fs.ReadFile(p.files, name+".gz")
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(compressed)
	one := &page{compressed, `"` + hex.EncodeToString(sum[:8]) + `"`, mime.TypeByExtension(path.Ext(name))}
	p.loaded[name] = one
	return one, nil
}

func (p *pages) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name := strings.TrimPrefix(r.URL.Path, "/")
	if name == "" {
		name = "index.html"
	}
	one, err := p.load(name)
	if err != nil {
		http.NotFound(w, r)
		return
	}
	text, h := one.compressed, w.Header()
	if strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
		h.Set("Content-Encoding", "gzip")
	} else if text, err = plain(text); err != nil {
		refuse(w, http.StatusInternalServerError, "the file "+name+" is damaged")
		return
	}
	h.Set("Cache-Control", "no-cache")
	h.Set("Vary", "Accept-Encoding")
	h.Set("ETag", one.tag)
	h.Set("Content-Type", one.contentType)
	http.ServeContent(w, r, name, time.Time{}, bytes.NewReader(text))
}

// plain decompresses a file, for clients that do not.
func plain(compressed []byte) ([]byte, error) {
	r, err := gzip.NewReader(bytes.NewReader(compressed))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}
