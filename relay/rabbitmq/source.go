package rabbitmq

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/ganglion-es/ganglion/relay"
)

// clientPrefix begins the ids of clients that are users of the broker.
const clientPrefix = "amqp"

// source implements relay.Source. It consumes over one connection and publishes answers
// over another, since a broker that is short of memory or disk stops to read from
// connections that publish.
type source struct {
	cfg      *Config
	queue    string
	in, out  *amqp.Connection // nil until Open has connected
	answers  *amqp.Channel
	requests chan *relay.Request

	reading    sync.WaitGroup // of the notifications
	delivering sync.WaitGroup

	mu      sync.Mutex
	err     error
	closing bool
}

func newSource(cfg *Config, queue string) *source { return &source{cfg: cfg, queue: queue} }

// Open implements relay.Source.
func (s *source) Open(ctx context.Context, window int) (err error) {
	s.requests = make(chan *relay.Request, window)
	if s.out, err = s.cfg.dial(ctx, "ganglion intake, answers"); err != nil {
		return err
	}
	if s.in, err = s.cfg.dial(ctx, "ganglion intake"); err != nil {
		return err
	}
	// The library has no context for these calls: the end of ctx closes the connections.
	stop := context.AfterFunc(ctx, func() {
		_ = s.in.CloseDeadline(time.Now())
		_ = s.out.CloseDeadline(time.Now())
	})
	defer stop()
	if err := s.prepareAnswers(); err != nil {
		return s.cfg.explained(err)
	}
	if err := s.consume(window); err != nil {
		return s.explained(err)
	}
	return ctx.Err()
}

func (s *source) prepareAnswers() (err error) {
	if s.answers, err = s.out.Channel(); err != nil {
		return err
	}
	if err := s.answers.Confirm(false); err != nil {
		return err
	}
	s.watch(s.answers.NotifyClose(make(chan *amqp.Error, 1)))
	s.watch(s.out.NotifyClose(make(chan *amqp.Error, 1)))
	return nil
}

// consume begins to consume the queue, which must exist: the broker's user may lack the
// right to declare it, and only its owner knows where its dead letters go.
func (s *source) consume(window int) error {
	channel, err := s.in.Channel()
	if err != nil {
		return err
	}
	if _, err := channel.QueueDeclarePassive(s.queue, true, false, false, false, nil); err != nil {
		return err
	}
	if err := channel.Qos(window, 0, false); err != nil {
		return err
	}
	cancelled := channel.NotifyCancel(make(chan string, 1))
	deliveries, err := channel.Consume(s.queue, "", false, false, false, false, nil)
	if err != nil {
		return err
	}
	s.watch(channel.NotifyClose(make(chan *amqp.Error, 1)))
	s.watch(s.in.NotifyClose(make(chan *amqp.Error, 1)))
	s.reading.Go(func() {
		for range cancelled {
			s.fail(fmt.Errorf("%s was deleted, or has moved", s.cfg.where()))
		}
	})
	s.delivering.Go(func() {
		defer close(s.requests)
		for d := range deliveries {
			s.requests <- request(&d) // has room for the window
		}
		s.reading.Wait() // now Err is known
	})
	return nil
}

var errClosed = errors.New("the connection was closed")

// watch ends the run with the error that a channel or a connection sends when it ends.
func (s *source) watch(closed <-chan *amqp.Error) {
	s.reading.Go(func() {
		for err := range closed {
			s.fail(s.cfg.explained(err))
		}
		s.fail(errClosed)
	})
}

// fail records why the run ends, and closes the connections.
func (s *source) fail(err error) {
	s.mu.Lock()
	first := s.err == nil && !s.closing
	if first {
		s.err = err
	}
	s.mu.Unlock()
	if first {
		go s.hangUp() // it waits for the broker's answer, which the callers must let through
	}
}

func (s *source) hangUp() {
	for _, c := range []*amqp.Connection{s.in, s.out} {
		if c != nil {
			_ = c.CloseDeadline(time.Now().Add(closeWithin))
		}
	}
}

// explained is Config.explained for the queue.
func (s *source) explained(err error) error {
	var refused *amqp.Error
	if errors.As(err, &refused) && refused.Code == amqp.NotFound {
		return fmt.Errorf("%s does not exist: declare a durable queue with x-single-active-consumer true, so that one node at a time executes its commands in order, "+
			"and with an x-dead-letter-exchange, which gets the messages that are no commands (docs/intake.md has an example)", s.cfg.where())
	}
	return s.cfg.explained(err)
}

// request reads a message.
func request(d *amqp.Delivery) *relay.Request {
	text := relay.Text{
		Key: d.MessageId, Aggregate: header(d, "aggregate"), Command: header(d, "command"),
		Expect: header(d, "expect"), Traceparent: header(d, "traceparent"), Data: d.Body,
	}
	r := &relay.Request{Message: d}
	if r.Command, r.Wrong = text.Parse(); r.Wrong == nil && d.UserId != "" {
		r.Client, r.Wrong = relay.ClientOf(clientPrefix, d.UserId)
	}
	if r.Wrong != nil {
		d.Body = nil
	}
	return r
}

// header returns a header as text, "" if there is none.
func header(d *amqp.Delivery, name string) string {
	value, ok := d.Headers[name]
	if !ok || value == nil {
		return ""
	}
	return fmt.Sprint(value)
}

// Requests implements relay.Source.
func (s *source) Requests() <-chan *relay.Request { return s.requests }

// Finish implements relay.Source.
func (s *source) Finish(ctx context.Context, r *relay.Request, answer []byte) error {
	if err := s.answer(ctx, r, answer); err != nil {
		return err
	}
	return r.Message.(*amqp.Delivery).Ack(false)
}

// Refuse implements relay.Source.
func (s *source) Refuse(ctx context.Context, r *relay.Request, answer []byte) error {
	if err := s.answer(ctx, r, answer); err != nil {
		return err
	}
	return r.Message.(*amqp.Delivery).Reject(false)
}

// answer publishes an answer and waits for the broker's confirmation. Without mandatory,
// the broker confirms a message for a queue that does not exist, and drops it. A
// confirmation that is negative although the connection is open says that the queue
// refuses the message, for instance since it is full: the sender can't have it.
func (s *source) answer(ctx context.Context, r *relay.Request, answer []byte) error {
	d := r.Message.(*amqp.Delivery)
	if d.ReplyTo == "" {
		return nil
	}
	confirmation, err := s.answers.PublishWithDeferredConfirmWithContext(ctx, "", d.ReplyTo, false, false, amqp.Publishing{
		ContentType: "application/json", DeliveryMode: amqp.Persistent, CorrelationId: d.CorrelationId,
		AppId: "ganglion", Body: answer,
	})
	if err != nil {
		return s.cfg.explained(err)
	}
	taken, err := confirmation.WaitContext(ctx)
	if err != nil {
		return err
	}
	if !taken && s.answers.IsClosed() {
		return errClosed
	}
	return nil
}

// Err implements relay.Source.
func (s *source) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// Close implements relay.Source.
func (s *source) Close() {
	s.mu.Lock()
	s.closing = true
	s.mu.Unlock()
	s.hangUp()
	s.reading.Wait()
	s.delivering.Wait()
}
