package postgrestest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ganglion-es/ganglion/eventstore/postgres/postgrestest/ports"
)

// ErrNotFound reports that the machine has no server binaries.
var ErrNotFound = errors.New(`no PostgreSQL found for the tests. Do one of:
  apt-get install -y --no-install-recommends postgresql     (Debian, Ubuntu)
  brew install postgresql@17                                (macOS)
  PG_BIN=/directory/of/initdb/and/postgres go test ./…
  DATABASE_URL=postgres://user:password@host:5432/database?sslmode=disable go test ./…`)

// Options configure a Server.
type Options struct {
	// Durable makes the server wait for the disk. Tests that crash it and
	// benchmarks need that.
	Durable bool
	// Settings are additional settings of postgresql.conf.
	Settings map[string]string
	// SegmentMiB is the size of a file of the write-ahead log, a power of 2. 0
	// means the server's default, 16. With 1, a small disk fills sooner.
	SegmentMiB int
}

// Server is a temporary cluster. It listens on a Unix socket and, for proxies, on
// a free port of 127.0.0.1. Only one goroutine at a time may call its methods.
type Server struct {
	opts Options
	bin  string
	dir  string // with data, socket and log
	port int
	run  *process // nil while stopped

	fileBlocks int64 // see LimitFiles
}

type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when the server has ended
	err  error
}

// StartServer makes a cluster and starts it. Close removes it.
func StartServer(ctx context.Context, opts Options) (*Server, error) {
	bin, err := binaries()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "pgt") // short: a socket's path has at most 107 bytes
	if err != nil {
		return nil, err
	}
	s := &Server{opts: opts, bin: bin, dir: dir}
	if err := s.init(ctx); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	if err := s.Start(ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (s *Server) init(ctx context.Context) error {
	if err := os.Mkdir(s.path("socket"), 0o700); err != nil {
		return err
	}
	if err := s.own(s.dir); err != nil {
		return err
	}
	args := []string{"-D", s.path("data"), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync", "--no-instructions"}
	if s.opts.SegmentMiB > 0 {
		args = append(args, "--wal-segsize="+strconv.Itoa(s.opts.SegmentMiB))
	}
	out, err := s.command(ctx, "initdb", args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("initdb: %w\n%s", err, out)
	}
	return nil
}

func (s *Server) path(name string) string { return filepath.Join(s.dir, name) }

// command prepares a program of the server. It runs as a user that the program
// accepts.
func (s *Server) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(s.bin, name), args...)
	cmd.Dir = s.dir
	cmd.Env = append(os.Environ(), "LC_ALL=C", "PGOPTIONS=")
	s.asServer(cmd)
	return cmd
}

// URL returns the URL of a database, over the Unix socket.
func (s *Server) URL(database string) string {
	return "postgres://postgres@/" + url.PathEscape(database) + "?host=" + url.QueryEscape(s.path("socket")) + "&port=" + strconv.Itoa(s.port)
}

// Addr is the TCP address of the server. The address and the URLs stay the same
// after a restart.
func (s *Server) Addr() string { return "127.0.0.1:" + strconv.Itoa(s.port) }

// URLAt returns the URL of a database at another address, such as that of a proxy.
func (s *Server) URLAt(addr, database string) string {
	return "postgres://postgres@" + addr + "/" + url.PathEscape(database) + "?sslmode=disable"
}

// Start starts the server, for the first time or after Stop, Crash or Replace,
// and waits until it answers, which after a crash includes the recovery.
func (s *Server) Start(ctx context.Context) error {
	if s.run != nil {
		return errors.New("the server is already running")
	}
	if s.port == 0 {
		port, err := ports.Reserve(1)
		if err != nil {
			return err
		}
		s.port = port
	}
	settings := map[string]string{
		"listen_addresses":        "127.0.0.1",
		"port":                    strconv.Itoa(s.port),
		"unix_socket_directories": s.path("socket"),
		"max_connections":         "500",
		"shared_buffers":          "64MB",
		"max_wal_size":            "1GB",
		"log_min_messages":        "warning",
		"autovacuum_naptime":      "10s",
	}
	if !s.opts.Durable {
		settings["fsync"], settings["full_page_writes"] = "off", "off"
	}
	for k, v := range s.opts.Settings {
		settings[k] = v
	}
	args := []string{"-D", s.path("data")}
	for k, v := range settings {
		args = append(args, "-c", k+"="+v)
	}
	if err := s.launch(args); err != nil {
		return err
	}
	deadline := time.Now().Add(startMost)
	for {
		conn, err := pgx.Connect(ctx, s.URL("postgres"))
		if err == nil {
			return conn.Close(ctx)
		}
		select {
		case <-s.run.done:
			err := s.run.err
			s.run = nil
			return fmt.Errorf("the server ended: %w\n%s", err, s.log())
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the server does not answer: %w\n%s", err, s.log())
		}
	}
}

