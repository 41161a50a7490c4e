package rabbitmq

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/ganglion-es/ganglion/domain"
	"github.com/ganglion-es/ganglion/node"
	"github.com/ganglion-es/ganglion/relay"
	"github.com/ganglion-es/ganglion/test/harness"
)

// lines keeps the log of a node.
type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) has(part string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Contains(l.text.String(), part)
}

// A desk is a queue with commands, a queue of its dead letters and one of answers.
type desk struct {
	*testing.T
	name    string
	store   string
	channel *amqp.Channel
	dead    <-chan amqp.Delivery
	answers <-chan amqp.Delivery
	log     lines
}

func newDesk(t *testing.T) *desk {
	t.Helper()
	d := &desk{T: t, name: "commands-" + t.Name(), store: t.TempDir()}
	conn, err := amqp.Dial(shared.URL())
	d.must(err)
	t.Cleanup(func() { conn.Close() })
	d.channel, err = conn.Channel()
	d.must(err)
	return d
}

func (d *desk) must(err error) {
	d.Helper()
	if err != nil {
		d.Fatal(err)
	}
}

// declare declares the queues.
func (d *desk) declare() {
	d.Helper()
	for _, name := range []string{d.name + "-dead", d.name + "-answers"} {
		_, err := d.channel.QueueDeclare(name, false, false, false, false, nil)
		d.must(err)
	}
	_, err := d.channel.QueueDeclare(d.name, true, false, false, false, amqp.Table{
		"x-single-active-consumer": true, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": d.name + "-dead",
	})
	d.must(err)
	d.dead, err = d.channel.Consume(d.name+"-dead", "", true, false, false, false, nil)
	d.must(err)
	d.answers, err = d.channel.Consume(d.name+"-answers", "", true, false, false, false, nil)
	d.must(err)
}

func (d *desk) intake() relay.Intake {
	d.Helper()
	where, source, err := NewIntake(IntakeConfig{URL: &url.URL{Scheme: "amqp", Host: shared.Address(), Path: "/"}, Queue: d.name})
	d.must(err)
	return relay.Intake{Name: "orders", Where: where, New: source}
}

// serve runs a node with the intake. The end of the test ends it.
func (d *desk) serve() (stop func()) {
	d.Helper()
	_, stop = harness.Serve(d.T, 1, func(ctx context.Context, ready func(string)) error {
		return node.Run(ctx, node.Config{
			Catalog: &domain.Catalog, Name: "n1", Listen: "127.0.0.1:0", PeerListen: "127.0.0.1:0", GossipListen: "127.0.0.1:0",
			Store: d.store, Intakes: []relay.Intake{d.intake()}, Ready: ready, Logger: slog.New(slog.NewTextHandler(&d.log, nil)),
		})
	})
	return stop
}

// send sends a command of the user guest, changed by change.
func (d *desk) send(key string, change func(*amqp.Publishing)) {
	d.Helper()
	p := amqp.Publishing{
		MessageId: key, UserId: "guest", ReplyTo: d.name + "-answers", CorrelationId: "for " + key,
		Headers: amqp.Table{"aggregate": "counter/a", "command": "add"}, Body: []byte(`{"by":1}`),
	}
	if change != nil {
		change(&p)
	}
	d.must(d.channel.PublishWithContext(d.Context(), "", d.name, false, false, p))
}

// next returns the next message of a queue.
func (d *desk) next(from <-chan amqp.Delivery) amqp.Delivery {
	d.Helper()
	select {
	case m := <-from:
		return m
	case <-time.After(2 * time.Minute):
		d.Fatal("no message arrives")
		return amqp.Delivery{}
	}
}

// answer returns what the sender of a key is told, in a few words.
func (d *desk) answer(m amqp.Delivery) string {
	d.Helper()
	var a struct {
		Op, Key, Code, Reason, Field string
		Version                      uint64
		Replayed                     bool
	}
	d.must(json.Unmarshal(m.Body, &a))
	words := []string{m.CorrelationId + ":", a.Op, a.Key, a.Code, a.Reason, a.Field}
	if a.Version > 0 {
		words = append(words, fmt.Sprint(a.Version))
	}
	if a.Replayed {
		words = append(words, "replayed")
	}
	return strings.Join(slices.DeleteFunc(words, func(w string) bool { return w == "" }), " ")
}

