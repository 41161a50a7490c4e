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
	"strings"
	"time"

	"github.com/ganglion-es/ganglion/node/internal/console"
	"github.com/ganglion-es/ganglion/proto/peer"
	"github.com/ganglion-es/ganglion/router/transport"
)

// debugPiece is the largest part of a file in one message, in bytes.
const debugPiece = 256 << 10

// Debug sends an operator the node's diagnostics, or one profile of its process; see
// [operator.Client.Debug].
func (s peerServer) Debug(req *peer.DebugRequest, stream transport.Sender[peer.DebugPiece]) error {
	n := s.node
	if req.Profile != "" {
		data, err := n.profileSelf(stream.Context(), req.Profile, time.Duration(req.Seconds)*time.Second)
		if err != nil {
			return transport.Errorf(transport.FailedPrecondition, "%w", err)
		}
		return sendFile(stream, req.Profile, data)
	}
	n.log.Info("an operator collects logs and profiles")
	redact := n.redactor()
	for _, f := range []struct {
		name string
		make func(context.Context, *bytes.Buffer)
	}{
		{"readyz.txt", n.page("/readyz")},
		{"cluster.json", n.page("/v1/cluster")},
		{"metrics.txt", n.page("/metrics")},
		{"log.txt", func(_ context.Context, to *bytes.Buffer) { to.Write(n.recent.bytes()) }},
		{goroutineProfile, profile(goroutineProfile)},
		{heapProfile, profile(heapProfile)},
	} {
		var file bytes.Buffer
		f.make(stream.Context(), &file)
		data := file.Bytes()
		switch f.name {
		case "readyz.txt", "cluster.json", "log.txt": // the other files have no text from clients
			data = redact(data)
		}
		if err := sendFile(stream, f.name, data); err != nil {
			return err
		}
	}
	return nil
}

// sendFile sends a file in pieces, and at least one.
func sendFile(stream transport.Sender[peer.DebugPiece], name string, data []byte) error {
	for first := true; first || len(data) > 0; first = false {
		size := min(len(data), debugPiece)
		if err := stream.Send(&peer.DebugPiece{File: name, Data: data[:size]}); err != nil {
			return err
		}
		data = data[size:]
	}
	return nil
}

func profile(name string) func(context.Context, *bytes.Buffer) {
	return func(ctx context.Context, to *bytes.Buffer) {
		_ = makeProfile(ctx, name, 0, to) // a write into memory does not fail
	}
}

// profileSelf makes a profile of this process for another member, or for the console.
func (n *node) profileSelf(ctx context.Context, name string, length time.Duration) ([]byte, error) {
	if name == cpuProfile && (length < time.Second || length > longestForMembers) {
		return nil, fmt.Errorf("a profile of %v was asked for: 1s to %v are allowed", length, longestForMembers)
	}
	n.log.Info("an operator takes a profile of this process", "profile", name)
	var file bytes.Buffer
	err := makeProfile(ctx, name, length, &file)
	return file.Bytes(), err
}

// maxProfile bounds a profile of another member, in bytes.
const maxProfile = 64 << 20

// profileOf asks a member for a profile of its process, for the console.
func (n *node) profileOf(ctx context.Context, m console.Member, name string, length time.Duration) ([]byte, error) {
	if m.ID == n.cfg.Name {
		return n.profileSelf(ctx, name, length)
	}
	ctx, cancel := context.WithCancel(ctx) // ends the stream
	defer cancel()
	pieces, err := n.pool.Peer(m.Peer).Debug(ctx, &peer.DebugRequest{Profile: name, Seconds: uint32(length / time.Second)})
	var data []byte
	for sent := false; err == nil; {
		var p *peer.DebugPiece
		switch p, err = pieces.Recv(); {
		case errors.Is(err, io.EOF) && sent:
			return data, nil
		case errors.Is(err, io.EOF):
			return nil, errors.New("it is too old for this: upgrade it")
		case err == nil && p.File == name: // an older member also sends other files
			data, sent = append(data, p.Data...), true
			if len(data) > maxProfile {
				return nil, fmt.Errorf("the profile has more than %d MiB", maxProfile>>20)
			}
		}
	}
	return nil, whySilent(ctx, err)
}

// page returns a function that writes the node's response to a request for a path.
func (n *node) page(path string) func(context.Context, *bytes.Buffer) {
	return func(ctx context.Context, to *bytes.Buffer) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, path, nil)
		if err != nil {
			return // never: the paths are constants
		}
		req.RemoteAddr = "127.0.0.1:0"
		response := memoryResponse{header: http.Header{}, body: to}
		if path == "/readyz" {
			response.status = func(code int) { fmt.Fprintln(to, code, http.StatusText(code)) }
		}
		(*n.front.handler.Load()).ServeHTTP(&response, req)
	}
}

// memoryResponse is an [http.ResponseWriter] that writes into memory.
type memoryResponse struct {
	header http.Header
	body   *bytes.Buffer
	status func(code int) // nil to ignore the status
}

func (r *memoryResponse) Header() http.Header { return r.header }

func (r *memoryResponse) WriteHeader(code int) {
	if r.status != nil {
		r.status(code)
	}
}

func (r *memoryResponse) Write(p []byte) (int, error) { return r.body.Write(p) }

// secretForms are the forms of secrets in text, with their replacements.
var secretForms = []struct {
	form *regexp.Regexp
	with string
}{
	{regexp.MustCompile(`(://[^\s/:@"]*):[^\s"]*@`), "$1:xxxxx@"},                                                                                 // a URL's password
	{regexp.MustCompile(`eyJ[\w-]+\.[\w-]+\.[\w-]*`), "xxxxx"},                                                                                    // a token
	{regexp.MustCompile(`(dev:[^\s{"\\]+ ?)\{.*`), "${1}xxxxx"},                                                                                   // a development token's claims
	{regexp.MustCompile(`(?i)((?:password|secret|token|claims|authorization)\\?"?[=:])\s*(?:"(?:[^"\\]|\\.)*"|\{[^}]*\}|[^\s&"]+)`), "${1}xxxxx"}, // a named secret
	{regexp.MustCompile(`-----BEGIN [A-Z ]*PRIVATE KEY-----[^-]*`), "xxxxx"},
}

// redactor returns a function that removes secrets from text: the node's own secrets,
// and strings with the form of one. It is a second line of defence: nothing logs
// secrets.
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
	for _, key := range n.gossip.Current() {
		known = append(known, string(key), hex.EncodeToString(key), base64.StdEncoding.EncodeToString(key), base64.RawStdEncoding.EncodeToString(key))
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
