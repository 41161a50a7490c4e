package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
)

// streamsEach is the number of streams that each caller writes to in turn.
const streamsEach = 100

// data is the data of an event of about 200 bytes, like those of counters, orders and bids.
var data = []byte(`{"item":"` + string(bytes.Repeat([]byte("0"), 160)) + `","amount":1250}`)

var meta = []byte(`{"client":"ada"}`)

// runs numbers the measurements, so that each has its own streams.
var runs atomic.Int64

// command is one command of the workload.
type command struct {
	stream   string
	expected int
	key      string
	at       time.Time
}

// nth returns the nth command of a caller in a run.
func nth(run int64, caller, n, events int) command {
	return command{
		stream:   fmt.Sprintf("run-%d-%d-%d", run, caller, n%streamsEach),
		expected: n / streamsEach * events,
		key:      uuid7(),
		at:       time.Now(),
	}
}

func (c command) unit(events int) eventstore.Unit {
	list := make([]eventstore.Event, events)
	for i := range list {
		list[i] = eventstore.Event{Type: "added", Data: data}
	}
	u := eventstore.Unit{
		Stream:   eventstore.StreamID{Type: "counter", ID: c.stream},
		Expected: eventstore.Version(c.expected),
		Commands: []eventstore.Command{{Key: c.key, At: c.at, Meta: eventstore.Meta{Client: "ada"}, Events: list}},
	}
	copy(u.Commands[0].Hash[:], c.key)
	return u
}

// uuid7 returns a key like those of the client libraries: the current time in
// milliseconds, and 74 random bits.
func uuid7() string {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:], uint64(time.Now().UnixMilli())<<16|rand.Uint64()&0x0fff|0x7000)
	binary.BigEndian.PutUint64(b[8:], rand.Uint64()&^(3<<62)|1<<63)
	return hyphens(b)
}

// uuid4 returns a key that has no order.
func uuid4() string {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:], rand.Uint64()&^0xf000|0x4000)
	binary.BigEndian.PutUint64(b[8:], rand.Uint64()&^(3<<62)|1<<63)
	return hyphens(b)
}

func hyphens(b [16]byte) string {
	var t [36]byte
	hex.Encode(t[:], b[:4])
	hex.Encode(t[9:], b[4:6])
	hex.Encode(t[14:], b[6:8])
	hex.Encode(t[19:], b[8:10])
	hex.Encode(t[24:], b[10:])
	t[8], t[13], t[18], t[23] = '-', '-', '-', '-'
	return string(t[:])
}

// columns of the table commit, in the order of rows.
const columns = `pos, version, at, n, hash, agg_type, agg_id, key, meta, events`

// rows formats rows for COPY while they are read. Each has one event, and their
// order is that of concurrent callers.
type rows struct {
	run     int64
	callers int
	left    int   // rows to format
	pos     int64 // position of the last row
	done    int   // rows of this run so far
	buf     []byte
	start   int
}

func (r *rows) Read(p []byte) (int, error) {
	if r.start == len(r.buf) {
		r.buf, r.start = r.buf[:0], 0
		for r.left > 0 && len(r.buf) < 64<<10 {
			r.next()
		}
	}
	n := copy(p, r.buf[r.start:])
	r.start += n
	if n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

func (r *rows) next() {
	// 7919 is prime, so the callers appear in another order than that of their
	// numbers.
	c := nth(r.run, r.done*7919%r.callers, r.done/r.callers, 1)
	r.pos++
	r.done++
	r.left--
	b := strconv.AppendInt(r.buf, r.pos, 10)
	b = append(b, '\t')
	b = strconv.AppendInt(b, int64(c.expected+1), 10)
	b = append(b, '\t')
	b = c.at.UTC().AppendFormat(b, "2006-01-02 15:04:05.999999Z07:00")
	b = append(b, "\t1\t\\\\x"...)
	b = hex.AppendEncode(b, []byte(c.key[:16]))
	b = append(b, "\tcounter\t"...)
	b = append(b, c.stream...)
	b = append(b, '\t')
	b = append(b, c.key...)
	b = append(b, '\t')
	b = append(b, meta...)
	b = append(b, '\t')
	b = appendEvents(b, 1)
	r.buf = append(b, '\n')
}

func appendEvents(b []byte, events int) []byte {
	b = append(b, '[')
	for i := range events {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, `{"t":"added","d":`...)
		b = append(b, data...)
		b = append(b, '}')
	}
	return append(b, ']')
}

// closedLoop runs concurrent callers for d. Each waits for a reply before it
// sends its next command. do returns the number of events that it stored.
func closedLoop(ctx context.Context, callers int, d time.Duration, do func(ctx context.Context, caller, n int) (int, error)) (sample, error) {
	type worker struct {
		events  int
		took    []time.Duration
		failure error
	}
	var (
		workers = make([]worker, callers)
		working sync.WaitGroup
		start   = time.Now()
		end     = start.Add(d)
	)
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	for c := range workers {
		working.Go(func() {
			w := &workers[c]
			for n := 0; ctx.Err() == nil; n++ {
				begun := time.Now()
				if begun.After(end) {
					return
				}
				events, err := do(ctx, c, n)
				if err != nil {
					w.failure = err
					stop()
					return
				}
				w.events += events
				w.took = append(w.took, time.Since(begun))
			}
		})
	}
	working.Wait()
	s := sample{elapsed: time.Since(start)}
	for _, w := range workers {
		if w.failure != nil {
			return s, w.failure
		}
		s.events += w.events
		s.commands += len(w.took)
		s.took = append(s.took, w.took...)
	}
	return s, ctx.Err()
}
