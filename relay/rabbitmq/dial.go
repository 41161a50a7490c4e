package rabbitmq

import (
	"context"
	"errors"
	"fmt"
	"net"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/ganglion-es/ganglion/relay"
)

// dial opens a connection, within ctx. Its name is for the broker's operators.
func (c *Config) dial(ctx context.Context, name string) (*amqp.Connection, error) {
	u := *c.URL
	u.User = nil
	secure, err := c.TLS.Read()
	if err != nil {
		return nil, c.explained(err)
	}
	connected := func() bool { return true }
	defer func() { connected() }()
	conn, err := amqp.DialConfig(u.String(), amqp.Config{
		SASL:      []amqp.Authentication{&amqp.PlainAuth{Username: c.user(), Password: c.Password}},
		Heartbeat: relay.Heartbeat, TLSClientConfig: secure, Properties: amqp.Table{"connection_name": name, "product": "ganglion"},
		Dial: func(network, address string) (net.Conn, error) {
			conn, err := new(net.Dialer).DialContext(ctx, network, address)
			if err == nil { // the end of ctx ends the handshake
				connected = context.AfterFunc(ctx, func() { conn.Close() })
			}
			return conn, err
		},
	})
	switch {
	case err != nil && ctx.Err() != nil:
		return nil, c.explained(ctx.Err())
	case err != nil:
		return nil, c.explained(err)
	}
	return conn, nil
}

// explained says where the broker is.
func (c *Config) explained(err error) error {
	var refused *amqp.Error
	switch {
	case errors.As(err, &refused) && refused.Code == amqp.AccessRefused:
		return fmt.Errorf("%s refused the user %q or what it may do: %s", c.where(), c.user(), refused.Reason)
	case errors.As(err, &refused):
		return fmt.Errorf("%s: %w", c.where(), c.advised(fmt.Errorf("%d %s", refused.Code, refused.Reason)))
	}
	return fmt.Errorf("%s: %w", c.where(), c.advised(err))
}

// advised says what to do if TLS may have failed.
func (c *Config) advised(err error) error {
	if c.URL.Scheme == "amqps" {
		return relay.ExplainTLS(err)
	}
	return err
}
