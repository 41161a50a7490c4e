package nats

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/relay"
)

// Headers of a message that the relay itself reads again.
const headerPosition, headerLog = "Ganglion-Position", "Ganglion-Log"

// target implements relay.Target.
type target struct {
	cfg       *Config
	conn      *nats.Conn // nil until Open has connected
	stream    jetstream.JetStream
	confirmed chan eventstore.Position
	sequence  uint64 // of the last message that was published; for the caller of Publish

	mu    sync.Mutex
	err   error
	ended bool // confirmed is closed
}

func newTarget(cfg *Config) *target {
	return &target{cfg: cfg, confirmed: make(chan eventstore.Position, relay.MaxWindow)}
}

// Open implements relay.Target. The last message of the stream says which events it has.
func (t *target) Open(ctx context.Context, log string) (last eventstore.Position, known bool, err error) {
	if err := t.dial(ctx); err != nil {
		return 0, false, t.explained(err)
	}
	if last, known, err = t.find(ctx, log); err != nil {
		return 0, false, t.explained(err)
	}
	return last, known, nil
}

func (t *target) dial(ctx context.Context) (err error) {
	u := *t.cfg.URL
	u.User = nil
	options := []nats.Option{
		nats.Name("ganglion relay"), nats.NoReconnect(), nats.PingInterval(relay.Heartbeat), nats.MaxPingsOutstanding(2),
		nats.ClosedHandler(func(c *nats.Conn) { t.gone(c.LastError()) }),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { t.fail(err) }),
	}
	if deadline, ok := ctx.Deadline(); ok {
		options = append(options, nats.Timeout(time.Until(deadline)))
	}
	if user := t.cfg.URL.User.Username(); user != "" {
		options = append(options, nats.UserInfo(user, t.cfg.Password))
	}
	if t.cfg.CredentialsFile != "" {
		options = append(options, nats.UserCredentials(t.cfg.CredentialsFile))
	}
	if u.Scheme == "tls" {
		secure, err := t.cfg.TLS.Read()
		if err != nil {
			return err
		}
		options = append(options, nats.Secure(secure))
	}
	if t.conn, err = nats.Connect(u.String(), options...); err != nil {
		return err
	}
	t.stream, err = jetstream.New(t.conn,
		jetstream.WithPublishAsyncMaxPending(relay.MaxWindow),
		jetstream.WithPublishAsyncAckHandler(t.acknowledged),
		jetstream.WithPublishAsyncErrHandler(t.refused))
	return err
}

// find makes the stream if it is missing, and finds its last event.
func (t *target) find(ctx context.Context, log string) (last eventstore.Position, known bool, err error) {
	stream, err := t.stream.Stream(ctx, t.cfg.Stream)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		stream, err = t.stream.CreateStream(ctx, jetstream.StreamConfig{Name: t.cfg.Stream, Subjects: []string{t.cfg.Subject + ".>"}, Storage: jetstream.FileStorage})
	}
	if err != nil {
		return 0, false, err
	}
	info, err := stream.Info(ctx)
	if err != nil {
		return 0, false, err
	}
	t.sequence = info.State.LastSeq
	if t.sequence == 0 {
		return 0, true, nil
	}
	m, err := stream.GetMsg(ctx, t.sequence)
	if errors.Is(err, jetstream.ErrMsgNotFound) || err == nil && m.Header.Get(headerLog) != log {
		return 0, false, nil // purged, or of another incarnation: the checkpoint decides
	}
	if err != nil {
		return 0, false, err
	}
	position, err := strconv.ParseUint(m.Header.Get(headerPosition), 10, 64)
	return eventstore.Position(position), true, err
}

// Publish implements relay.Target.
func (t *target) Publish(_ context.Context, m relay.Message) error {
	t.mu.Lock()
	err := t.err
	t.mu.Unlock()
	if err != nil {
		return err
	}
	_, err = t.stream.PublishMsgAsync(t.message(&m), jetstream.WithExpectLastSequence(t.sequence))
	switch {
	case errors.Is(err, nats.ErrMaxPayload):
		return &relay.EventError{
			Position: m.Position,
			Reason:   fmt.Sprintf("it has %d bytes, and the server accepts %d: raise its max_payload and resume the relay, or skip the event", len(m.Data), t.conn.MaxPayload()),
		}
	case err != nil:
		return t.explained(err)
	}
	t.sequence++
	return nil
}

