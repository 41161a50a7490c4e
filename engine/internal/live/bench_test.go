package live

import (
	"encoding/json"
	"fmt"
	"runtime"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/ganglion-es/ganglion/domain/query"
	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/rows"
)

// fill writes the first n rows, whose prices are spread from 0 to n-1.
func (w *world) fill(n int) {
	w.t.Helper()
	batches := make([]rows.Batch, segments)
	for i := range n {
		key, segment := w.key(i)
		w.head++
		r := w.priced(key, segment, w.head, int64(i))
		batches[segment].Rows = append(batches[segment].Rows, r)
		w.apply(r)
	}
	for segment := range batches {
		w.positions[segment] = w.head
	}
	w.remember(w.now().Build().ID)
	for segment, b := range batches {
		b.Segment, b.To, b.Key = segment, w.head, "c"
		if err := w.now().Write(w.t.Context(), b); err != nil {
			w.t.Fatal(err)
		}
	}
}

func (w *world) priced(key string, segment int, p eventstore.Position, price int64) rows.Row {
	r := thingRow{Owner: "ada", Price: price, Open: true, Note: "a note of some length, as rows have"}
	data, err := json.Marshal(r)
	if err != nil {
		w.t.Fatal(err)
	}
	values, err := w.model.Values(&r)
	if err != nil {
		w.t.Fatal(err)
	}
	return rows.Row{Key: key, Segment: segment, Position: p, Data: data, Values: values}
}

// follow subscribes to a question for each of n budgets.
func (w *world) follow(r *Registry, n int, wake func()) (followers []*Follower) {
	w.t.Helper()
	var all errgroup.Group
	all.SetLimit(64)
	followers = make([]*Follower, n)
	for i := range n {
		data := fmt.Appendf(nil, `{"most":%d}`, 1000+i)
		asked, err := w.query[100].Question(query.Call{}, data)
		if err != nil {
			w.t.Fatal(err)
		}
		all.Go(func() error {
			f, failure := r.Follow(w.t.Context(), Request{Query: w.query[100], Asked: asked, Wake: wake})
			if failure != nil {
				return failure
			}
			for more := true; more; {
				_, more = f.Next(1 << 20)
			}
			followers[i] = f
			return nil
		})
	}
	if err := all.Wait(); err != nil {
		w.t.Fatal(err)
	}
	return followers
}

func processorTime() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkChangedRow measures the processor time for a changed row among 20,000,
// with one question and with 10,000 that differ in their budget, each with the
// cheapest 100 rows within it. A row in 50 is among these.
func BenchmarkChangedRow(b *testing.B) {
	for _, questions := range []int{1, 10_000} {
		w := newWorld(b, sqliteRows(b), 1, 100)
		w.fill(20_000)
		r := w.registry()
		before := heap()
		followers := w.follow(r, questions, func() {})
		perQuestion := float64(heap()-before) / float64(questions)
		s := r.source("things")
		b.Run(fmt.Sprint(questions), func(b *testing.B) {
			began := processorTime()
			for n := range b.N {
				i := 150 + w.random.IntN(19_000)
				if n%50 == 0 {
					i = w.random.IntN(100)
				}
				w.set(b, i)
				if err := s.await(b.Context(), func() bool { return s.at.Load().reaches(w.positions) }); err != nil {
					b.Fatal(err)
				}
				for _, f := range followers {
					if !f.idle.Load() {
						f.Next(1 << 20)
					}
				}
			}
			b.ReportMetric(float64(processorTime()-began)/float64(b.N)/1000, "µs-cpu/row")
			b.ReportMetric(perQuestion, "B/question")
			b.ReportMetric(float64(r.Stats().Entries), "entries")
		})
		for _, f := range followers {
			f.Close()
		}
	}
}

// set writes one of the rows of fill again.
func (w *world) set(b *testing.B, i int) {
	b.Helper()
	key, segment := w.key(i)
	w.head++
	batch := rows.Batch{Segment: segment, From: w.positions[segment], To: w.head, Key: "c", Rows: []rows.Row{w.priced(key, segment, w.head, int64(i))}}
	w.positions[segment] = w.head
	if err := w.now().Write(b.Context(), batch); err != nil {
		b.Fatal(err)
	}
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
