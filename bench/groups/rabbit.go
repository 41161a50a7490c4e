package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"golang.org/x/sync/errgroup"

	"github.com/ganglion-es/ganglion/test/rabbitmqtest"
)

// rabbit is RabbitMQ with a quorum queue for each partition, which has a single active
// consumer: what keeps the order of a lot if members come and go. All members consume
// from all queues, and each is the active one of a third of them.
type rabbit struct {
	server     *rabbitmqtest.Server
	connection *amqp.Connection
	admin      *amqp.Channel
}

func openRabbit(ctx context.Context) (_ system, err error) {
	r := new(rabbit)
	defer func() {
		if err != nil {
			err = errors.Join(err, r.close())
		}
	}()
	if r.server, err = rabbitmqtest.Start(ctx, rabbitmqtest.Options{}); err != nil {
		r.server = nil
		return nil, err
	}
	if r.connection, err = amqp.Dial(r.server.URL()); err != nil {
		return nil, err
	}
	r.admin, err = r.connection.Channel()
	return r, err
}

var queueArguments = amqp.Table{"x-queue-type": "quorum", "x-single-active-consumer": true}

func queueName(partition int) string { return fmt.Sprintf("bids-%d", partition) }

// fill declares the queues, and publishes persistent messages with confirmations.
func (r *rabbit) fill(ctx context.Context, events int) (rate float64, err error) {
	for q := range partitions {
		if _, err := r.admin.QueueDeclare(queueName(q), true, false, false, false, queueArguments); err != nil {
			return 0, err
		}
	}
	publisher, err := r.connection.Channel()
	if err != nil {
		return 0, err
	}
	defer publisher.Close()
	if err := publisher.Confirm(false); err != nil {
		return 0, err
	}
	return fill(ctx, events, func(ctx context.Context, lot, _ int, data []byte) error {
		message := amqp.Publishing{DeliveryMode: amqp.Persistent, ContentType: "application/json", Body: data}
		confirmation, err := publisher.PublishWithDeferredConfirmWithContext(ctx, "", queueName(lot%partitions), true, false, message)
		if err != nil {
			return err
		}
		if isAcked, err := confirmation.WaitContext(ctx); err != nil || !isAcked {
			return errors.Join(errors.New("the broker refused a message"), err)
		}
		return nil
	})
}

func (r *rabbit) drain(ctx context.Context, t *tally) (err error) {
	consuming, ctx := errgroup.WithContext(ctx)
	ctx, leave := context.WithCancel(ctx)
	var connections [members]*amqp.Connection
	defer func() {
		leave()
		err = errors.Join(consuming.Wait(), err)
		for _, c := range connections {
			if c != nil {
				err = errors.Join(err, c.Close())
			}
		}
		if err == nil {
			err = r.remove()
		}
	}()
	for m := range connections {
		if connections[m], err = amqp.Dial(r.server.URL()); err != nil {
			return err
		}
	}
	// The first consumer of a queue is the active one.
	for turn := range members {
		var joining errgroup.Group
		for m, c := range connections {
			joining.Go(func() error {
				for q := (m + turn) % members; q < partitions; q += members {
					deliveries, err := subscribe(c, queueName(q))
					if err != nil {
						return err
					}
					consuming.Go(func() error {
						return acknowledge(ctx, deliveries, func(d amqp.Delivery) []byte { return d.Body }, func(d amqp.Delivery) error { return d.Ack(true) }, t)
					})
				}
				return nil
			})
		}
		if err := joining.Wait(); err != nil {
			return err
		}
	}
	select {
	case <-t.all:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func subscribe(c *amqp.Connection, queue string) (<-chan amqp.Delivery, error) {
	channel, err := c.Channel()
	if err != nil {
		return nil, err
	}
	if err := channel.Qos(window, 0, false); err != nil {
		return nil, err
	}
	return channel.Consume(queue, "", false, false, false, false, nil)
}

// remove removes the queues. It fails if they have messages that were not
// acknowledged, which are in the queue again once all consumers have left it.
func (r *rabbit) remove() error {
	for q := range partitions {
		for {
			queue, err := r.admin.QueueDeclarePassive(queueName(q), true, false, false, false, queueArguments)
			if err != nil {
				return err
			}
			if queue.Consumers == 0 {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		left, err := r.admin.QueueDelete(queueName(q), false, false, false)
		if err != nil {
			return err
		}
		if left > 0 {
			return fmt.Errorf("queue %d has %d events that were not acknowledged", q, left)
		}
	}
	return nil
}

func (r *rabbit) close() (err error) {
	if r.connection != nil {
		err = r.connection.Close()
	}
	if r.server != nil {
		err = errors.Join(err, r.server.Close())
	}
	return err
}