func TestMessagesAreExecutedAndAnswered(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	d.declare()
	d.send("k1", nil)
	d.serve()
	d.send("k2", func(p *amqp.Publishing) { p.Headers["expect"] = int32(1) })
	d.send("k1", nil)
	d.send("k3", func(p *amqp.Publishing) { p.Headers["expect"] = "1" })
	d.send("k4", func(p *amqp.Publishing) { p.Body = []byte(`{"by":0}`) })
	for _, want := range []string{
		"for k1: result k1 1", "for k2: result k2 2", "for k1: result k1 1 replayed", "for k3: error k3 conflict 2", "for k4: error k4 rejected zero",
	} {
		m := d.next(d.answers)
		if got := d.answer(m); got != want || m.ContentType != "application/json" {
			t.Errorf("got %s, want %s: %s", got, want, m.Body)
		}
	}
}

// TestAnswersReachDirectReplyTo has a sender that declares no queue for its answers, and
// senders whose queue does not exist or who ask for no answer.
func TestAnswersReachDirectReplyTo(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	d.declare()
	d.serve()
	const direct = "amq.rabbitmq.reply-to"
	replies, err := d.channel.Consume(direct, "", true, false, false, false, nil)
	d.must(err)
	d.send("k1", func(p *amqp.Publishing) { p.ReplyTo = "no such queue" })
	d.send("k2", func(p *amqp.Publishing) { p.ReplyTo = "" })
	d.send("k3", func(p *amqp.Publishing) { p.ReplyTo = direct })
	if got := d.answer(d.next(replies)); got != "for k3: result k3 3" {
		t.Errorf("got %s", got)
	}
}

func TestMessagesThatAreNoCommandsBecomeDeadLetters(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	d.declare()
	d.serve()
	// In the order of the queue, and each is finished before the next is sent.
	for _, c := range []struct {
		key    string
		change func(*amqp.Publishing)
		want   string
	}{
		{"", nil, "for : error bad_request key"},
		{"~k", nil, "for ~k: error ~k bad_request key"},
		{"k1", func(p *amqp.Publishing) { p.Headers = nil }, "for k1: error k1 bad_request aggregate"},
		{"k2", func(p *amqp.Publishing) { p.Headers["aggregate"] = "unicorn/a" }, "for k2: error k2 not_found"},
		{"k3", func(p *amqp.Publishing) { p.Headers["command"] = "multiply" }, "for k3: error k3 not_found"},
		{"k4", func(p *amqp.Publishing) { p.Body = []byte(`nonsense`) }, "for k4: error k4 bad_request data"},
		{"k5", func(p *amqp.Publishing) { p.Body = []byte(`{"by":"one"}`) }, "for k5: error k5 bad_request by"},
		{"k6", func(p *amqp.Publishing) { p.UserId = "" }, "for k6: error k6 unauthenticated"},
	} {
		d.send(c.key, c.change)
		m := d.next(d.dead)
		if got := d.answer(d.next(d.answers)); got != c.want || m.MessageId != c.key {
			t.Errorf("got %s, want %s, and the dead letter %q", got, c.want, m.MessageId)
		}
	}
	d.send("k7", nil)
	if got := d.answer(d.next(d.answers)); got != "for k7: result k7 1" {
		t.Errorf("got %s", got)
	}
	d.send("k7", func(p *amqp.Publishing) { p.Body = []byte(`{"by":2}`) })
	if got := d.answer(d.next(d.answers)); got != "for k7: error k7 key_reused" {
		t.Errorf("got %s", got)
	}
	if m := d.next(d.dead); m.MessageId != "k7" || string(m.Body) != `{"by":2}` {
		t.Errorf("the dead letter is %s", m.Body)
	}
	if !d.log.has("a message of an intake becomes a dead letter") {
		t.Error("the node logs no reason")
	}
}

func TestMissingQueueIsExplainedAndAwaited(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	d.serve()
	want := fmt.Sprintf("queue \\\"%s\\\" of RabbitMQ at %s does not exist: declare a durable queue with x-single-active-consumer true", d.name, shared.Address())
	for began := time.Now(); !d.log.has(want); time.Sleep(5 * time.Millisecond) {
		if time.Since(began) > time.Minute {
			t.Fatal("the log has no reason")
		}
	}
	d.declare()
	d.send("k1", nil)
	if got := d.answer(d.next(d.answers)); got != "for k1: result k1 1" {
		t.Errorf("got %s", got)
	}
	// A queue that is deleted ends the run, and the next one waits for it again.
	_, err := d.channel.QueueDelete(d.name, false, false, false)
	d.must(err)
	d.declareAgain()
	d.send("k2", nil)
	if got := d.answer(d.next(d.answers)); got != "for k2: result k2 2" {
		t.Errorf("got %s", got)
	}
}

func (d *desk) declareAgain() {
	d.Helper()
	_, err := d.channel.QueueDeclare(d.name, true, false, false, false, nil)
	d.must(err)
}

