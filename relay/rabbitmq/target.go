package rabbitmq

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/relay"
)

// closeWithin bounds how long Close waits for the broker's answer.
const closeWithin = time.Second

// target implements relay.Target.
type target struct {
	cfg       *Config
	conn      *amqp.Connection // nil until Open has connected
	channel   *amqp.Channel
	confirmed chan eventstore.Position
	notify    notifications
	reading   chan struct{} // closed when read has returned; nil before it begins
	stalled   atomic.Pointer[string]

	mu      sync.Mutex
	tags    map[uint64]eventstore.Position // published and not confirmed, by delivery tag
	next    uint64                         // delivery tag of the next confirmation
	unfit   uint64                         // delivery tag of the first message that was returned, 0 if none was
	err     error
	closing bool
}

// notifications are what the broker sends. The client library reads nothing while one of
// them has no room, and drops it after 5 s. So each has room for a whole window, and one
// goroutine takes all of them until they are closed.
type notifications struct {
	confirms    chan amqp.Confirmation
	returns     chan amqp.Return // of a message, before its confirmation
	closed      chan *amqp.Error
	channelGone chan *amqp.Error
	blocked     chan amqp.Blocking
}

func newTarget(cfg *Config) *target {
	return &target{cfg: cfg, confirmed: make(chan eventstore.Position, relay.MaxWindow), tags: map[uint64]eventstore.Position{}, next: 1}
}

// Open implements relay.Target. The broker does not know which events it has.
func (t *target) Open(ctx context.Context, _ string) (last eventstore.Position, known bool, err error) {
	if t.conn, err = t.cfg.dial(ctx, "ganglion relay"); err != nil {
		return 0, false, err
	}
	// The library has no context for these calls: the end of ctx closes the connection.
	stop := context.AfterFunc(ctx, func() { _ = t.conn.CloseDeadline(time.Now()) })
	defer stop()
	if err := t.prepare(); err != nil {
		return 0, false, t.cfg.explained(err)
	}
	return 0, false, ctx.Err()
}

// prepare opens the channel, and declares the exchange if there is none.
func (t *target) prepare() error {
	if err := t.ensureExchange(); err != nil {
		return err
	}
	channel, err := t.conn.Channel()
	if err != nil {
		return err
	}
	if err := channel.Confirm(false); err != nil {
		return err
	}
	t.channel = channel
	t.notify = notifications{
		confirms:    channel.NotifyPublish(make(chan amqp.Confirmation, relay.MaxWindow)),
		returns:     channel.NotifyReturn(make(chan amqp.Return, relay.MaxWindow)),
		channelGone: channel.NotifyClose(make(chan *amqp.Error, 1)),
		closed:      t.conn.NotifyClose(make(chan *amqp.Error, 1)),
		blocked:     t.conn.NotifyBlocked(make(chan amqp.Blocking, 16)),
	}
	t.reading = make(chan struct{})
	go t.read()
	return nil
}

// ensureExchange declares a durable topic exchange, unless an exchange of the name exists.
// A failed declaration closes its channel, so each attempt has its own.
func (t *target) ensureExchange() error {
	declare := func(how func(*amqp.Channel) error) error {
		channel, err := t.conn.Channel()
		if err != nil {
			return err
		}
		if err := how(channel); err != nil {
			return err
		}
		return channel.Close()
	}
	err := declare(func(c *amqp.Channel) error {
		return c.ExchangeDeclarePassive(t.cfg.Exchange, amqp.ExchangeTopic, true, false, false, false, nil)
	})
	var refused *amqp.Error
	if errors.As(err, &refused) && refused.Code == amqp.NotFound {
		err = declare(func(c *amqp.Channel) error {
			return c.ExchangeDeclare(t.cfg.Exchange, amqp.ExchangeTopic, true, false, false, false, nil)
		})
	}
	return err
}

// read takes what the broker sends, until the connection has ended.
func (t *target) read() {
	defer close(t.reading)
	defer close(t.confirmed)
	n := t.notify
	for n.confirms != nil || n.returns != nil || n.closed != nil || n.channelGone != nil || n.blocked != nil {
		select {
		case c, open := <-n.confirms:
			if !open {
				n.confirms = nil
				continue
			}
			t.takeReturns(n.returns)
			t.settle(c)
		case r, open := <-n.returns:
			if !open {
				n.returns = nil
				continue
			}
			t.returned(r)
		case err, open := <-n.channelGone:
			n.channelGone = nil
			t.gone(err, open)
		case err, open := <-n.closed:
			n.closed = nil
			t.gone(err, open)
		case b, open := <-n.blocked:
			if !open {
				n.blocked = nil
				continue
			}
			t.block(b)
		}
	}
}

