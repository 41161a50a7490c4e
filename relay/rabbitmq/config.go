// Package rabbitmq publishes the events of a log to an exchange of RabbitMQ, for package
// relay.
//
// Messages are persistent, and each counts only once the broker has confirmed it. The
// routing key of an event is that of relay.Message.Key, such as auction.42.opened. A
// message that no queue takes stops the relay, unless the exchange has an alternate
// exchange. The recovery of the client library is off: any failure ends the run, and the
// next one begins at the checkpoint.
//
// It also takes commands from a queue, for relay.Intake.
package rabbitmq

import (
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/ganglion-es/ganglion/relay"
	"github.com/ganglion-es/ganglion/relay/rabbitmq/internal/endpoint"
)

// Broker makes relays to RabbitMQ, and intakes from it, from a configuration file.
var Broker = relay.Broker{
	Schemes: []string{"amqp", "amqps"}, Keys: append([]string{"exchange"}, relay.TLSKeys...), IntakeKeys: append([]string{"queue"}, relay.TLSKeys...),
	Configure: func(s relay.Settings) (string, func() relay.Target, error) {
		return New(Config{URL: s.URL, Password: s.Password, Exchange: s.Own["exchange"], TLS: relay.TLSOf(s)})
	},
	ConfigureIntake: func(s relay.Settings) (string, func() relay.Source, error) {
		return NewIntake(IntakeConfig{URL: s.URL, Password: s.Password, Queue: s.Own["queue"], TLS: relay.TLSOf(s)})
	},
}

// Config names an exchange.
type Config struct {
	// URL is amqp://USER@HOST:PORT/VHOST, or amqps://. Without a user, it is guest, whom
	// RabbitMQ accepts on the loopback interface only. Required.
	URL      *url.URL
	Password string
	// Exchange is the name of the exchange. If there is none, a durable topic exchange is
	// declared. Required.
	Exchange string
	// TLS is for amqps. The files are read for each connection.
	TLS relay.TLSFiles

	place string // see where
}

// New returns the Where and the New of a relay.Relay. The error lists everything that is
// wrong.
func New(c Config) (where string, target func() relay.Target, err error) {
	errs := []error{c.check()}
	problem := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if c.Exchange == "" {
		problem("exchange is missing: name the exchange that gets the events")
	}
	if len(c.Exchange) > 127 || strings.HasPrefix(c.Exchange, "amq.") {
		problem("exchange %q is not allowed: use at most 127 bytes, and no name that begins with amq.", c.Exchange)
	}
	if err := errors.Join(errs...); err != nil {
		return "", nil, err
	}
	c.place = fmt.Sprintf("exchange %q of RabbitMQ at %s", c.Exchange, c.URL.Host)
	return c.where(), func() relay.Target { return newTarget(&c) }, nil
}

// check checks how the broker is reached, and sets the password.
func (c *Config) check() (err error) {
	c.Password, err = endpoint.Check(c.URL, c.Password, c.TLS, "amqp", "amqps")
	return err
}

func (c *Config) user() string { return endpoint.User(c.URL) }

// where names the exchange or the queue without secrets.
func (c *Config) where() string { return c.place }
