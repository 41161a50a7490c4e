// Package transfer moves a log by way of a file: from PostgreSQL to SQLite
// and back, to another server, or into an archive.
//
// The file has one JSON document per line:
//
//	{"ganglion":"log","form":1,"log":"0b1e…","after":0}
//	{"pos":2,"n":2,"stream":"auction/42","version":2,"key":"k1","hash":"00…","at":"2026-03-01T12:00:00.123456Z","meta":{"client":"ada"},"events":[{"t":"opened","d":{…}},{"t":"bid_placed","v":2,"d":{…}}]}
//	{"end":2,"commits":1}
//
// The first line says which log it is, and after which position the file
// begins; if that is not the log's beginning, "key" names the commit there.
// Then comes one line per commit, as the log's table has it: pos and version
// are those of the last of its n events; v is absent for an event's first
// form. The last line says that the file is complete.
//
// Positions, versions, keys, hashes, times, meta and events are kept as they
// are, to the byte, but for line breaks between the tokens of an event's data,
// which become spaces. So a log that was moved, and is exported again, gives
// the same file; only the id in its first line may differ.
//
// What is not in the file: snapshots, which hosts make anew, and kept outcomes
// of commands without events, which are final for a day. A client that sends
// such a command again after the log was moved has it decided again.
//
// Both directions need memory for a page of the log, and can be continued
// where they ended: Resume finds the place in a file, and Import goes on after
// what the log holds already, once it has compared it with the file.
package transfer

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/internal/stored"
)

const (
	// form is the version of the file's form.
	form = 1
	// page is how many commits are read or written at once.
	page = 1_000
	// pageBytes bounds the bytes of a page that is written at once.
	pageBytes = 8 << 20
	// maxLine bounds a line. A commit's events have 16 MiB at most.
	maxLine = stored.MaxCommitBytes + 1<<20
)

// Header is a file's first line.
type Header struct {
	// Kind is "log".
	Kind string `json:"ganglion"`
	Form int    `json:"form"`
	// Log is the incarnation of the log that was exported.
	Log string `json:"log"`
	// After is the position behind which the file begins, Key that of the
	// commit there.
	After eventstore.Position `json:"after"`
	Key   string              `json:"key,omitempty"`
}

// end is a file's last line.
type end struct {
	End     *eventstore.Position `json:"end"`
	Commits int64                `json:"commits"`
}

// row is a line between the two.
type row struct {
	Pos     eventstore.Position `json:"pos"`
	N       int                 `json:"n"`
	Stream  string              `json:"stream"`
	Version eventstore.Version  `json:"version"`
	Key     string              `json:"key"`
	Hash    string              `json:"hash"`
	At      time.Time           `json:"at"`
	Meta    json.RawMessage     `json:"meta"`
	Events  json.RawMessage     `json:"events"`
}

// A FileError says what is wrong with a file, in words for whoever has it.
type FileError struct {
	Line   int64 // from 1
	Reason string
}

func (e *FileError) Error() string {
	return fmt.Sprintf("transfer: line %d: %s", e.Line, e.Reason)
}

const timeForm = "2006-01-02T15:04:05.000000Z"

// appendRow appends a commit's line.
func appendRow(b []byte, r *eventstore.Record) ([]byte, error) {
	meta, events, err := stored.Texts(r)
	if err != nil {
		return b, &eventstore.DamagedError{Position: r.Position, Reason: err.Error()}
	}
	b = fmt.Appendf(b, `{"pos":%d,"n":%d,"stream":`, r.Position, len(r.Events))
	b = appendText(b, r.Stream.String())
	b = fmt.Appendf(b, `,"version":%d,"key":`, r.Version)
	b = appendText(b, r.Key)
	b = append(b, `,"hash":"`...)
	b = hex.AppendEncode(b, r.Hash[:])
	b = append(b, `","at":"`...)
	b = r.At.UTC().AppendFormat(b, timeForm)
	b = append(b, `","meta":`...)
	b = append(b, meta...)
	b = append(b, `,"events":`...)
	from := len(b)
	b = append(b, events...)
	for i := from; i < len(b); i++ {
		if b[i] == '\n' || b[i] == '\r' { // never within a string
			b[i] = ' '
		}
	}
	return append(b, "}\n"...), nil
}

// appendText appends a string without the escapes that are only for HTML.
func appendText(b []byte, s string) []byte {
	var text bytes.Buffer
	e := json.NewEncoder(&text)
	e.SetEscapeHTML(false)
	_ = e.Encode(s) // a string in memory: there is nothing to fail
	return append(b, bytes.TrimSuffix(text.Bytes(), []byte("\n"))...)
}

