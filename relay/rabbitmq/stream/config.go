// Package stream publishes the events of a log to a stream of RabbitMQ, for package
// relay.
//
// Each event is in the stream once. Its position is the publishing id of its message, so
// the broker drops a message that it already has. The name of the publisher has the name
// of the relay and the incarnation of the log, so that no other relay and no other log
// is taken for this one. A run begins after the last position that the broker has.
//
// # Why two owners leave no hole
//
// The broker keeps the highest id of a publisher name, and drops ids up to it, whichever
// connection they come from. So an owner that sent id 100 while another one had sent no
// more than 90 would make the broker drop 91 to 99. This cannot happen. A connection
// sends the events in the order of the log and leaves none out, beginning after an id
// that the broker had. So the broker has the predecessor of each message before the
// message: either the same connection has sent it, or the broker had it when the
// connection was opened. An owner of which a stale one is ahead has its messages dropped
// until it is ahead itself; the broker confirms them once a majority of the replicas has
// the messages of the stale owner. The target relies on the order: it uses one
// connection to the node that leads the stream, sends nothing after the first error, and
// never connects again.
//
// The package speaks the stream protocol itself, since the client library for Go has no
// time limit for connecting, and notices no connection that is cut while it sends.
package stream

import (
	"errors"
	"fmt"
	"net/url"

	"github.com/ganglion-es/ganglion/relay"
	"github.com/ganglion-es/ganglion/relay/rabbitmq/internal/endpoint"
)

// Schemes of the URL, and the ports without and with TLS.
const (
	scheme, secureScheme    = "rabbitmq-stream", "rabbitmq-stream+tls"
	defaultPort, securePort = "5552", "5551"
)

// maxStream bounds the bytes of a stream's name.
const maxStream = 255

// Broker makes relays to streams of RabbitMQ from a configuration file.
var Broker = relay.Broker{
	Schemes: []string{scheme, secureScheme}, Keys: append([]string{"stream"}, relay.TLSKeys...),
	Configure: func(s relay.Settings) (string, func() relay.Target, error) {
		return New(Config{Relay: s.Name, URL: s.URL, Password: s.Password, Stream: s.Own["stream"], TLS: relay.TLSOf(s)})
	},
}

// Config names a stream.
type Config struct {
	// Relay is the name of the relay. It is a part of the publisher's name. Required.
	Relay string
	// URL is rabbitmq-stream://USER@HOST:PORT/VHOST, or rabbitmq-stream+tls://. The ports
	// are 5552 and 5551 by default. Without a user, it is guest, whom RabbitMQ accepts on
	// the loopback interface only. Required.
	URL      *url.URL
	Password string
	// Stream is the name of the stream. If there is none, one that keeps all messages is
	// made. Required.
	Stream string
	// TLS is for rabbitmq-stream+tls. The files are read for each connection.
	TLS relay.TLSFiles
}

// New returns the Where and the New of a relay.Relay. The error lists everything that is
// wrong.
func New(c Config) (where string, target func() relay.Target, err error) {
	c.Password, err = endpoint.Check(c.URL, c.Password, c.TLS, scheme, secureScheme)
	errs := []error{err}
	if c.Relay == "" {
		errs = append(errs, errors.New("the relay has no name: the broker recognises its messages by it"))
	}
	if c.Stream == "" {
		errs = append(errs, errors.New("stream is missing: name the stream that gets the events"))
	}
	if len(c.Stream) > maxStream {
		errs = append(errs, fmt.Errorf("stream %q is not allowed: use at most %d bytes", c.Stream, maxStream))
	}
	if err := errors.Join(errs...); err != nil {
		return "", nil, err
	}
	return c.where(), func() relay.Target { return newTarget(&c) }, nil
}

func (c *Config) user() string { return endpoint.User(c.URL) }

func (c *Config) secure() bool { return c.URL.Scheme == secureScheme }

// where names the stream without secrets.
func (c *Config) where() string {
	return fmt.Sprintf("stream %q of RabbitMQ at %s", c.Stream, c.URL.Host)
}
