package node

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/eventstore"
)

type (
	bill struct{ Cents int }
	pay  struct {
		Cents int `json:"cents"`
	}
	paid pay
)

func (c pay) Decide(aggregate.Call, bill) (aggregate.Decision[bill], error) {
	return aggregate.Emit[bill](paid(c))
}

func (e paid) Apply(b *bill) { b.Cents += e.Cents }

func TestStartLogsStoredFormsItWouldMisread(t *testing.T) {
	t.Parallel()
	var catalog aggregate.Catalog
	aggregate.Define(&catalog, aggregate.Type[bill]{
		Name: "bill", Access: aggregate.Access{Send: aggregate.Anyone, Read: aggregate.Anyone},
		Commands: aggregate.Commands[bill]{"pay": pay{}}, Events: aggregate.Events[bill]{"paid": paid{}},
	})
	if err := catalog.Err(); err != nil {
		t.Fatal(err)
	}
	store, err := OpenStore(t.Context(), StoreConfig{URL: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	check := func() string {
		t.Helper()
		var out bytes.Buffer
		if err := checkForms(t.Context(), store, &catalog, slog.New(slog.NewTextHandler(&out, nil))); err != nil {
			t.Fatal(err)
		}
		return out.String()
	}
	add := func(id string, n int, data string) {
		t.Helper()
		u := eventstore.Unit{Stream: eventstore.StreamID{Type: "bill", ID: id}}
		for i := range n {
			u.Commands = append(u.Commands, eventstore.Command{
				Key: fmt.Sprint(i), At: time.Now(), Events: []eventstore.Event{{Type: "paid", Form: 1, Data: json.RawMessage(data)}},
			})
		}
		if _, err := store.Append(t.Context(), u); err != nil {
			t.Fatal(err)
		}
	}
	if text := check(); text != "" {
		t.Errorf("an empty log is reported:\n%s", text)
	}
	add("good", 300, `{"cents":4}`)
	add("old", 5, `{"price":4}`)
	add("newer", 5, `{"cents":4,"tip":1}`)
	add("good-again", 300, `{"cents":4}`)
	text := check()
	if strings.Count(text, "level=ERROR") != 1 || strings.Count(text, "level=WARN") != 1 {
		t.Errorf("want each form once:\n%s", text)
	}
	for _, say := range []string{"type=bill", "event=paid", "form=1", "unknown=[price]", "missing=[cents]", "stream=bill/old", "position=301", "aggregate.Reads", "unknown=[tip]"} {
		if !strings.Contains(text, say) {
			t.Errorf("the log lacks %q:\n%s", say, text)
		}
	}
}
