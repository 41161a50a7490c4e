// Package stomp judges the STOMP of gateways by clients that others have written,
// and by another server: each scenario runs against RabbitMQ and its web-STOMP
// plugin too, so that it holds what STOMP promises and not what this server does.
// The servers are real processes, and the clients use real sockets.
package stomp

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/ganglion-es/ganglion/eventstore/postgres/postgrestest/ports"
	"github.com/ganglion-es/ganglion/test/harness"
	"github.com/ganglion-es/ganglion/test/rabbitmqtest"
)

var (
	// binary is ganglion, built with the race detector.
	binary string
	// broker is the URL of RabbitMQ's web-STOMP plugin.
	broker string
)

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "ganglion-stomp")
	if err != nil {
		fail(err)
	}
	server, err := startBroker()
	if err == nil {
		binary, err = harness.Build(dir, true)
	}
	if err != nil {
		fail(err)
	}
	goleak.VerifyTestMain(m, goleak.IgnoreCurrent(), goleak.Cleanup(func(code int) {
		if err := errors.Join(server.Close(), os.RemoveAll(dir)); err != nil {
			fail(err)
		}
		os.Exit(code)
	}))
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

func startBroker() (*rabbitmqtest.Server, error) {
	port, err := ports.Reserve(1)
	if err != nil {
		return nil, err
	}
	broker = fmt.Sprintf("ws://127.0.0.1:%d/ws", port)
	return rabbitmqtest.Start(context.Background(), rabbitmqtest.Options{
		Plugins: []string{"rabbitmq_web_stomp"},
		Settings: []string{
			"listeners.tcp = none", "stomp.listeners.tcp = none",
			"web_stomp.tcp.ip = 127.0.0.1", fmt.Sprintf("web_stomp.tcp.port = %d", port),
			"web_stomp.ws_frame = binary", // text frames would make it spoil bodies that are not UTF-8
		},
	})
}

// server is a server of STOMP over WebSockets.
type server struct {
	name, url       string
	login, passcode string
}

func rabbit() server { return server{name: "RabbitMQ", url: broker, login: "guest", passcode: "guest"} }

// gateway starts a process of "ganglion node", for the test and its subtests. It beats
// every second, as RabbitMQ does for clients that ask for it.
func gateway(t *testing.T) server {
	t.Helper()
	node := harness.Start(t, binary, 1, "node", "--name", "stomp", "--store", t.TempDir(), "--heartbeat", "1s",
		"--listen", "127.0.0.1:0", "--peer-listen", "127.0.0.1:0", "--gossip-listen", "127.0.0.1:0")
	return server{name: "Ganglion", url: harness.WS(node.URLs[0]) + "/v1/stomp", login: "ada", passcode: "dev:ada"}
}
