// Package rabbitmqtest runs RabbitMQ servers for tests and benchmarks: Debian's package
// rabbitmq-server, as a node with its own name, ports and data, beside any other on the
// machine.
package rabbitmqtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/ganglion-es/ganglion/eventstore/postgres/postgrestest/ports"
)

const (
	// readyWithin bounds the start of a server, which takes 5 to 7 s on an idle machine.
	readyWithin = 2 * time.Minute
	// installed is where Debian's package has the server. The program of the same name
	// on the path would change to another user, who cannot write to the data folder.
	installed = "/usr/lib/rabbitmq/lib/*/sbin/rabbitmq-server"
	// noAMQP is the setting of a server without AMQP.
	noAMQP = "listeners.tcp = none"
)

// Options configure a [Server].
type Options struct {
	Plugins []string // such as rabbitmq_web_stomp
	// Settings are lines of rabbitmq.conf, among them the listeners of plugins. AMQP is
	// at Address, unless one of them is "listeners.tcp = none".
	Settings []string
	// Streams makes the server speak the stream protocol, at StreamAddress.
	Streams bool
}

// Server is a RabbitMQ whose user guest has the password guest. Its methods are for one
// goroutine at a time.
type Server struct {
	dir                string
	path               string
	port, names, peers int // of AMQP, of Erlang's port mapper and of its distribution
	streams            int // of the stream protocol
	mapper, broker     *process
	output             *os.File // of these processes
}

// Start starts a server and waits until it and its plugins accept connections. Close it.
func Start(ctx context.Context, o Options) (*Server, error) {
	paths, err := filepath.Glob(installed)
	if err != nil || len(paths) == 0 {
		return nil, errors.Join(fmt.Errorf("%s does not exist: run scripts/install.sh rabbitmq-server", installed), err)
	}
	s := &Server{path: paths[len(paths)-1]}
	if err := s.start(ctx, o); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (s *Server) start(ctx context.Context, o Options) (err error) {
	if s.dir, err = os.MkdirTemp("", "ganglion-rabbitmq"); err != nil {
		return err
	}
	if s.output, err = os.Create(s.file("output")); err != nil {
		return err
	}
	first, err := ports.Reserve(4) // which the server keeps when it starts again
	if err != nil {
		return err
	}
	s.port, s.names, s.peers, s.streams = first, first+1, first+2, first+3
	settings, plugins := slices.Clone(o.Settings), slices.Clone(o.Plugins)
	if o.Streams {
		plugins = append(plugins, "rabbitmq_stream")
		settings = append(settings, "stream.listeners.tcp.1 = "+s.StreamAddress(),
			"stream.advertised_host = 127.0.0.1", "stream.advertised_port = "+strconv.Itoa(s.streams))
	}
	if !slices.Contains(settings, noAMQP) {
		settings = append(settings, "listeners.tcp.1 = "+s.Address())
	}
	if err := errors.Join(
		os.WriteFile(s.file("enabled_plugins"), []byte("["+strings.Join(plugins, ",")+"].\n"), 0o600),
		os.WriteFile(s.file("rabbitmq.conf"), []byte(strings.Join(settings, "\n")+"\n"), 0o600),
	); err != nil {
		return err
	}
	// The server would leave a port mapper behind that it has started.
	if s.mapper, err = spawn(s.command("epmd", "-address", "127.0.0.1", "-port", strconv.Itoa(s.names))); err != nil {
		return err
	}
	return s.Restart(ctx)
}

func (s *Server) file(name string) string { return filepath.Join(s.dir, name) }

// command returns a command with the environment of the server.
func (s *Server) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...) //nolint:noctx // Close ends it
	cmd.Stdout, cmd.Stderr = s.output, s.output
	cmd.Env = append(os.Environ(),
		"HOME="+s.dir, "ERL_EPMD_PORT="+strconv.Itoa(s.names), "ERL_EPMD_ADDRESS=127.0.0.1", "RABBITMQ_NODENAME=ganglion-test@localhost",
		"RABBITMQ_DIST_PORT="+strconv.Itoa(s.peers), "RABBITMQ_MNESIA_BASE="+s.dir, "RABBITMQ_LOG_BASE="+s.dir, "RABBITMQ_LOGS=-",
		"RABBITMQ_ENABLED_PLUGINS_FILE="+s.file("enabled_plugins"), "RABBITMQ_CONFIG_FILE="+s.file("rabbitmq.conf"), "RABBITMQ_CONF_ENV_FILE=/dev/null",
	)
	return cmd
}