// parseRow is the inverse of appendRow.
func parseRow(text []byte) (eventstore.Record, error) {
	var r eventstore.Record
	var l row
	if err := strict(text, &l); err != nil {
		return r, err
	}
	var err error
	if r.Stream, err = eventstore.ParseStreamID(l.Stream); err != nil {
		return r, err
	}
	hash, err := hex.DecodeString(l.Hash)
	if err != nil || len(hash) != len(r.Hash) {
		return r, fmt.Errorf("the hash is not %d bytes in hex", len(r.Hash))
	}
	copy(r.Hash[:], hash)
	if err := strict(l.Meta, &r.Meta); err != nil {
		return r, fmt.Errorf("meta: %w", err)
	}
	if r.Events, err = stored.DecodeEvents(l.Events, l.N); err != nil {
		return r, err
	}
	if l.At.Nanosecond()%1000 != 0 {
		return r, errors.New("the time is finer than a microsecond")
	}
	r.Position, r.Version, r.Key, r.At = l.Pos, l.Version, l.Key, l.At.UTC()
	return r, nil
}

// strict decodes one JSON document that has no members but those of v.
func strict(text []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return errors.New("it is cut off")
		}
		return err
	}
	if rest := bytes.TrimSpace(text[d.InputOffset():]); len(rest) > 0 {
		return errors.New("something follows the JSON document")
	}
	return nil
}

// lines reads a file.
type lines struct {
	in     *bufio.Scanner
	line   int64 // that was read last, from 1
	offset int64 // behind it
}

var errCut = errors.New("it is cut off: the line has no end")

func newLines(r io.Reader) *lines {
	l := &lines{in: bufio.NewScanner(r)}
	l.in.Buffer(make([]byte, 0, 64<<10), maxLine)
	l.in.Split(func(data []byte, atEOF bool) (int, []byte, error) {
		if i := bytes.IndexByte(data, '\n'); i >= 0 {
			return i + 1, data[:i], nil
		}
		if atEOF && len(data) > 0 {
			return 0, nil, errCut
		}
		return 0, nil, nil
	})
	return l
}

// next returns a line, good until the next call; io.EOF at the end of the
// file, and errCut when there is only half of a line.
func (l *lines) next() ([]byte, error) {
	if l.in.Scan() {
		l.line++
		l.offset += int64(len(l.in.Bytes())) + 1
		return l.in.Bytes(), nil
	}
	err := l.in.Err()
	switch {
	case err == nil:
		return nil, io.EOF
	case errors.Is(err, bufio.ErrTooLong):
		return nil, &FileError{l.line + 1, fmt.Sprintf("it is longer than %d bytes: this is not an exported log", maxLine)}
	case errors.Is(err, errCut):
		return nil, errCut
	}
	return nil, fmt.Errorf("transfer: read the file: %w", err)
}

func (l *lines) wrong(format string, args ...any) error {
	return &FileError{max(l.line, 1), fmt.Sprintf(format, args...)}
}

// header reads the first line.
func (l *lines) header() (Header, error) {
	text, err := l.next()
	if errors.Is(err, io.EOF) || errors.Is(err, errCut) {
		return Header{}, &FileError{1, "this is not an exported log: it has no first line"}
	}
	if err != nil {
		return Header{}, err
	}
	var h Header
	if err := json.Unmarshal(text, &h); err != nil || h.Kind != "log" {
		return h, l.wrong(`this is not an exported log: such a file begins with {"ganglion":"log",…}`)
	}
	if h.Form != form {
		return h, l.wrong("the file has form %d, this program knows %d: use the version that wrote it, or a newer one", h.Form, form)
	}
	if err := stored.CheckLogID(h.Log); err != nil {
		return h, l.wrong("%q is no log's id", h.Log)
	}
	return h, nil
}

// parseEnd tells whether a line is the last one.
func parseEnd(text []byte) (end, bool) {
	var e end
	if !bytes.HasPrefix(text, []byte(`{"end":`)) || strict(text, &e) != nil || e.End == nil {
		return e, false
	}
	return e, true
}

// anchor returns the key of the commit whose last event is at p.
func anchor(ctx context.Context, log eventstore.Mover, p eventstore.Position) (key string, err error) {
	if p == 0 {
		return "", nil
	}
	list, err := log.Records(ctx, p-1, 1)
	if err != nil {
		return "", err
	}
	if len(list) == 0 || list[0].Position != p {
		return "", nil // and no commit has an empty key
	}
	return list[0].Key, nil
}
