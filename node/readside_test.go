package node_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/domain/projection"
	"github.com/ganglion-es/ganglion/domain/query"
	"github.com/ganglion-es/ganglion/engine"
	"github.com/ganglion-es/ganglion/engine/sqlprojection"
	"github.com/ganglion-es/ganglion/node"
	"github.com/ganglion-es/ganglion/test/harness"
)

// levels counts the verdicts of each level.
type levels map[int]int

type levelOf struct {
	Level int `json:"level"`
}

// counted returns verdicts that anyone may pass, counted in memory, with a query
// that reads the count.
func counted() (*aggregate.Catalog, *projection.InMemory[levels]) {
	c := &aggregate.Catalog{}
	aggregate.Define(c, aggregate.Type[verdict]{
		Name:     "verdict",
		Access:   aggregate.Access{Send: aggregate.Anyone, Read: aggregate.Anyone},
		Commands: aggregate.Commands[verdict]{"pass": passAny{}},
		Events:   aggregate.Events[verdict]{"passed": passed{}},
	})
	memory := projection.DefineMemory(c, projection.Memory[levels]{
		Name: "levels",
		New:  func() levels { return levels{} },
		On:   projection.Handlers[levels]{projection.On(func(_ projection.At, e passed, l *levels) { (*l)[int(e.Level)]++ })},
	})
	query.Define(c, query.Func[levelOf, int]{
		Name: "how_many", Access: aggregate.Anyone, From: query.From{memory},
		Answer: func(_ context.Context, _ query.Call, q levelOf, db query.Reader) (n int, err error) {
			if q.Level < 0 {
				return 0, aggregate.Reject("no_level", "a level is not negative")
			}
			err = memory.Read(db, func(l *levels, _ uint64) { n = (*l)[q.Level] })
			return n, err
		},
	})
	return c, memory
}

type passAny struct {
	Level float64 `json:"level"`
}

func (p passAny) Decide(aggregate.Call, verdict) (aggregate.Decision[verdict], error) {
	return aggregate.Emit(passed(p))
}

// post sends a request without a token until the answer is no failure of the
// server, such as one that a busy machine causes, and returns the status and the
// body.
func post(t *testing.T, url, body string) (int, string) {
	t.Helper()
	for began := time.Now(); ; {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", "application/json")
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(answer.Body)
		_ = answer.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		if answer.StatusCode < http.StatusInternalServerError || time.Since(began) > time.Minute {
			return answer.StatusCode, string(text)
		}
	}
}

func TestEveryNodeAnswersFromItsMemoryAfterARestart(t *testing.T) {
	t.Parallel()
	const nodes = 3
	dir := t.TempDir()
	catalog, memory := counted()
	states := make(chan engine.Memories, 2*nodes)
	run := func(ctx context.Context, ready func(string)) error {
		return node.RunDev(ctx, node.Config{
			Catalog: catalog, Listen: "127.0.0.1:0", Store: dir, Ready: ready, Memories: func(m engine.Memories) { states <- m },
		}, nodes)
	}
	urls, stop := harness.Serve(t, nodes, run)
	for i := range 20 {
		if code, text := post(t, urls[i%nodes]+"/v1/commands", fmt.Sprintf(`{"aggregate":"verdict/%d","command":"pass","key":"k%d","data":{"level":%d}}`, i, i, i%2)); code != http.StatusOK {
			t.Fatalf("a verdict: %d %s", code, text)
		}
	}
	asks := func(urls []string, want string) {
		t.Helper()
		for _, url := range urls {
			code, text := post(t, url+"/v1/queries/how_many?at_least=20", `{"level":1}`)
			if code != http.StatusOK || !strings.Contains(text, want) {
				t.Errorf("asking %s: %d %s, want %s", url, code, text, want)
			}
		}
	}
	asks(urls, `"data":10`)
	if code, text := post(t, urls[0]+"/v1/queries/how_many", `{"level":-1}`); !strings.Contains(text, `"reason":"no_level"`) {
		t.Errorf("a rejection of a query: %d %s", code, text)
	}
	stop()
	urls, _ = harness.Serve(t, nodes, run)
	// No at_least: a node that is ready has folded the log.
	for _, url := range urls {
		if code, text := post(t, url+"/v1/queries/how_many", `{"level":1}`); code != http.StatusOK || !strings.Contains(text, `"data":10`) {
			t.Errorf("asking %s after a restart: %d %s", url, code, text)
		}
	}
	close(states)
	n := 0
	for m := range states {
		n++
		if err := memory.Read(m, func(l *levels, position uint64) {
			if (*l)[1] != 10 || position != 20 {
				t.Errorf("node %d has %v at %d", n, *l, position)
			}
		}); err != nil {
			t.Error(err)
		}
	}
	if n != 2*nodes {
		t.Errorf("%d nodes handed over their states, want %d", n, 2*nodes)
	}
}

func TestSQLProjectionOnEmbeddedStoreIsConfigError(t *testing.T) {
	t.Parallel()
	c, _ := counted()
	sqlprojection.Define(c, sqlprojection.SQL{
		Name: "verdicts", Setup: []string{`create table v (level int)`},
		On: sqlprojection.Handlers{sqlprojection.On(func(context.Context, pgx.Tx, projection.At, passed) error { return nil })},
	})
	err := node.Run(t.Context(), node.Config{
		Name: "n1", Store: t.TempDir(), Catalog: c, Domain: true, Gateway: true,
		Listen: "127.0.0.1:0", PeerListen: "127.0.0.1:0", GossipListen: "127.0.0.1:0",
	})
	if wrong := new(node.ConfigError); !errors.As(err, &wrong) || !strings.Contains(err.Error(), `projection "verdicts" writes with SQL, which needs PostgreSQL`) {
		t.Errorf("got %v", err)
	}
}
