package stream

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/relay"
)

const (
	// queued bounds the messages between Publish and the connection. Publish blocks when
	// they are that many.
	queued = 128
	// batchBytes is the size of a frame of messages after which no more are added.
	batchBytes = 64 << 10
	// closeWithin bounds how long the farewell to the broker takes.
	closeWithin = time.Second
	// stalledAfter is how long the broker confirms nothing before this is shown.
	stalledAfter = 5 * time.Second
	// publishHeader is the size of a frame of messages without them: its length, key,
	// version and publisher, and the number of messages. messageHeader is that of the id
	// and the length of a message.
	publishHeader, messageHeader = 4 + 2 + 2 + 1 + 4, 8 + 4
)

// target implements relay.Target.
type target struct {
	cfg       *Config
	conn      *conn // nil until Open has connected
	confirmed chan eventstore.Position
	queue     chan []byte   // messages with their ids
	done      chan struct{} // closed when the run has ended
	settled   chan struct{} // has an element after the last message was confirmed
	workers   sync.WaitGroup
	opened    bool

	mu       sync.Mutex
	pending  int       // messages that were published and not confirmed
	progress time.Time // when the broker confirmed something, or pending was 0
	err      error
	ended    bool // done is closed
}

func newTarget(cfg *Config) *target {
	return &target{
		cfg: cfg, confirmed: make(chan eventstore.Position, relay.MaxWindow), queue: make(chan []byte, queued),
		done: make(chan struct{}), settled: make(chan struct{}, 1),
	}
}

// Open implements relay.Target. The broker knows the last publishing id, which is a
// position.
func (t *target) Open(ctx context.Context, log string) (last eventstore.Position, known bool, err error) {
	stop, err := t.connect(ctx)
	if err != nil {
		return 0, false, t.explained(ctx, err)
	}
	if last, err = t.declare(log); err != nil {
		stop()
		return 0, false, t.explained(ctx, err)
	}
	if !stop() {
		return 0, false, t.explained(ctx, ctx.Err())
	}
	t.start()
	return last, true, nil
}

// start begins to read and to write, once the connection is open.
func (t *target) start() {
	t.opened, t.progress = true, time.Now()
	t.workers.Go(t.read)
	t.workers.Go(t.write)
}

// connect connects to the node that leads the stream, and makes the stream if there is
// none.
func (t *target) connect(ctx context.Context) (stop func() bool, err error) {
	port := defaultPort
	if t.cfg.secure() {
		port = securePort
	}
	stop, err = t.dial(ctx, net.JoinHostPort(t.cfg.URL.Hostname(), cmp.Or(t.cfg.URL.Port(), port)))
	if err != nil {
		return nil, err
	}
	leader, err := t.conn.leader(t.cfg.Stream)
	if hasCode(err, codeNoStream) {
		if err = t.create(); err == nil {
			leader, err = t.conn.leader(t.cfg.Stream)
		}
	}
	switch {
	case err != nil:
		stop()
		return nil, err
	case leader == t.conn.advertised:
		return stop, nil
	}
	// Another node would pass the messages on, and could leave some out while its
	// connection to the leader breaks.
	stop()
	t.conn.Close()
	if stop, err = t.dial(ctx, leader); err != nil {
		return nil, fmt.Errorf("its node %s, which leads the stream: %w. Each node must be reachable at its stream.advertised_host and stream.advertised_port", leader, err)
	}
	return stop, nil
}

func (t *target) dial(ctx context.Context, address string) (stop func() bool, err error) {
	t.conn, stop, err = t.cfg.dial(ctx, address)
	return stop, err
}

// create makes a stream that keeps all messages.
func (t *target) create() error {
	_, err := t.conn.call(createStream, func(f frame) frame { return f.text(t.cfg.Stream).pairs() })
	switch {
	case hasCode(err, codeStreamExists):
		return nil // another node was faster
	case hasCode(err, codePrecondition):
		return fmt.Errorf("there is a queue of this name, and it is no stream: delete it, or name a stream (%w)", err)
	case hasCode(err, codeRefused):
		return fmt.Errorf("there is no such stream, and the user %q may not make it: make it, for example with "+
			"rabbitmqadmin declare queue name=%s durable=true arguments='{\"x-queue-type\":\"stream\"}'", t.cfg.user(), t.cfg.Stream)
	}
	return err
}

