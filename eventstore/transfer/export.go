package transfer

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/ganglion-es/ganglion/eventstore"
)

// Export configures an export.
type Export struct {
	// After is the position behind which the export begins. A commit is never
	// cut in two: if After lies within one, the file begins with it.
	After eventstore.Position

	// Resume continues a file that ends at this place: what is written goes
	// there. After is then ignored.
	Resume *Place

	// Progress is told how far the export is, and how far it goes.
	Progress func(at, head eventstore.Position)
}

// Place is where a file can be continued.
type Place struct {
	Header Header
	// Offset is the length of what is complete; the rest is to be cut off.
	Offset int64
	// Position and Key are those of the last commit in it; Commits counts
	// them. Without one, Position is that of the header.
	Position eventstore.Position
	Key      string
	Commits  int64
}

// Result says what was moved.
type Result struct {
	// Log is the incarnation of the log that was exported, or that was
	// imported into.
	Log string
	// Commits and Events were moved by this call.
	Commits, Events int64
	// Head is the last position in the file.
	Head eventstore.Position
}

// Resume finds the place where an export that was interrupted, or that is
// older, can be continued. It reads the whole file.
func Resume(file io.Reader) (Place, error) {
	in := newLines(file)
	h, err := in.header()
	if err != nil {
		return Place{}, err
	}
	p := Place{Header: h, Offset: in.offset, Position: h.After, Key: h.Key}
	var last []byte
	for {
		text, err := in.next()
		if errors.Is(err, io.EOF) || errors.Is(err, errCut) {
			break
		}
		if err != nil {
			return Place{}, err
		}
		if _, ok := parseEnd(text); ok {
			break
		}
		last = append(last[:0], text...)
		p.Offset = in.offset
		p.Commits++
	}
	if p.Commits > 0 {
		r, err := parseRow(last)
		if err != nil {
			return Place{}, in.wrong("not a commit: %v", err)
		}
		p.Position, p.Key = r.Position, r.Key
	}
	return p, nil
}

// Run writes the log to a file, up to the head at the time of the call. It may
// run beside appends. When it fails, what it has written can be continued.
func (e Export) Run(ctx context.Context, log eventstore.Mover, file io.Writer) (Result, error) {
	res, err := e.run(ctx, log, file)
	if err != nil {
		return res, fmt.Errorf("transfer: export: %w", err)
	}
	return res, nil
}

func (e Export) run(ctx context.Context, log eventstore.Mover, file io.Writer) (Result, error) {
	res := Result{Log: log.LogID()}
	head, err := log.Head(ctx)
	if err != nil {
		return res, err
	}
	out := bufio.NewWriterSize(file, 1<<20)
	after, commits, err := e.begin(ctx, log, head, out)
	if err != nil {
		return res, err
	}
	var text []byte
	for after < head {
		list, err := log.Records(ctx, after, page)
		if err == nil && len(list) == 0 {
			err = &eventstore.DamagedError{Position: after + 1, Reason: fmt.Sprintf("positions %d to %d are missing", after+1, head)}
		}
		if err != nil {
			return res, errors.Join(err, out.Flush())
		}
		for i := range list {
			if list[i].First() > head {
				break
			}
			if text, err = appendRow(text[:0], &list[i]); err != nil {
				return res, errors.Join(err, out.Flush())
			}
			if _, err := out.Write(text); err != nil {
				return res, err
			}
			after = list[i].Position
			commits++
			res.Commits++
			res.Events += int64(len(list[i].Events))
		}
		if e.Progress != nil {
			e.Progress(after, head)
		}
	}
	res.Head = after
	if err := json.NewEncoder(out).Encode(end{&after, commits}); err != nil {
		return res, err
	}
	return res, out.Flush()
}

// begin writes the first line, or checks that the log is the one whose file
// is continued. It returns the position behind which to read.
func (e Export) begin(ctx context.Context, log eventstore.Mover, head eventstore.Position, out io.Writer) (after eventstore.Position, commits int64, err error) {
	if p := e.Resume; p != nil {
		if p.Header.Log != log.LogID() {
			return 0, 0, fmt.Errorf("the file is of the log %s, this is %s: export to a new file", p.Header.Log, log.LogID())
		}
		key, err := anchor(ctx, log, p.Position)
		if err == nil && key != p.Key {
			err = fmt.Errorf("the log does not hold the file's last commit, at position %d: export to a new file", p.Position)
		}
		return p.Position, p.Commits, err
	}
	if e.After > head {
		return 0, 0, fmt.Errorf("the log ends at position %d: there is nothing after %d", head, e.After)
	}
	h := Header{Kind: "log", Form: form, Log: log.LogID(), After: e.After}
	if e.After > 0 && e.After < head {
		list, err := log.Records(ctx, e.After, 1)
		if err != nil {
			return 0, 0, err
		}
		if len(list) > 0 {
			h.After = list[0].First() - 1
		}
	}
	if h.Key, err = anchor(ctx, log, h.After); err != nil {
		return 0, 0, err
	}
	return h.After, 0, json.NewEncoder(out).Encode(h)
}
