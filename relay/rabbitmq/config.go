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
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"

	"github.com/ganglion-es/ganglion/relay"
)

// Broker makes relays to RabbitMQ, and intakes from it, from a configuration file.
var Broker = relay.Broker{
	Schemes: []string{"amqp", "amqps"}, Keys: []string{"exchange", "ca-file"}, IntakeKeys: []string{"queue", "ca-file"},
	Configure: func(s relay.Settings) (string, func() relay.Target, error) {
		roots, err := readRoots(s.Own["ca-file"])
		if err != nil {
			return "", nil, err
		}
		return New(Config{URL: s.URL, Password: s.Password, Exchange: s.Own["exchange"], TLS: roots})
	},
	ConfigureIntake: func(s relay.Settings) (string, func() relay.Source, error) {
		roots, err := readRoots(s.Own["ca-file"])
		if err != nil {
			return "", nil, err
		}
		return NewIntake(IntakeConfig{URL: s.URL, Password: s.Password, Queue: s.Own["queue"], TLS: roots})
	},
}

// readRoots reads the authorities of the setting ca-file, nil if it is not set.
func readRoots(file string) (*tls.Config, error) {
	if file == "" {
		return nil, nil
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("ca-file: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(raw) {
		return nil, fmt.Errorf("ca-file: %s has no certificate in PEM", file)
	}
	return &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}, nil
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
	// TLS is for amqps. Its ServerName is that of the URL.
	//
	// Defaults to the authorities of the system.
	TLS *tls.Config

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
func (c *Config) check() error {
	var errs []error
	problem := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	switch {
	case c.URL == nil || c.URL.Hostname() == "" || c.URL.Scheme != "amqp" && c.URL.Scheme != "amqps":
		problem("the URL of RabbitMQ is amqp://USER@HOST:PORT/VHOST, or amqps:// for TLS")
		return errors.Join(errs...)
	case c.URL.RawQuery != "":
		problem("the URL has parameters, and RabbitMQ's has none: remove what follows ?")
	case strings.Contains(strings.TrimPrefix(c.URL.Path, "/"), "/"):
		problem("the virtual host of the URL has a /: write it as %%2F")
	}
	if _, has := c.URL.User.Password(); has && c.Password != "" {
		problem("the password is in the URL and outside of it: use one place")
	}
	if p, has := c.URL.User.Password(); has {
		c.Password = p
	}
	if c.Password == "" && c.user() == "guest" {
		c.Password = "guest"
	}
	return errors.Join(errs...)
}

func (c *Config) user() string { return cmp.Or(c.URL.User.Username(), "guest") }

// where names the exchange or the queue without secrets.
func (c *Config) where() string { return c.place }