// takeReturns takes the returns that have arrived. That of a message was sent before its
// confirmation.
func (t *target) takeReturns(returns <-chan amqp.Return) {
	for len(returns) > 0 {
		t.returned(<-returns)
	}
}

// settle passes a confirmation on. A message that was refused ends the run, since the
// next run must publish it before any later one.
func (t *target) settle(c amqp.Confirmation) {
	t.mu.Lock()
	p := t.tags[c.DeliveryTag]
	delete(t.tags, c.DeliveryTag)
	lost := c.DeliveryTag != t.next // the library sorts them
	t.next++
	ended, unfit := t.err != nil, t.unfit
	t.mu.Unlock()
	switch {
	case unfit > 0 && c.DeliveryTag < unfit && c.Ack: // before the failure
		t.confirmed <- p
	case unfit == c.DeliveryTag:
		go t.hangUp()
	case ended: // what follows a failure is published again
	case lost:
		t.fail(errors.New("the client library has dropped a confirmation, since this process stood still"))
	case c.Ack:
		t.confirmed <- p // has room for every unconfirmed message
	default:
		t.fail(fmt.Errorf("it refused the event at position %d: a queue is full and has x-overflow reject-publish, or the broker could not store the message", p))
	}
}

// returned handles a message that no queue wants. The run ends, once the messages before
// it are confirmed: their confirmations may follow, and its own follows theirs.
func (t *target) returned(r amqp.Return) {
	position, _ := r.Headers["position"].(int64)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.err != nil {
		return
	}
	t.err = &relay.EventError{
		Position: eventstore.Position(position),
		Reason: fmt.Sprintf("no queue of exchange %q takes the routing key %q (%d %s): bind a queue, or give the exchange an alternate exchange, and resume the relay",
			t.cfg.Exchange, r.RoutingKey, r.ReplyCode, r.ReplyText),
	}
	for tag, p := range t.tags {
		if p == eventstore.Position(position) {
			t.unfit = tag
		}
	}
	time.AfterFunc(closeWithin, t.hangUp)
}

func (t *target) gone(err *amqp.Error, sent bool) {
	if sent && err != nil {
		t.fail(t.cfg.explained(err))
		return
	}
	t.fail(errors.New("the connection was closed"))
}

func (t *target) block(b amqp.Blocking) {
	if !b.Active {
		t.stalled.Store(nil)
		return
	}
	t.stalled.Store(new("the broker takes no messages: " + b.Reason))
}

// fail records why the run ends, and closes the connection.
func (t *target) fail(err error) {
	t.mu.Lock()
	first := t.err == nil && !t.closing
	if first {
		t.err = err
	}
	t.mu.Unlock()
	if first {
		go t.hangUp() // it waits for the broker's answer, which read must take
	}
}

// Publish implements relay.Target.
func (t *target) Publish(ctx context.Context, m relay.Message) error {
	t.mu.Lock()
	if t.err != nil {
		defer t.mu.Unlock()
		return t.err
	}
	t.tags[t.channel.GetNextPublishSeqNo()] = m.Position
	t.mu.Unlock()
	return t.channel.PublishWithContext(ctx, t.cfg.Exchange, m.Key(), true, false, publishing(&m))
}

// publishing returns the form of a message in AMQP 0-9-1. Its integers are signed.
func publishing(m *relay.Message) amqp.Publishing {
	headers := amqp.Table{
		"log": m.Log, "position": int64(m.Position), "prev": int64(m.Prev), "stream": m.Stream.String(), "version": int64(m.Version),
		"form": int32(m.Form), "time": m.Time.Format(time.RFC3339Nano), "cause": m.Cause,
	}
	if m.By != "" {
		headers["by"] = m.By
	}
	if m.Traceparent != "" {
		headers["traceparent"] = m.Traceparent
	}
	return amqp.Publishing{
		Headers: headers, ContentType: "application/json", DeliveryMode: amqp.Persistent, MessageId: m.ID(),
		Timestamp: m.Time, Type: m.Event, AppId: "ganglion", Body: m.Data,
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

// Stalled implements relay.Target.
func (t *target) Stalled() string {
	if why := t.stalled.Load(); why != nil {
		return *why
	}
	return ""
}

// Close implements relay.Target.
func (t *target) Close() {
	t.mu.Lock()
	t.closing = true
	unfit := t.unfit > 0
	t.mu.Unlock()
	if !unfit {
		t.hangUp()
	}
	if t.reading != nil {
		<-t.reading
	} else {
		close(t.confirmed)
	}
}

// hangUp closes the connection in good order, or after a second without an answer.
func (t *target) hangUp() {
	if t.conn != nil {
		_ = t.conn.CloseDeadline(time.Now().Add(closeWithin))
	}
}