// Restart starts the server again after Kill, with its data, and waits until it accepts
// connections.
func (s *Server) Restart(ctx context.Context) (err error) {
	before, err := os.ReadFile(s.output.Name())
	if err != nil {
		return err
	}
	if s.broker, err = spawn(s.command(s.path)); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	for {
		output, err := os.ReadFile(s.output.Name())
		if err != nil {
			return err
		}
		if bytes.Contains(output[len(before):], []byte("Server startup complete")) {
			return nil
		}
		select {
		case <-s.broker.ended:
			return fmt.Errorf("RabbitMQ has ended: %s", output)
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("RabbitMQ is not ready: %w: %s", ctx.Err(), output)
		}
	}
}

// Address is the HOST:PORT of AMQP.
func (s *Server) Address() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(s.port)) }

// StreamAddress is the HOST:PORT of the stream protocol.
func (s *Server) StreamAddress() string {
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(s.streams))
}

// URL is that of AMQP, with the user guest and the default virtual host.
func (s *Server) URL() string { return "amqp://guest:guest@" + s.Address() }

// Ctl runs rabbitmqctl.
func (s *Server) Ctl(ctx context.Context, args ...string) error {
	var out bytes.Buffer
	cmd := s.command(filepath.Join(filepath.Dir(s.path), "rabbitmqctl"), args...)
	cmd.Stdout, cmd.Stderr = &out, &out
	p, err := spawn(cmd)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = p.kill() })
	defer stop()
	<-p.ended
	if !cmd.ProcessState.Success() {
		return fmt.Errorf("rabbitmqctl %s: %v: %s", strings.Join(args, " "), cmd.ProcessState, &out)
	}
	return nil
}

// Sync writes the names of the server's Raft members to disk. RabbitMQ 3.10 does so only
// after a while: if it is killed before, it does not find the coordinator of streams again,
// and no stream has a leader.
func (s *Server) Sync(ctx context.Context) error {
	return s.Ctl(ctx, "eval", "[ok = dets:sync(T) || T <- dets:all()].")
}

// Kill ends the server as a crash does.
func (s *Server) Kill() error {
	err := s.broker.kill()
	s.broker = nil
	return err
}

// Close ends the server and removes its data.
func (s *Server) Close() error {
	err := errors.Join(s.Kill(), s.mapper.kill())
	if s.output != nil {
		err = errors.Join(err, s.output.Close())
	}
	return errors.Join(err, os.RemoveAll(s.dir))
}

// process is a process with a group of its own, so that no signal from the terminal
// reaches it.
type process struct {
	cmd   *exec.Cmd
	ended chan struct{} // closed when the process has ended
}

// spawn starts a process that ends with this one, also if this one is killed.
func spawn(cmd *exec.Cmd) (*process, error) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	endWithParent(cmd.SysProcAttr)
	p := &process{cmd: cmd, ended: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		defer close(p.ended)
		// The kernel ends the process with the thread that started it.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // how it ended does not matter
		}
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

// kill ends the group, and waits for the process. p may be nil.
func (p *process) kill() error {
	if p == nil {
		return nil
	}
	err := syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
	<-p.ended
	if errors.Is(err, syscall.ESRCH) { // it had ended
		return nil
	}
	return err
}
