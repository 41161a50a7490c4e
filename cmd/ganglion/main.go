// Command ganglion runs the aggregates of package domain and serves the example
// pages. Package cli has its commands.
package main

import (
	"os"

	"github.com/ganglion-es/ganglion/cli"
	"github.com/ganglion-es/ganglion/domain"
	"github.com/ganglion-es/ganglion/examples"
	"github.com/ganglion-es/ganglion/relay"
	"github.com/ganglion-es/ganglion/relay/nats"
	"github.com/ganglion-es/ganglion/relay/rabbitmq"
	"github.com/ganglion-es/ganglion/relay/rabbitmq/stream"
)

func main() {
	os.Exit(cli.Main(&domain.Catalog, cli.Options{
		Pages: examples.Handler(), Examples: true, Brokers: []relay.Broker{rabbitmq.Broker, stream.Broker, nats.Broker},
	}))
}
