package processor

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
)

// BenchmarkFold folds batches of 1,000 events into 1,000 rows: decoding, folding
// and encoding, without the database. An operation is an event.
func BenchmarkFold(b *testing.B) {
	model := balances(b, never)
	commits := make([]eventstore.Commit, 1000)
	for i := range commits {
		data, err := json.Marshal(paid{Amount: int64(i), To: fmt.Sprint("account-", i)})
		if err != nil {
			b.Fatal(err)
		}
		commits[i] = eventstore.Commit{
			Position: eventstore.Position(i + 1), Stream: eventstore.StreamID{Type: "account", ID: "1"}, Version: eventstore.Version(i + 1),
			At: time.Unix(1, 0), Events: []eventstore.Event{{Type: "paid", Data: data}},
		}
	}
	f := &fold{model: rowModel{model}, blocked: map[string]eventstore.Position{}}
	b.ReportAllocs()
	for n := 0; n < b.N; n += len(commits) {
		steps, err := f.plan(commits, 0)
		if err != nil {
			b.Fatal(err)
		}
		present := map[string]*kept{}
		if _, err := f.apply(steps, present); err != nil {
			b.Fatal(err)
		}
		if _, err := f.stored(steps, present); err != nil {
			b.Fatal(err)
		}
	}
}
