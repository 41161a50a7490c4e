package rowsql

import (
	"encoding/json"
	"fmt"
	"math"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/rows"
)

// EncodeOrigin returns the stored form of an origin. Equal origins have equal forms.
func EncodeOrigin(o rows.Origin) string {
	if len(o) == 0 {
		return "[]"
	}
	text, _ := json.Marshal(o) // lists of numbers
	return string(text)
}

// DecodeOrigin is the inverse of EncodeOrigin.
func DecodeOrigin(text string) (o rows.Origin, err error) {
	if text == "[]" {
		return nil, nil
	}
	if err = json.Unmarshal([]byte(text), &o); err != nil {
		return nil, fmt.Errorf("the stored beginning of a build, %q, cannot be read: %w", text, err)
	}
	return o, nil
}

// FirstOrigin is that of the first build of a process manager.
func FirstOrigin(spec rows.Spec, head eventstore.Position) rows.Origin {
	if spec.FromTheBeginning {
		head = 0
	}
	return rows.Origin{{head}}
}

// A HandoverPart is a build as a handover has found and locked it.
type HandoverPart struct {
	Build       rows.Build
	Checkpoints []rows.Checkpoint
	Blocks      []rows.Block
}

// Handover returns the origin of a build that takes over from another one, and the
// rows that it gets blocked. The error is [rows.ErrNoHandover].
func Handover(from, to HandoverPart) (origin rows.Origin, blocks []rows.Block, err error) {
	if from.Build.Projection != to.Build.Projection || from.Build.ID == to.Build.ID || len(from.Checkpoints) == 0 || len(to.Checkpoints) == 0 {
		return nil, nil, rows.ErrNoHandover
	}
	term := from.Checkpoints[0].Term
	reached := make([]eventstore.Position, len(from.Checkpoints))
	low := rows.Endless
	for i, c := range from.Checkpoints {
		if !c.Term.Current() {
			return nil, nil, rows.ErrNoHandover
		}
		reached[i], low = c.Position, min(low, c.Position)
	}
	for _, c := range to.Checkpoints {
		if c.Position > low {
			return nil, nil, rows.ErrNoHandover
		}
	}
	for _, of := range term.From {
		if latest(of) > low { // the former build has not passed it yet
			origin = append(origin, of)
		}
	}
	return append(origin, reached), handedOver(from, to), nil
}

func latest(of []eventstore.Position) (p eventstore.Position) {
	for _, q := range of {
		p = max(p, q)
	}
	return p
}

// handedOver returns what waits in one build as it is to wait in another.
func handedOver(from, to HandoverPart) (blocks []rows.Block) {
	own := map[string]eventstore.Position{}
	for _, b := range to.Blocks {
		own[place(b.Key, b.Segment)] = b.Position
	}
	term := from.Checkpoints[0].Term
	for _, b := range from.Blocks {
		after := max(b.Position-1, term.From.After(b.Key))
		if b.HandedOver {
			after = max(b.Position-1, b.After)
		}
		for _, segment := range segmentsOf(b.Key, to.Build.Segments) {
			moved := b
			moved.Segment, moved.HandedOver, moved.After = segment, true, after
			if p, ok := own[place(b.Key, segment)]; ok {
				moved.Position = min(moved.Position, p)
			}
			blocks = append(blocks, moved)
		}
	}
	return blocks
}

func place(key string, segment int) string { return fmt.Sprint(segment, " ", key) }

// segmentsOf returns where a key is blocked: a stream whose events name no row, "~"
// and its id, in all segments.
func segmentsOf(key string, segments int) (list []int) {
	if key[0] != '~' {
		return []int{rows.SegmentOf(key, segments)}
	}
	for i := range segments {
		list = append(list, i)
	}
	return list
}

// AddDue adds a row to what is due, of which at most limit are reported.
func AddDue(d *rows.Due, w rows.Wake, limit int) {
	if len(d.Wakes) < limit && !w.Due.After(d.Now) {
		d.Wakes = append(d.Wakes, w)
	} else if d.Next.IsZero() {
		d.Next = w.Due
	}
}

// Micros returns a time as rows have it, and the lowest value for the zero time.
func Micros(t time.Time) int64 {
	if t.IsZero() {
		return math.MinInt64
	}
	return t.UnixMicro()
}

// Ahead returns the query of rows.Outboxes.Ahead, given the parameters for the process
// manager, the build and the limit, and the dialect's aggregate of conditions. A row has
// a target, and whether its commands wait. Targets with commands that do not wait come
// first, so that the limit does not hide them. What precedes a held command of its
// segment and target was sent.
func Ahead(process, build, limit, and string) string {
	return `select target, waits from (
			select o.target, ` + and + `(h.pos is not null) as waits
			from process_command o left join (
				select build, segment, target, min(pos) as pos from process_command where name = ` + process + ` and held group by build, segment, target
			) h on h.build = o.build and h.segment = o.segment and h.target = o.target and h.pos <= o.pos
			where o.name = ` + process + ` and o.build <> ` + build + ` group by o.target
			order by waits, o.target limit ` + limit + `
		) t order by target`
}