// declare declares the publisher, and returns the last position that the broker has. It
// waits until a majority of the replicas has it: otherwise a new leader could lack events
// that are not published again.
func (t *target) declare(log string) (last eventstore.Position, err error) {
	name := t.cfg.Relay + "-" + log
	_, err = t.conn.call(declarePublisher, func(f frame) frame { return f.u8(publisher).text(name).text(t.cfg.Stream) })
	if hasCode(err, codePrecondition) {
		return 0, fmt.Errorf("it accepts no publisher: it may have a disk alarm (%w)", err)
	}
	if err != nil {
		return 0, err
	}
	in, err := t.conn.call(querySequence, func(f frame) frame { return f.text(name).text(t.cfg.Stream) })
	if err != nil {
		return 0, err
	}
	if last = eventstore.Position(in.u64()); last == 0 || in.short {
		return last, nil
	}
	// A message with an id that the broker has is not written, and is confirmed once the
	// message with the last id is.
	const repeated = 0
	batch := appendMessage(newFrame(publish).u8(publisher).u32(1), repeated, emptyMessage)
	if _, err := t.conn.Write(batch.done()); err != nil {
		return 0, err
	}
	return last, t.conn.confirmed(repeated)
}

// appendMessage appends a message with its id to a frame of messages.
func appendMessage(f frame, id uint64, message []byte) frame {
	return append(f.u64(id).u32(uint32(len(message))), message...)
}

