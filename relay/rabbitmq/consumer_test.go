package rabbitmq

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	_ "github.com/jackc/pgx/v5/stdlib"
	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/ganglion-es/ganglion/eventstore/postgres/postgrestest"
)

// Consume handles each event once and in order. It returns when the connection ends.
func Consume(db *sql.DB, channel *amqp.Channel, queue string, handle func(*sql.Tx, amqp.Delivery) error) error {
	if err := channel.Qos(100, 0, false); err != nil {
		return err
	}
	deliveries, err := channel.Consume(queue, "", false, false, false, false, nil)
	if err != nil {
		return err
	}
	for d := range deliveries {
		if err := once(db, d, handle); err != nil {
			return err // what is not acknowledged is delivered again
		}
		if err := d.Ack(false); err != nil {
			return err
		}
	}
	return errors.New("the connection was closed")
}

// once handles an event unless it was handled before, in one transaction.
func once(db *sql.DB, d amqp.Delivery, handle func(*sql.Tx, amqp.Delivery) error) error {
	tx, err := db.Begin()
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	position, prev := d.Headers["position"].(int64), d.Headers["prev"].(int64)
	moved, err := tx.Exec(`update consumed set position = $1 where position < $1 and position >= $2`, position, prev)
	if err != nil {
		return err
	}
	if n, err := moved.RowsAffected(); err != nil || n == 0 {
		return err // repeated, or ahead of an event that is published again
	}
	if err := handle(tx, d); err != nil {
		return err
	}
	return tx.Commit()
}

// page returns docs/relays.md.
func page(t *testing.T) string {
	t.Helper()
	raw, err := os.ReadFile("../../docs/relays.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// block returns the block of a page in a language that has some text.
func block(t *testing.T, page, language, has string) string {
	t.Helper()
	for _, part := range strings.Split(page, "```"+language+"\n")[1:] {
		if code, _, _ := strings.Cut(part, "```"); strings.Contains(code, has) {
			return code
		}
	}
	t.Fatalf("the page has no block in %s with %s", language, has)
	return ""
}

// python is the interpreter for which Debian's packages are, if there is one.
func python() string {
	if _, err := os.Stat("/usr/bin/python3"); err == nil {
		return "/usr/bin/python3"
	}
	return "python3"
}

// repeated fills the queue of a relay with 30 events, twice, and with one more.
func repeated(t *testing.T) *world {
	t.Helper()
	w := newWorld(t, shared)
	w.declare(nil, "#")
	w.commit("auction/1", strings.Fields(strings.Repeat("bid ", 30))...)
	w.run(w.relay(shared.Address()))
	w.caughtUp()
	_, err := w.ops.Rewind(t.Context(), "orders", 0)
	w.must(err)
	w.eventually("the relay has begun again", func() bool { return w.state().Lag > 0 })
	w.caughtUp()
	w.commit("auction/1", "bid")
	w.caughtUp()
	return w
}

func TestConsumerOfTheDocsHandlesEachEventOnce(t *testing.T) {
	t.Parallel()
	source, err := os.ReadFile("consumer_test.go")
	if err != nil {
		t.Fatal(err)
	}
	if code := block(t, page(t), "go", "func Consume"); !bytes.Contains(source, []byte(code)) {
		t.Errorf("docs/relays.md has a consumer that this test does not have:\n%s", code)
	}
	w := repeated(t)
	db, err := sql.Open("pgx", postgrestest.URL(t))
	w.must(err)
	defer db.Close()
	_, err = db.ExecContext(t.Context(), `create table consumed (position bigint not null); insert into consumed values (0); create table effects (position bigint)`)
	w.must(err)
	conn, err := amqp.Dial(shared.URL())
	w.must(err)
	defer conn.Close()
	channel, err := conn.Channel()
	w.must(err)
	ended := make(chan error, 1)
	go func() {
		ended <- Consume(db, channel, w.queue, func(tx *sql.Tx, d amqp.Delivery) error {
			_, err := tx.Exec(`insert into effects values ($1)`, d.Headers["position"])
			return err
		})
	}()
	w.eventually("the queue is consumed", func() bool {
		var n int
		w.must(db.QueryRowContext(t.Context(), `select position from consumed`).Scan(&n))
		return n == 31
	})
	w.must(channel.Close())
	if err := <-ended; err == nil || err.Error() != "the connection was closed" {
		t.Errorf("it ends with %v", err)
	}
	var n, distinct int
	w.must(db.QueryRowContext(t.Context(), `select count(*), count(distinct position) from effects`).Scan(&n, &distinct))
	if n != 31 || distinct != 31 {
		t.Errorf("%d effects of %d events, want 31 of 31", n, distinct)
	}
}

func TestPythonConsumerOfTheDocsHandlesEachEventOnce(t *testing.T) {
	t.Parallel()
	if err := exec.CommandContext(t.Context(), python(), "-c", "import pika").Run(); err != nil {
		t.Fatalf("python3 has no module pika: run scripts/install.sh python3-pika: %v", err)
	}
	w := repeated(t)
	dir := t.TempDir()
	program, file := filepath.Join(dir, "consumer.py"), filepath.Join(dir, "consumer.db")
	w.must(os.WriteFile(program, []byte(block(t, page(t), "python", "import pika")), 0o600))
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	cmd := exec.CommandContext(ctx, python(), program, shared.URL()+"/%2F", w.queue, file)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	w.must(cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	defer func() { stop(); <-ended }()
	effects := func(columns string) string {
		show := exec.CommandContext(t.Context(), python(), "-c", "import sqlite3, sys; print(*sqlite3.connect(sys.argv[1]).execute('select "+columns+" from effects').fetchone())", file)
		got, _ := show.Output() // the consumer may not have made the table yet
		return string(got)
	}
	w.eventually("the queue is consumed", func() bool {
		select {
		case err := <-ended:
			ended <- err
			t.Fatalf("the consumer has ended: %v: %s", err, out.String())
		default:
		}
		return effects("max(position)") == "31\n"
	})
	if got := effects("count(*), count(distinct position), max(event)"); got != "31 31 bid\n" {
		t.Errorf("the effects are %q, want 31 of 31 events", got)
	}
}
