package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// rabbitServer is a RabbitMQ with a node name, ports and a data folder of its own,
// beside whatever other runs on the machine.
type rabbitServer struct {
	dir    string
	port   string // of AMQP
	epmd   *exec.Cmd
	broker *exec.Cmd
	output bytes.Buffer
}

// rabbitPath is where Debian's package installs the server. The program of the same
// name on the path would change to another user, who cannot write to the data folder.
const rabbitPath = "/usr/lib/rabbitmq/lib/*/sbin/rabbitmq-server"

// startRabbit starts a server and waits until it accepts connections. Close it.
func startRabbit(ctx context.Context) (s *rabbitServer, err error) {
	paths, err := filepath.Glob(rabbitPath)
	if err != nil || len(paths) == 0 {
		return nil, errors.Join(fmt.Errorf("%s does not exist: install the Debian package rabbitmq-server", rabbitPath), err)
	}
	s = new(rabbitServer)
	defer func() {
		if err != nil {
			err = fmt.Errorf("RabbitMQ: %w: %s", errors.Join(err, s.close()), s.output.String())
		}
	}()
	if s.dir, err = os.MkdirTemp("", "ganglion-rabbitmq"); err != nil {
		return s, err
	}
	var names, peers string
	for _, port := range []*string{&s.port, &names, &peers} {
		if *port, err = freePort(); err != nil {
			return s, err
		}
	}
	// Erlang's port mapper is started here, since the server would leave it behind.
	s.epmd = ownGroup(exec.Command("epmd", "-address", "127.0.0.1", "-port", names))
	if err := s.epmd.Start(); err != nil {
		s.epmd = nil
		return s, err
	}
	enabled := filepath.Join(s.dir, "enabled_plugins")
	if err := os.WriteFile(enabled, []byte("[].\n"), 0o600); err != nil {
		return s, err
	}
	config := filepath.Join(s.dir, "rabbitmq.conf")
	if err := os.WriteFile(config, fmt.Appendf(nil, "listeners.tcp.1 = 127.0.0.1:%s\n", s.port), 0o600); err != nil {
		return s, err
	}
	broker := ownGroup(exec.Command(paths[len(paths)-1])) // a script, with the server in its group
	broker.Env = append(os.Environ(),
		"HOME="+s.dir, "ERL_EPMD_PORT="+names, "ERL_EPMD_ADDRESS=127.0.0.1", "RABBITMQ_NODENAME=ganglion-bench@localhost",
		"RABBITMQ_DIST_PORT="+peers, "RABBITMQ_MNESIA_BASE="+s.dir, "RABBITMQ_LOG_BASE="+s.dir,
		"RABBITMQ_ENABLED_PLUGINS_FILE="+enabled, "RABBITMQ_CONFIG_FILE="+config,
	)
	broker.Stdout, broker.Stderr = &s.output, &s.output
	if err := broker.Start(); err != nil {
		return s, err
	}
	s.broker = broker
	return s, s.ready(ctx)
}

func (s *rabbitServer) url() string {
	return "amqp://guest:guest@" + net.JoinHostPort("127.0.0.1", s.port)
}

// ready waits until a connection succeeds.
func (s *rabbitServer) ready(ctx context.Context) error {
	const within = 2 * time.Minute
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	for {
		c, err := amqp.Dial(s.url())
		if err == nil {
			return c.Close()
		}
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("it is not ready after %v: %w", within, err)
		}
	}
}

// close ends the server and removes its data.
func (s *rabbitServer) close() error {
	for _, cmd := range []*exec.Cmd{s.broker, s.epmd} {
		if cmd != nil {
			stopCommand(cmd)
		}
	}
	return os.RemoveAll(s.dir)
}