// Publish implements relay.Target.
func (t *target) Publish(ctx context.Context, m relay.Message) error {
	message := encode(make([]byte, messageHeader, messageHeader+512+len(m.Data)), &m)
	if most := t.conn.frameMax - publishHeader; len(message) > most {
		// The messages before it come first, also if the relay stops here.
		if err := t.settle(ctx); err != nil {
			return err
		}
		return &relay.EventError{Position: m.Position, Reason: fmt.Sprintf(
			"its message has %d bytes, and the broker accepts %d: raise its stream.frame_max and resume the relay, or skip the event", len(message), most)}
	}
	binary.BigEndian.PutUint64(message, uint64(m.Position))
	binary.BigEndian.PutUint32(message[8:], uint32(len(message)-messageHeader))
	t.mu.Lock()
	if t.ended {
		defer t.mu.Unlock()
		return t.err
	}
	if t.pending == 0 {
		t.progress = time.Now()
	}
	t.pending++
	t.mu.Unlock()
	select {
	case t.queue <- message:
		return nil
	case <-t.done:
		return t.Err()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// settle waits until every message is confirmed.
func (t *target) settle(ctx context.Context) error {
	for {
		t.mu.Lock()
		pending := t.pending
		t.mu.Unlock()
		if pending == 0 {
			return nil
		}
		select {
		case <-t.settled:
		case <-t.done:
			return t.Err()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// write sends the queued messages, as many in a frame as there are, and heartbeats, until
// the run ends. Then it closes the connection: no other goroutine writes, since the broker
// would take what follows a part of a frame for the rest of it.
func (t *target) write() {
	defer t.conn.Close()
	beats := time.NewTicker(relay.Heartbeat / 2)
	defer beats.Stop()
	for {
		select {
		case <-t.done:
			t.farewell()
			return
		default:
		}
		var err error
		select {
		case <-t.done:
			continue
		case <-beats.C:
			_, err = t.conn.Write(newFrame(heartbeat).done())
		case first := <-t.queue:
			err = t.writeBatch(first)
		}
		if err != nil {
			t.end(err)
			return
		}
	}
}

// farewell tells the broker that the relay closes the connection on purpose.
func (t *target) farewell() {
	if t.Err() == nil {
		_, _ = t.conn.Write(newFrame(closing).u32(0).u16(codeOK).text("OK").done()) // it closes the connection either way
	}
}

func (t *target) writeBatch(first []byte) error {
	f, count := append(newFrame(publish).u8(publisher).u32(0), first...), uint32(1)
	for more := true; more && len(f) < batchBytes; {
		select {
		case next := <-t.queue:
			if len(f)+len(next) > t.conn.frameMax {
				if _, err := t.conn.Write(counted(f, count)); err != nil {
					return err
				}
				f, count = f[:publishHeader], 0
			}
			f, count = append(f, next...), count+1
		default:
			more = false
		}
	}
	_, err := t.conn.Write(counted(f, count))
	return err
}

// counted sets the number of messages of a frame, and its length.
func counted(f frame, messages uint32) []byte {
	binary.BigEndian.PutUint32(f[publishHeader-4:], messages)
	return f.done()
}

// read takes what the broker sends, until the connection has ended.
func (t *target) read() {
	defer close(t.confirmed)
	for {
		// The broker sends a heartbeat at least this often.
		if err := t.conn.SetReadDeadline(time.Now().Add(3 * relay.Heartbeat)); err != nil {
			t.end(err)
			return
		}
		key, in, err := t.conn.read()
		if err == nil {
			err = t.take(key, in)
		}
		if err != nil {
			t.end(err)
			return
		}
	}
}

// take handles a frame. Its error ends the run.
func (t *target) take(key uint16, in *content) (err error) {
	switch key {
	case publishConfirm:
		in.u8()
		in.list(func() { t.confirm(eventstore.Position(in.u64())) })
	case publishError:
		in.u8()
		in.list(func() {
			p, code := in.u64(), in.u16()
			if err == nil {
				err = fmt.Errorf("it refused the event at position %d: %s", p, reason(code))
			}
		})
	case metadataUpdate:
		code := in.u16()
		err = fmt.Errorf("the stream has changed: it was deleted, or has a new leader (%s)", reason(code))
	}
	if in.short {
		err = errShort
	}
	return err
}

// confirm passes a confirmation on.
func (t *target) confirm(p eventstore.Position) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.pending == 0 {
		return // a broker that confirms too much must not block the reader
	}
	t.pending--
	t.progress = time.Now()
	t.confirmed <- p // has room for every unconfirmed message
	if t.pending == 0 {
		select {
		case t.settled <- struct{}{}:
		default:
		}
	}
}

// end records why the run ends, and makes write close the connection.
func (t *target) end(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ended {
		return
	}
	t.ended = true
	if err != nil {
		t.err = t.explained(context.Background(), err)
	}
	close(t.done)
	if t.conn != nil {
		_ = t.conn.SetWriteDeadline(time.Now().Add(closeWithin)) // fails if the connection has ended
	}
}

// Confirmed implements relay.Target.
func (t *target) Confirmed() <-chan eventstore.Position { return t.confirmed }

// Err implements relay.Target.
func (t *target) Err() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.err
}

// Stalled implements relay.Target. The protocol has no message for a broker that takes
// nothing, so silence shows it.
func (t *target) Stalled() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if silent := time.Since(t.progress); t.pending > 0 && silent > stalledAfter && !t.ended {
		return fmt.Sprintf("the broker has confirmed nothing for %v: it may have a disk alarm, or too few replicas", silent.Round(time.Second))
	}
	return ""
}

// Close implements relay.Target.
func (t *target) Close() {
	t.end(nil)
	if t.opened {
		t.workers.Wait()
		return
	}
	if t.conn != nil {
		t.conn.Close()
	}
	close(t.confirmed)
}

// explained says where the broker is.
func (t *target) explained(ctx context.Context, err error) error {
	switch {
	case ctx.Err() != nil:
		err = ctx.Err()
	case hasCode(err, codeAuthentication), hasCode(err, codeLoopback), hasCode(err, codeRefused):
		return fmt.Errorf("%s refused the user %q or what it may do: %w", t.cfg.where(), t.cfg.user(), err)
	case errors.Is(err, os.ErrDeadlineExceeded):
		err = errors.New("it was silent for too long")
	case errors.Is(err, io.EOF):
		err = errors.New("it closed the connection")
	}
	return fmt.Errorf("%s: %w", t.cfg.where(), err)
}
