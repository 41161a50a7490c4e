package rabbitmq

import (
	"fmt"
	"net/url"

	"github.com/ganglion-es/ganglion/relay"
)

// IntakeConfig names a queue with commands.
type IntakeConfig struct {
	// URL and Password are those of Config.
	URL      *url.URL
	Password string
	// Queue is the name of a durable queue, which exists. Required.
	Queue string
	// TLS is that of Config.
	TLS relay.TLSFiles
}

// NewIntake returns the Where and the New of a relay.Intake. The error lists everything
// that is wrong.
func NewIntake(c IntakeConfig) (where string, source func() relay.Source, err error) {
	server := Config{URL: c.URL, Password: c.Password, TLS: c.TLS}
	err = server.check()
	switch {
	case err != nil:
		return "", nil, err
	case c.Queue == "":
		return "", nil, fmt.Errorf("queue is missing: name the queue that has the commands")
	case len(c.Queue) > 255:
		return "", nil, fmt.Errorf("the queue's name has %d bytes: RabbitMQ allows 255", len(c.Queue))
	}
	server.place = fmt.Sprintf("queue %q of RabbitMQ at %s", c.Queue, c.URL.Host)
	return server.where(), func() relay.Source { return newSource(&server, c.Queue) }, nil
}
