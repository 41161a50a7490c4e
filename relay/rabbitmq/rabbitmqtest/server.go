// Package rabbitmqtest runs RabbitMQ servers for tests and benchmarks.
package rabbitmqtest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/ganglion-es/ganglion/eventstore/postgres/postgrestest/ports"
)

const (
	// readyWithin bounds the start of a server, which takes 5 s on an idle machine.
	readyWithin = 2 * time.Minute
	// installed is where Debian's package has the server. The program of the same name
	// on the path would change to another user, who cannot write to the data folder.
	installed = "/usr/lib/rabbitmq/lib/*/sbin/rabbitmq-server"
)

// Server is a RabbitMQ with a node name, ports, a data folder and an Erlang port mapper
// of its own. Its methods are for one goroutine at a time.
type Server struct {
	dir                string
	path               string
	port, names, peers int // of AMQP, of the port mapper, of Erlang's distribution
	mapper, broker     *exec.Cmd
	output             *os.File // of these processes
}

// Start starts a server with the lines of a configuration, and waits until it accepts
// connections. Close it.
func Start(ctx context.Context, config ...string) (s *Server, err error) {
	paths, err := filepath.Glob(installed)
	if err != nil || len(paths) == 0 {
		return nil, errors.Join(fmt.Errorf("%s does not exist: run scripts/install.sh rabbitmq-server", installed), err)
	}
	s = &Server{path: paths[len(paths)-1]}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	if s.dir, err = os.MkdirTemp("", "ganglion-rabbitmq"); err != nil {
		return s, err
	}
	if s.output, err = os.Create(s.file("output")); err != nil {
		return s, err
	}
	// A server keeps its ports when it starts again.
	first, err := ports.Reserve(3)
	if err != nil {
		return s, err
	}
	s.port, s.names, s.peers = first, first+1, first+2
	config = append(config, "listeners.tcp.1 = 127.0.0.1:"+strconv.Itoa(s.port))
	if err := errors.Join(
		os.WriteFile(s.file("enabled_plugins"), []byte("[].\n"), 0o600),
		os.WriteFile(s.file("rabbitmq.conf"), []byte(strings.Join(config, "\n")+"\n"), 0o600),
	); err != nil {
		return s, err
	}
	// The server would leave a port mapper behind that it has started.
	s.mapper = s.command("epmd", "-address", "127.0.0.1", "-port", strconv.Itoa(s.names))
	if err := s.mapper.Start(); err != nil {
		s.mapper = nil
		return s, err
	}
	return s, s.Restart(ctx)
}

func (s *Server) file(name string) string { return filepath.Join(s.dir, name) }

// command returns a command that leads a process group, with the environment of the
// server. A signal from the terminal does not reach the group, and its leader dies with
// the tests.
func (s *Server) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...) //nolint:noctx // Close ends it
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	dieWithParent(cmd.SysProcAttr)
	cmd.Stdout, cmd.Stderr = s.output, s.output
	cmd.Env = append(os.Environ(),
		"HOME="+s.dir, "ERL_EPMD_PORT="+strconv.Itoa(s.names), "ERL_EPMD_ADDRESS=127.0.0.1", "RABBITMQ_NODENAME=ganglion-test@localhost",
		"RABBITMQ_DIST_PORT="+strconv.Itoa(s.peers), "RABBITMQ_MNESIA_BASE="+s.dir, "RABBITMQ_LOG_BASE="+s.dir,
		"RABBITMQ_ENABLED_PLUGINS_FILE="+s.file("enabled_plugins"), "RABBITMQ_CONFIG_FILE="+s.file("rabbitmq.conf"),
	)
	return cmd
}

// Restart starts the server again after Kill, with its data, and waits until it accepts
// connections.
func (s *Server) Restart(ctx context.Context) error {
	s.broker = s.command(s.path)
	if err := s.broker.Start(); err != nil {
		s.broker = nil
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	for {
		c, err := amqp.Dial(s.URL())
		if err == nil {
			return c.Close()
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			output, _ := os.ReadFile(s.output.Name())
			return fmt.Errorf("RabbitMQ is not ready after %v: %w: %s", readyWithin, err, output)
		}
	}
}

// Address is the HOST:PORT of AMQP.
func (s *Server) Address() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(s.port)) }

// URL is that of AMQP, with the user guest and the default virtual host.
func (s *Server) URL() string { return "amqp://guest:guest@" + s.Address() }

// Ctl runs rabbitmqctl.
func (s *Server) Ctl(ctx context.Context, args ...string) error {
	cmd := s.command(filepath.Join(filepath.Dir(s.path), "rabbitmqctl"), args...)
	cmd.Stdout, cmd.Stderr = nil, nil
	kill := context.AfterFunc(ctx, func() { s.signal(cmd, syscall.SIGKILL) })
	defer kill()
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("rabbitmqctl %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

// Kill ends the server as a crash does.
func (s *Server) Kill() {
	if s.broker != nil {
		s.signal(s.broker, syscall.SIGKILL)
		_ = s.broker.Wait()
		s.broker = nil
	}
}

// signal sends a signal to a command and its children.
func (s *Server) signal(cmd *exec.Cmd, what syscall.Signal) {
	if cmd.Process != nil {
		_ = syscall.Kill(-cmd.Process.Pid, what)
	}
}

// Close ends the server and removes its data.
func (s *Server) Close() error {
	s.Kill()
	if s.mapper != nil {
		s.signal(s.mapper, syscall.SIGKILL)
		_ = s.mapper.Wait()
		s.mapper = nil
	}
	if s.output != nil {
		s.output.Close()
	}
	return os.RemoveAll(s.dir)
}
