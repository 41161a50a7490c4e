package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/ganglion-es/ganglion/bench/report"
	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/engine"
	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/relay"
	"github.com/ganglion-es/ganglion/relay/rabbitmq"
	"github.com/ganglion-es/ganglion/test/rabbitmqtest"
)

// The exchange of the experiment, and its queue, which gets everything.
const relayExchange, relayQueue = "events", "all"

// relaying publishes the backlog of a log to RabbitMQ, by a relay and by a program that
// does nothing else.
type relaying struct {
	log    *ours
	events int
	server *rabbitmqtest.Server
	admin  *amqp.Channel
	rounds int // of the relay
}

// publisher is a case of the experiment.
type publisher struct {
	name    string
	publish func(context.Context) error
	rates   []float64 // events per second, confirmed
}

// relay compares a relay with a bare publisher that has the same window of unconfirmed
// messages, the same properties and the same exchange.
func (b *bench) relay(ctx context.Context, w io.Writer) (_ []report.Ratio, err error) {
	r := &relaying{log: &ours{server: b.server}, events: b.events}
	if _, err := r.log.fill(ctx, b.events); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.log.remove()) }()
	if r.server, err = rabbitmqtest.Start(ctx, rabbitmqtest.Options{}); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.server.Close()) }()
	connection, err := amqp.Dial(r.server.URL())
	if err != nil {
		return nil, err
	}
	defer connection.Close()
	if r.admin, err = connection.Channel(); err != nil {
		return nil, err
	}
	if err := r.declare(); err != nil {
		return nil, err
	}
	cases := []*publisher{{name: "relay", publish: r.run}, {name: "bare publisher", publish: r.bare}}
	err = report.TakeTurns(ctx, cases, b.rounds, func(c *publisher, _ int) error {
		began := time.Now()
		if err := c.publish(ctx); err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		c.rates = append(c.rates, float64(r.events)/time.Since(began).Seconds())
		return r.empty()
	})
	if err != nil {
		return nil, err
	}
	out := report.Table(w)
	fmt.Fprintf(out, "%s events to an exchange of RabbitMQ, %d unconfirmed\tconfirmed/s\t\n", report.Thousands(float64(r.events)), relay.DefaultWindow)
	for _, c := range cases {
		fmt.Fprintf(out, "%s\t%s\t\n", c.name, report.Thousands(report.Median(c.rates)))
	}
	return []report.Ratio{{Name: "relay: to a bare publisher", Values: report.Pairwise(cases[0].rates, cases[1].rates, report.Quotient), AtLeast: 0.8}}, out.Flush()
}

func (r *relaying) declare() error {
	if err := r.admin.ExchangeDeclare(relayExchange, amqp.ExchangeTopic, true, false, false, false, nil); err != nil {
		return err
	}
	if _, err := r.admin.QueueDeclare(relayQueue, true, false, false, false, nil); err != nil {
		return err
	}
	return r.admin.QueueBind(relayQueue, "#", relayExchange, false, nil)
}

// empty removes the messages of a round, all of which must be there.
func (r *relaying) empty() error {
	n, err := r.admin.QueuePurge(relayQueue, false)
	if err == nil && n != r.events {
		err = fmt.Errorf("the queue got %d messages of %d", n, r.events)
	}
	return err
}

// run runs a new relay from the first event of the log until all are confirmed.
func (r *relaying) run(ctx context.Context) error {
	r.rounds++
	where, target, err := rabbitmq.New(rabbitmq.Config{URL: &url.URL{Scheme: "amqp", Host: r.server.Address(), Path: "/"}, Exchange: relayExchange})
	if err != nil {
		return err
	}
	head, err := r.log.store.Head(ctx)
	if err != nil {
		return err
	}
	p := engine.NewProjections(engine.ProjectionsConfig{
		Catalog: new(aggregate.Catalog), Store: r.log.store, Rows: r.log.store.Rows(), Logger: slog.New(slog.DiscardHandler),
		Relays: []relay.Relay{{Name: fmt.Sprintf("r%d", r.rounds), Where: where, New: target}},
		Owns:   func(string, int) bool { return true },
	})
	p.Begin(head)
	ctx, stop := context.WithTimeout(ctx, deliverWithin)
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	for {
		if s := p.Relays()[0].Segments; len(s) > 0 && s[0].Position == head {
			stop()
			return <-ended
		}
		select {
		case err := <-ended:
			return errors.Join(err, context.Cause(ctx))
		case <-time.After(time.Millisecond):
		}
	}
}

// bare reads the log and publishes its events, with a window of unconfirmed messages.
func (r *relaying) bare(ctx context.Context) error {
	connection, err := amqp.Dial(r.server.URL())
	if err != nil {
		return err
	}
	defer connection.Close()
	channel, err := connection.Channel()
	if err != nil {
		return err
	}
	if err := channel.Confirm(false); err != nil {
		return err
	}
	confirms := channel.NotifyPublish(make(chan amqp.Confirmation, relay.DefaultWindow))
	unconfirmed := 0
	confirm := func() error {
		c := <-confirms
		if !c.Ack {
			return errors.New("the broker refused a message")
		}
		unconfirmed--
		return nil
	}
	var at eventstore.Position
	for {
		commits, err := r.log.store.Read(ctx, at, 1000)
		if err != nil {
			return err
		}
		if len(commits) == 0 {
			break
		}
		for i := range commits {
			c := &commits[i]
			for j, e := range c.Events {
				at = c.First() + eventstore.Position(j)
				if unconfirmed == relay.DefaultWindow {
					if err := confirm(); err != nil {
						return err
					}
				}
				message := amqp.Publishing{
					Headers: amqp.Table{
						"log": r.log.store.LogID(), "position": int64(at), "prev": int64(at - 1), "stream": c.Stream.String(), "version": int64(c.Version),
						"form": int32(1), "time": c.At.Format(time.RFC3339Nano), "cause": c.Key, "by": c.Meta.Client,
					},
					ContentType: "application/json", DeliveryMode: amqp.Persistent, MessageId: fmt.Sprint(r.log.store.LogID(), "-", at),
					Timestamp: c.At, Type: e.Type, AppId: "ganglion", Body: e.Data,
				}
				if err := channel.PublishWithContext(ctx, relayExchange, c.Stream.Type+"."+c.Stream.ID+"."+e.Type, true, false, message); err != nil {
					return err
				}
				unconfirmed++
			}
		}
	}
	for unconfirmed > 0 {
		if err := confirm(); err != nil {
			return err
		}
	}
	return nil
}
