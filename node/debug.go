package node

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"runtime/pprof"
	"strings"

	"google.golang.org/grpc"

	"github.com/ganglion-es/ganglion/proto/peer"
	"github.com/ganglion-es/ganglion/router/link"
)

const (
	// debugPiece bounds a piece of a file on its way.
	debugPiece = 256 << 10
	// debugMost bounds what an operator takes from one node.
	debugMost = 64 << 20
)

// DebugFile is a file that tells how a node is doing.
type DebugFile struct {
	Name string // without a folder
	Data []byte
}

// debugName is the form of a DebugFile's name, which becomes one on the
// operator's disk.
var debugName = regexp.MustCompile(`^[a-z][a-z0-9.-]{0,63}$`)

// Debug asks the node at an address for peers how it is doing. It returns the
// files that came, 64 MiB at most, also when there is an error.
//
// The files are cluster.json, readyz.txt and metrics.txt (the node's pages),
// log.txt (its newest log lines, 1 to 2 MiB), goroutines.txt and heap.pb.gz
// (profiles of Go's runtime/pprof).
func (o *Operator) Debug(ctx context.Context, addr string) ([]DebugFile, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	pool := link.NewPool(link.PoolConfig{TLS: o.tls})
	defer pool.Close()
	conn, _, err := pool.Conn(addr)
	if err != nil {
		return nil, err
	}
	pieces, err := peer.NewPeerClient(conn).Debug(ctx, &peer.DebugRequest{})
	var files []DebugFile
	size := 0
	for err == nil {
		var p *peer.DebugPiece
		if p, err = pieces.Recv(); err != nil {
			break
		}
		if size += len(p.Data); size > debugMost || !debugName.MatchString(p.File) {
			return files, fmt.Errorf("the node at %s sent more than %d MiB, or a file called %.80q", addr, debugMost>>20, p.File)
		}
		if last := len(files) - 1; last >= 0 && files[last].Name == p.File {
			files[last].Data = append(files[last].Data, p.Data...)
		} else {
			files = append(files, DebugFile{p.File, p.Data})
		}
	}
	if errors.Is(err, io.EOF) {
		return files, nil
	}
	return files, notAnswered(ctx, addr, err)
}

// Debug serves Operator.Debug.
func (s peerServer) Debug(_ *peer.DebugRequest, stream grpc.ServerStreamingServer[peer.DebugPiece]) error {
	n := s.node
	n.log.Info("an operator gathers logs and profiles")
	redact := n.redactor()
	for _, f := range []struct {
		name string
		make func(context.Context, *bytes.Buffer)
	}{
		{"readyz.txt", n.page("/readyz")},
		{"cluster.json", n.page("/v1/cluster")},
		{"metrics.txt", n.page("/metrics")},
		{"log.txt", func(_ context.Context, to *bytes.Buffer) { to.Write(n.recent.bytes()) }},
		{"goroutines.txt", profile("goroutine", 1)},
		{"heap.pb.gz", profile("heap", 0)},
	} {
		var file bytes.Buffer
		f.make(stream.Context(), &file)
		data := file.Bytes()
		switch f.name {
		case "readyz.txt", "cluster.json", "log.txt": // the others hold names and numbers
			data = redact(data)
		}
		for first := true; first || len(data) > 0; first = false {
			size := min(len(data), debugPiece)
			if err := stream.Send(&peer.DebugPiece{File: f.name, Data: data[:size]}); err != nil {
				return err
			}
			data = data[size:]
		}
	}
	return nil
}

func profile(name string, debug int) func(context.Context, *bytes.Buffer) {
	return func(_ context.Context, to *bytes.Buffer) {
		_ = pprof.Lookup(name).WriteTo(to, debug) // to memory
	}
}

// page writes what the node answers to clients who ask for a path.
func (n *node) page(path string) func(context.Context, *bytes.Buffer) {
	return func(ctx context.Context, to *bytes.Buffer) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, path, nil)
		if err != nil {
			return // the path is ours
		}
		answer := answer{header: http.Header{}, body: to}
		if path == "/readyz" {
			answer.status = func(code int) { fmt.Fprintln(to, code, http.StatusText(code)) }
		}
		(*n.front.handler.Load()).ServeHTTP(&answer, req)
	}
}

// answer is an [http.ResponseWriter] in memory.
type answer struct {
	header http.Header
	body   *bytes.Buffer
	status func(code int) // nil if it does not matter
}

func (a *answer) Header() http.Header { return a.header }

func (a *answer) WriteHeader(code int) {
	if a.status != nil {
		a.status(code)
	}
}

func (a *answer) Write(p []byte) (int, error) { return a.body.Write(p) }

// Forms of secrets in text, and what stays of them.
var secretForms = []struct {
	form *regexp.Regexp
	with string
}{
	{regexp.MustCompile(`(://[^\s/:@"]*):[^\s"]*@`), "$1:xxxxx@"},                                                                                 // a URL's password
	{regexp.MustCompile(`eyJ[\w-]+\.[\w-]+\.[\w-]*`), "xxxxx"},                                                                                    // a token
	{regexp.MustCompile(`(dev:[^\s{"\\]+ ?)\{.*`), "${1}xxxxx"},                                                                                   // a development token's claims
	{regexp.MustCompile(`(?i)((?:password|secret|token|claims|authorization)\\?"?[=:])\s*(?:"(?:[^"\\]|\\.)*"|\{[^}]*\}|[^\s&"]+)`), "${1}xxxxx"}, // a named one
	{regexp.MustCompile(`-----BEGIN [A-Z ]*PRIVATE KEY-----[^-]*`), "xxxxx"},
}

// redactor returns what takes secrets out of text: those that the node knows,
// and what has the form of one. It is a second line of defence, since nothing
// logs them.
func (n *node) redactor() func([]byte) []byte {
	known := []string{n.cfg.StorePassword}
	if u, err := url.Parse(n.cfg.Store); err == nil {
		password, _ := u.User.Password()
		known = append(known, password)
		for name, values := range u.Query() {
			if strings.Contains(strings.ToLower(name), "password") {
				known = append(known, values...)
			}
		}
	}
	if n.gossip != nil {
		for _, key := range *n.gossip.current.Load() {
			known = append(known, string(key), hex.EncodeToString(key), base64.StdEncoding.EncodeToString(key), base64.RawStdEncoding.EncodeToString(key))
		}
	}
	return func(text []byte) []byte {
		for _, secret := range known {
			if secret != "" {
				text = bytes.ReplaceAll(text, []byte(secret), []byte("xxxxx"))
			}
		}
		for _, s := range secretForms {
			text = s.form.ReplaceAll(text, []byte(s.with))
		}
		return text
	}
}