func (t *target) message(m *relay.Message) *nats.Msg {
	h := nats.Header{}
	for _, one := range [][2]string{
		{headerLog, m.Log},
		{headerPosition, position(m.Position)},
		{"Ganglion-Prev", position(m.Prev)},
		{"Ganglion-Stream", m.Stream.String()},
		{"Ganglion-Version", strconv.FormatUint(uint64(m.Version), 10)},
		{"Ganglion-Event", m.Event},
		{"Ganglion-Form", strconv.Itoa(m.Form)},
		{"Ganglion-Time", m.Time.Format(time.RFC3339Nano)},
		{"Ganglion-Cause", m.Cause},
		{"Ganglion-By", m.By},
		{"traceparent", m.Traceparent},
	} {
		if one[1] != "" {
			h.Set(one[0], one[1])
		}
	}
	return &nats.Msg{Subject: t.cfg.Subject + "." + m.Key(), Header: h, Data: m.Data}
}

func position(p eventstore.Position) string { return strconv.FormatUint(uint64(p), 10) }

// positionOf returns the position of a message that was published.
func positionOf(m *nats.Msg) eventstore.Position {
	p, _ := strconv.ParseUint(m.Header.Get(headerPosition), 10, 64)
	return eventstore.Position(p)
}

func (t *target) acknowledged(_ jetstream.JetStream, m *nats.Msg, _ *jetstream.PubAck) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.ended {
		t.confirmed <- positionOf(m) // has room for every unconfirmed message
	}
}

// refused ends the run: the stream refuses all later messages too, since they expect
// this one.
func (t *target) refused(_ jetstream.JetStream, m *nats.Msg, err error) {
	const wrongLastSequence = 10071
	var api *jetstream.APIError
	if errors.As(err, &api) && api.ErrorCode == wrongLastSequence {
		err = errors.New("another writer has published to the stream: the relay continues after it. If no other node runs the relay, a foreign program does")
	} else {
		err = fmt.Errorf("it refused the event at position %d: %w", positionOf(m), err)
	}
	t.fail(err)
}

// fail records why the run ends, and closes the connection.
func (t *target) fail(err error) {
	t.mu.Lock()
	first := t.err == nil && !t.ended
	if first {
		t.err = t.explained(err)
	}
	t.mu.Unlock()
	if first {
		go t.conn.Close() // it waits for callbacks such as this one
	}
}

// gone is called once, when the connection has ended.
func (t *target) gone(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ended {
		return
	}
	if t.err == nil && err != nil {
		t.err = t.explained(err)
	}
	t.ended = true
	close(t.confirmed)
}

// Confirmed implements relay.Target.
func (t *target) Confirmed() <-chan eventstore.Position { return t.confirmed }

// Err implements relay.Target.
func (t *target) Err() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.err
}

// Stalled implements relay.Target.
func (t *target) Stalled() string { return "" }

// Close implements relay.Target.
func (t *target) Close() {
	if t.conn != nil {
		t.conn.Close()
	}
	t.gone(nil) // the connection calls it too, perhaps later
}

// explained says where the broker is.
func (t *target) explained(err error) error {
	switch {
	case errors.Is(err, nats.ErrAuthorization):
		return fmt.Errorf("%s refused the user %q", t.cfg.where(), t.cfg.URL.User.Username())
	case errors.Is(err, nats.ErrNoResponders), errors.Is(err, jetstream.ErrJetStreamNotEnabled):
		return fmt.Errorf("%s: no server answers for JetStream: enable it in the server's configuration, or wait until its cluster has a leader", t.cfg.where())
	}
	if t.cfg.URL.Scheme == "tls" {
		err = relay.ExplainTLS(err)
	}
	return fmt.Errorf("%s: %w", t.cfg.where(), err)
}
