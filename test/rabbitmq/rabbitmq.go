// Package rabbitmq runs a RabbitMQ for tests: Debian's package rabbitmq-server, as
// a node with its own name, ports and data, beside any other on the machine.
package rabbitmq

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/ganglion-es/ganglion/eventstore/postgres/postgrestest/ports"
)

// Options configure a [Server].
type Options struct {
	Plugins  []string // such as rabbitmq_web_stomp
	Settings []string // lines of rabbitmq.conf, among them the listeners
}

// Server is a running RabbitMQ. Its user guest has the password guest.
type Server struct {
	dir          string
	epmd, broker *process
	output       output
}

// program is where Debian's package installs the server. The program of the same
// name on the path changes to another user, who cannot write to the data.
const program = "/usr/lib/rabbitmq/lib/*/sbin/rabbitmq-server"

// readyWithin bounds the start, which takes about 7 s.
const readyWithin = 2 * time.Minute

// Start starts a server and waits until its plugins accept connections. Close it.
func Start(ctx context.Context, o Options) (*Server, error) {
	paths, err := filepath.Glob(program)
	if err != nil || len(paths) == 0 {
		return nil, errors.Join(fmt.Errorf("%s does not exist: install it with scripts/install.sh rabbitmq-server", program), err)
	}
	dir, err := os.MkdirTemp("", "ganglion-rabbitmq")
	if err != nil {
		return nil, err
	}
	s := &Server{dir: dir, output: output{ready: make(chan struct{})}}
	if err = s.start(paths[len(paths)-1], o); err == nil {
		err = s.await(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("RabbitMQ: %w: %s", errors.Join(err, s.Close()), &s.output)
	}
	return s, nil
}

func (s *Server) start(path string, o Options) error {
	port, err := ports.Reserve(2)
	if err != nil {
		return err
	}
	names, peers := strconv.Itoa(port), strconv.Itoa(port+1)
	plugins, config := filepath.Join(s.dir, "enabled_plugins"), filepath.Join(s.dir, "rabbitmq.conf")
	if err := errors.Join(
		os.WriteFile(plugins, []byte("["+strings.Join(o.Plugins, ",")+"].\n"), 0o600),
		os.WriteFile(config, []byte(strings.Join(o.Settings, "\n")+"\n"), 0o600),
	); err != nil {
		return err
	}
	// Erlang's port mapper is started here, since the server would leave it behind.
	if s.epmd, err = spawn(exec.Command("epmd", "-address", "127.0.0.1", "-port", names)); err != nil {
		return err
	}
	broker := exec.Command(path) // a script, with the server in its group
	broker.Env = append(os.Environ(),
		"HOME="+s.dir, "ERL_EPMD_PORT="+names, "ERL_EPMD_ADDRESS=127.0.0.1", "RABBITMQ_NODENAME=ganglion-test@localhost",
		"RABBITMQ_DIST_PORT="+peers, "RABBITMQ_MNESIA_BASE="+s.dir, "RABBITMQ_LOG_BASE="+s.dir, "RABBITMQ_LOGS=-",
		"RABBITMQ_ENABLED_PLUGINS_FILE="+plugins, "RABBITMQ_CONFIG_FILE="+config, "RABBITMQ_CONF_ENV_FILE=/dev/null",
	)
	broker.Stdout, broker.Stderr = &s.output, &s.output
	s.broker, err = spawn(broker)
	return err
}

// await waits until the server prints that it has started.
func (s *Server) await(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	select {
	case <-s.output.ready:
		return nil
	case <-s.broker.ended:
		return errors.New("it ended before it was ready")
	case <-ctx.Done():
		return fmt.Errorf("it is not ready: %w", ctx.Err())
	}
}

// Close ends the server and removes its data.
func (s *Server) Close() error {
	return errors.Join(s.broker.kill(), s.epmd.kill(), os.RemoveAll(s.dir))
}

// process is a process with a group of its own.
type process struct {
	cmd   *exec.Cmd
	ended chan struct{} // closed when the process has ended
}

// spawn starts a process that ends with this one, also if this one is killed.
func spawn(cmd *exec.Cmd) (*process, error) {
	// At SIGTERM, the server's script ends the server.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	p := &process{cmd: cmd, ended: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		defer close(p.ended)
		// The kernel sends Pdeathsig when the thread that started the process ends.
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

// output keeps what the server prints.
type output struct {
	ready chan struct{} // closed when the server has started

	mu      sync.Mutex
	text    []byte
	isReady bool
}

// Write implements io.Writer.
func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.text = append(o.text, p...)
	if !o.isReady && bytes.Contains(o.text, []byte("Server startup complete")) {
		o.isReady = true
		close(o.ready)
	}
	return len(p), nil
}

// String returns the output so far.
func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return string(o.text)
}