// startMost bounds the time until a started server answers. Busy machines need
// minutes.
const startMost = 5 * time.Minute

func (s *Server) launch(args []string) error {
	log, err := os.OpenFile(s.path("log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	cmd := s.command(context.Background(), "postgres", args...)
	if s.fileBlocks > 0 {
		// The shell counts in blocks of 512 bytes.
		cmd.Args = append([]string{"sh", "-c", `ulimit -S -f "$0" && exec "$@"`, strconv.FormatInt(s.fileBlocks, 10), cmd.Path}, args...)
		cmd.Path = "/bin/sh"
	}
	cmd.Stdout, cmd.Stderr = log, log
	run := &process{cmd: cmd, done: make(chan struct{})}
	started := make(chan error)
	go func() {
		// The server must end when the tests are killed. Linux sends the signal
		// when the thread that started the server ends, so this goroutine keeps
		// its thread. It unlocks the thread at the end, because a goroutine that
		// ends locked ends its thread, which may have started other programs.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer log.Close()
		err := cmd.Start()
		started <- err
		if err == nil {
			run.err = cmd.Wait()
		}
		close(run.done)
	}()
	if err := <-started; err != nil {
		return err
	}
	s.run = run
	return nil
}

// PID returns the id of the running server's main process.
func (s *Server) PID() int { return s.run.cmd.Process.Pid }

func (s *Server) log() string {
	b, _ := os.ReadFile(s.path("log"))
	return string(b[max(0, len(b)-4000):])
}

// Stop shuts the server down cleanly: the server rolls back open transactions,
// closes connections and writes all data to disk.
func (s *Server) Stop() error { return s.end(os.Interrupt) }

// Crash stops the server immediately. Start then recovers from the write-ahead log.
func (s *Server) Crash() error { return s.end(quit) }

func (s *Server) end(signal os.Signal) error {
	if s.run == nil {
		return nil
	}
	if err := s.run.cmd.Process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-s.run.done:
	case <-time.After(20 * time.Second):
		_ = s.run.cmd.Process.Kill()
		<-s.run.done
	}
	s.run = nil
	return nil
}

// Copy copies the data of the stopped server to a new directory, for Replace.
func (s *Server) Copy(dir string) error {
	if s.run != nil {
		return errors.New("stop the server before you copy its data")
	}
	return os.CopyFS(dir, os.DirFS(s.path("data")))
}

// Replace restores a copy of the data to the stopped server.
func (s *Server) Replace(dir string) error {
	if s.run != nil {
		return errors.New("stop the server before you replace its data")
	}
	if err := os.RemoveAll(s.path("data")); err != nil {
		return err
	}
	if err := os.CopyFS(s.path("data"), os.DirFS(dir)); err != nil {
		return err
	}
	// The server refuses a data directory that other users may read.
	if err := os.Chmod(s.path("data"), 0o700); err != nil {
		return err
	}
	return s.own(s.dir)
}

// Close stops the server and removes its files.
func (s *Server) Close() error { return errors.Join(s.Crash(), os.RemoveAll(s.dir)) }

// binaries finds the directory of initdb and postgres: PG_BIN, or the newest of the
// usual directories, or the path.
func binaries() (string, error) {
	complete := func(dir string) bool {
		for _, name := range []string{"initdb", "postgres"} {
			if st, err := os.Stat(filepath.Join(dir, name)); err != nil || st.Mode()&0o111 == 0 {
				return false
			}
		}
		return true
	}
	if dir := os.Getenv("PG_BIN"); dir != "" {
		if !complete(dir) {
			return "", fmt.Errorf("PG_BIN=%s has no initdb and postgres", dir)
		}
		return dir, nil
	}
	var found []string
	for _, pattern := range []string{
		"/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/usr/local/pgsql/bin",
		"/opt/homebrew/opt/postgresql@*/bin", "/usr/local/opt/postgresql@*/bin",
	} {
		dirs, _ := filepath.Glob(pattern) // the patterns are well-formed
		found = append(found, dirs...)
	}
	slices.SortStableFunc(found, func(a, b string) int { return cmp.Compare(major(b), major(a)) })
	if initdb, err := exec.LookPath("initdb"); err == nil {
		if real, err := filepath.EvalSymlinks(initdb); err == nil {
			found = append(found, filepath.Dir(real))
		}
	}
	for _, dir := range found {
		if complete(dir) {
			return dir, nil
		}
	}
	return "", ErrNotFound
}

// major returns the version in a directory such as /usr/lib/postgresql/17/bin.
func major(dir string) int {
	name := filepath.Base(filepath.Dir(dir))
	n, _ := strconv.Atoi(name[strings.LastIndexAny(name, "@-")+1:])
	return n
}