// TestStoppedNodeLeavesTheQueueInOrder stops a node while many commands are in the queue.
// The next node continues, and each command is executed once, in order.
func TestStoppedNodeLeavesTheQueueInOrder(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	d.declare()
	const commands = 300
	for i := range commands {
		d.send(fmt.Sprint("k", i+1), nil)
	}
	stop := d.serve()
	next := 1
	for next <= commands {
		got := d.answer(d.next(d.answers))
		want := fmt.Sprintf("for k%d: result k%d %d", next, next, next)
		switch {
		case got == want, got == want+" replayed": // the node stopped between the commit and the answer
			if next++; next == 10 {
				stop()
				d.serve()
			}
		case next == 1 || got != fmt.Sprintf("for k%d: result k%d %d replayed", next-1, next-1, next-1):
			t.Fatalf("got %s, want %s", got, want)
		}
	}
}

// TestCancelledConnectionToSilentBrokerEnds has a broker that accepts connections and says
// nothing.
func TestCancelledConnectionToSilentBrokerEnds(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		if c, err := l.Accept(); err == nil {
			defer c.Close()
			cancel()
			<-t.Context().Done()
		}
	}()
	_, source, err := NewIntake(IntakeConfig{URL: &url.URL{Scheme: "amqp", Host: l.Addr().String()}, Queue: "q"})
	if err != nil {
		t.Fatal(err)
	}
	s := source()
	defer s.Close()
	if err := s.Open(ctx, 1); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// Send sends a command and returns its answer. After an error, send it again with the
// same key.
func Send(ctx context.Context, channel *amqp.Channel, user, key, aggregate, command string, data []byte) ([]byte, error) {
	const direct = "amq.rabbitmq.reply-to"
	consumer := "answer-" + key
	answers, err := channel.Consume(direct, consumer, true, false, false, false, nil)
	if err != nil {
		return nil, err
	}
	defer channel.Cancel(consumer, false)
	err = channel.PublishWithContext(ctx, "", "commands", false, false, amqp.Publishing{
		MessageId: key, CorrelationId: key, ReplyTo: direct, UserId: user, DeliveryMode: amqp.Persistent,
		Headers: amqp.Table{"aggregate": aggregate, "command": command}, Body: data,
	})
	if err != nil {
		return nil, err
	}
	select {
	case answer, open := <-answers:
		if !open {
			return nil, errors.New("the connection was closed")
		}
		return answer.Body, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// TestSendersOfTheDocsAreAnswered runs the two programs of docs/intake.md.
func TestSendersOfTheDocsAreAnswered(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile("../../docs/intake.md")
	if err != nil {
		t.Fatal(err)
	}
	source, err := os.ReadFile("intake_test.go")
	if err != nil {
		t.Fatal(err)
	}
	if code := block(t, string(raw), "go", "func Send"); !bytes.Contains(source, []byte(code)) {
		t.Errorf("docs/intake.md has a sender that this test does not have:\n%s", code)
	}
	d := newDesk(t)
	d.name = "commands" // that of the page
	d.declare()
	d.serve()
	for _, key := range []string{"k1", "k2"} {
		answer, err := Send(t.Context(), d.channel, "guest", key, "counter/a", "add", []byte(`{"by":1}`))
		if err != nil || !bytes.Contains(answer, []byte(`"op":"result","key":"`+key+`"`)) {
			t.Errorf("got %s, %v", answer, err)
		}
	}
	program := filepath.Join(t.TempDir(), "sender.py")
	d.must(os.WriteFile(program, []byte(block(t, string(raw), "python", "import pika")), 0o600))
	out, err := exec.CommandContext(t.Context(), python(), program, shared.URL()+"/%2F", "guest", "k3", "counter/a", "add", `{"by":1}`).CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte(`"op":"result","key":"k3","version":3`)) {
		t.Errorf("got %s, %v", out, err)
	}
}

func TestWrongIntakesAreExplained(t *testing.T) {
	t.Parallel()
	at, err := url.Parse("amqp://bob:secret@host/")
	if err != nil {
		t.Fatal(err)
	}
	for want, c := range map[string]IntakeConfig{
		"queue is missing":                        {URL: at},
		"the queue's name has 256 bytes":          {URL: at, Queue: strings.Repeat("q", 256)},
		"the URL of RabbitMQ is amqp://USER@HOST": {Queue: "q"},
		"use one place":                           {URL: at, Password: "other", Queue: "q"},
	} {
		if _, _, err := NewIntake(c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	where, _, err := NewIntake(IntakeConfig{URL: at, Queue: "q"})
	if err != nil || where != `queue "q" of RabbitMQ at host` {
		t.Errorf("got %s, %v", where, err)
	}
}
