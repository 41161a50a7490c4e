// Package transfer moves a log through a file: from PostgreSQL to SQLite and back,
// to another server, or into an archive.
//
// The file has one JSON document per line:
//
//	{"ganglion":"log","form":1,"log":"0b1e…","after":0}
//	{"pos":2,"n":2,"stream":"auction/42","version":2,"key":"k1","hash":"00…","at":"2026-03-01T12:00:00.123456Z","meta":{"client":"ada"},"events":[{"t":"opened","d":{…}},{"t":"bid_placed","v":2,"d":{…}}]}
//	{"end":2,"commits":1}
//
// The first line names the log and the position after which the file begins. If
// that is not 0, "key" names the commit there. One line per commit follows, as in
// the log's table: pos and version are those of the last of its n events; v is
// absent for the first form of an event. The last line marks the file as complete.
//
// The file keeps the bytes of positions, versions, keys, hashes, times, meta data
// and events, except that line breaks between the tokens of an event's data
// become spaces. A log that was moved therefore exports the same file. Only the
// id in the first line may differ.
//
// The file has no snapshots, because hosts make new ones, and no kept outcomes of
// commands without events, because they are final only for a day. If a client
// resends such a command after the move, it is decided again.
//
// Both directions need memory for one page of the log and can be interrupted.
// [Export.Resume] continues a file. [Import.Run] compares the commits that the
// log already has with the file, and continues after them.
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
	// form is the version of the file format.
	form = 1
	// page bounds the commits of one read or write.
	page = 1_000
	// pageBytes bounds the bytes of one write.
	pageBytes = 8 << 20
	// maxLine bounds a line. The events of a commit have at most 16 MiB.
	maxLine = stored.MaxCommitBytes + 1<<20
)

// header is the first line of a file. The file begins after the commit at After,
// whose key is Key.
type header struct {
	Kind  string              `json:"ganglion"` // "log"
	Form  int                 `json:"form"`
	Log   string              `json:"log"` // incarnation
	After eventstore.Position `json:"after"`
	Key   string              `json:"key,omitempty"`
}

// end is the last line of a file.
type end struct {
	End     *eventstore.Position `json:"end"`
	Commits int64                `json:"commits"`
}

// row is a line of a commit.
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

// Result describes what a call has moved.
type Result struct {
	// Log is the incarnation of the log that was read or written.
	Log string
	// Commits and Events count what this call moved.
	Commits, Events int64
	// Head is the last position in the file.
	Head eventstore.Position
}

// A FileError tells the operator how a line violates the format.
type FileError struct {
	Line   int64 // from 1
	Reason string
}

func (e *FileError) Error() string {
	return fmt.Sprintf("transfer: line %d: %s", e.Line, e.Reason)
}

const timeForm = "2006-01-02T15:04:05.000000Z"

// appendRow appends the line of a commit.
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
		if b[i] == '\n' || b[i] == '\r' { // never in a string
			b[i] = ' '
		}
	}
	return append(b, "}\n"...), nil
}

// appendText appends a JSON string without the escapes for HTML.
func appendText(b []byte, s string) []byte {
	var text bytes.Buffer
	e := json.NewEncoder(&text)
	e.SetEscapeHTML(false)
	_ = e.Encode(s) // cannot fail
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
		return r, errors.New("the time has more digits than microseconds")
	}
	r.Position, r.Version, r.Key, r.At = l.Pos, l.Version, l.Key, l.At.UTC()
	return r, nil
}

// strict decodes one JSON document. A member that v lacks is an error.
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

// lines reads a file line by line.
type lines struct {
	in     *bufio.Scanner
	line   int64 // number of the last line, from 1
	offset int64 // of the next line
}

func newLines(r io.Reader) *lines {
	l := &lines{in: bufio.NewScanner(r)}
	l.in.Buffer(make([]byte, 0, 64<<10), maxLine)
	l.in.Split(func(data []byte, atEOF bool) (int, []byte, error) {
		if i := bytes.IndexByte(data, '\n'); i >= 0 {
			return i + 1, data[:i], nil
		}
		if atEOF && len(data) > 0 {
			return 0, nil, io.ErrUnexpectedEOF
		}
		return 0, nil, nil
	})
	return l
}

// next returns a line, which is valid until the next call. The error is io.EOF at
// the end of the file, and io.ErrUnexpectedEOF if the file ends within a line.
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
	case errors.Is(err, io.ErrUnexpectedEOF):
		return nil, err
	}
	return nil, fmt.Errorf("transfer: read the file: %w", err)
}

func (l *lines) wrong(format string, args ...any) error {
	return &FileError{max(l.line, 1), fmt.Sprintf(format, args...)}
}

// isEnd reports whether err means that the file has ended, perhaps within a line.
func isEnd(err error) bool { return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) }

// header reads the first line.
func (l *lines) header() (h header, err error) {
	text, err := l.next()
	if isEnd(err) {
		return h, &FileError{1, "this is not an exported log: it has no first line"}
	}
	if err != nil {
		return h, err
	}
	if err := json.Unmarshal(text, &h); err != nil || h.Kind != "log" {
		return h, l.wrong(`this is not an exported log: it does not begin with {"ganglion":"log",…}`)
	}
	if h.Form != form {
		return h, l.wrong("the file has form %d, this program knows %d: use the version that wrote it, or a newer one", h.Form, form)
	}
	if err := stored.CheckLogID(h.Log); err != nil {
		return h, l.wrong("%q is not the id of a log", h.Log)
	}
	return h, nil
}

// parseEnd reports whether a line is the last one.
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
		return "", nil // no commit has an empty key
	}
	return list[0].Key, nil
}
