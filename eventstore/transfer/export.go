package transfer

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"

	"github.com/ganglion-es/ganglion/eventstore"
)

// Export configures an export.
type Export struct {
	// After is the position after which a new file begins. If it lies within a
	// commit, the file begins with that whole commit.
	After eventstore.Position

	// Progress is called with the position that the export has reached, and with
	// its last position.
	Progress func(at, head eventstore.Position)
}

// File is a file that can be continued. *os.File is one.
type File interface {
	io.ReadWriteSeeker
	Truncate(size int64) error
}

// Run writes the log to a new file, up to the head at the time of the call. It
// can run during appends. After an error, Resume continues the file.
func (e Export) Run(ctx context.Context, log eventstore.Mover, file io.Writer) (Result, error) {
	return e.run(ctx, log, file, nil)
}

// Resume continues a file: an export that was interrupted, or an older one of the
// same log. It reads the whole file first, and removes its incomplete end. The
// error is a *FileError if the file is not an exported log.
func (e Export) Resume(ctx context.Context, log eventstore.Mover, file File) (Result, error) {
	p, err := findPlace(file)
	if err == nil {
		err = file.Truncate(p.offset)
	}
	if err == nil {
		_, err = file.Seek(p.offset, io.SeekStart)
	}
	if err != nil {
		return Result{}, err
	}
	return e.run(ctx, log, file, &p)
}

// place is where a file can be continued: after its last complete commit, or after
// the header.
type place struct {
	header   header
	offset   int64
	position eventstore.Position
	key      string
	commits  int64
}

func findPlace(file io.Reader) (place, error) {
	in := newLines(file)
	h, err := in.header()
	if err != nil {
		return place{}, err
	}
	p := place{header: h, offset: in.offset, position: h.After, key: h.Key}
	var last []byte
	for {
		text, err := in.next()
		if isEnd(err) {
			break
		}
		if err != nil {
			return place{}, err
		}
		if _, ok := parseEnd(text); ok {
			break
		}
		last = append(last[:0], text...)
		p.offset = in.offset
		p.commits++
	}
	if p.commits > 0 {
		r, err := parseRow(last)
		if err != nil {
			return place{}, in.wrong("not a commit: %v", err)
		}
		p.position, p.key = r.Position, r.Key
	}
	return p, nil
}

// run writes a new file if from is nil.
func (e Export) run(ctx context.Context, log eventstore.Mover, file io.Writer, from *place) (res Result, err error) {
	res.Log = log.LogID()
	out := bufio.NewWriterSize(file, 1<<20)
	head, err := log.Head(ctx)
	if err == nil {
		if from == nil {
			from, err = e.begin(ctx, log, head, out)
		} else {
			err = from.check(ctx, log)
		}
	}
	if err == nil {
		res.Head = from.position
		err = e.commits(ctx, log, head, out, &res)
	}
	if err == nil {
		err = json.NewEncoder(out).Encode(end{&res.Head, from.commits + res.Commits})
	}
	if flush := out.Flush(); err == nil { // also after an error, so that the file can be continued
		err = flush
	}
	if err != nil {
		return res, fmt.Errorf("transfer: export: %w", err)
	}
	return res, nil
}

// begin writes the first line.
func (e Export) begin(ctx context.Context, log eventstore.Mover, head eventstore.Position, out io.Writer) (*place, error) {
	if e.After > head {
		return nil, fmt.Errorf("the log ends at position %d: no commit follows position %d", head, e.After)
	}
	h := header{Kind: "log", Form: form, Log: log.LogID(), After: e.After}
	if e.After > 0 && e.After < head {
		list, err := log.Records(ctx, e.After, 1)
		if err != nil {
			return nil, err
		}
		if len(list) > 0 {
			h.After = list[0].First() - 1
		}
	}
	var err error
	if h.Key, err = anchor(ctx, log, h.After); err != nil {
		return nil, err
	}
	return &place{header: h, position: h.After}, json.NewEncoder(out).Encode(h)
}

// check returns an error if the file is not an export of this log.
func (p *place) check(ctx context.Context, log eventstore.Mover) error {
	if p.header.Log != log.LogID() {
		return fmt.Errorf("the file is an export of the log %s, but this log is %s: export to a new file", p.header.Log, log.LogID())
	}
	key, err := anchor(ctx, log, p.position)
	if err == nil && key != p.key {
		err = fmt.Errorf("the log does not have the last commit of the file, at position %d: export to a new file", p.position)
	}
	return err
}

// commits writes the commits after res.Head up to head.
func (e Export) commits(ctx context.Context, log eventstore.Mover, head eventstore.Position, out io.Writer, res *Result) error {
	var text []byte
	for res.Head < head {
		list, err := log.Records(ctx, res.Head, page)
		if err != nil {
			return err
		}
		if len(list) == 0 {
			return &eventstore.DamagedError{Position: res.Head + 1, Reason: fmt.Sprintf("positions %d to %d are missing", res.Head+1, head)}
		}
		for i := range list {
			if list[i].First() > head {
				break
			}
			if text, err = appendRow(text[:0], &list[i]); err != nil {
				return err
			}
			if _, err := out.Write(text); err != nil {
				return err
			}
			res.Head = list[i].Position
			res.Commits++
			res.Events += int64(len(list[i].Events))
		}
		if e.Progress != nil {
			e.Progress(res.Head, head)
		}
	}
	return nil
}
