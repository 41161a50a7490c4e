package postgrestest

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
	"time"

	"github.com/ganglion-es/ganglion/eventstore/postgres/postgrestest/ports"
)

// Pooler is a pgbouncer in front of a Server.
type Pooler struct {
	addr string
	dir  string
	cmd  *exec.Cmd
	done chan struct{} // closed when the process has ended
}

// StartPooler starts a pgbouncer with settings for its section [pgbouncer], and waits
// until it accepts connections. Close ends it.
func StartPooler(ctx context.Context, s *Server, settings map[string]string) (*Pooler, error) {
	bin, err := exec.LookPath("pgbouncer")
	if err != nil {
		if _, err = os.Stat("/usr/sbin/pgbouncer"); err != nil {
			return nil, errors.New("no pgbouncer found for the tests: apt-get install -y --no-install-recommends pgbouncer")
		}
		bin = "/usr/sbin/pgbouncer"
	}
	port, err := ports.Reserve(1)
	if err != nil {
		return nil, err
	}
	p := &Pooler{addr: "127.0.0.1:" + strconv.Itoa(port), done: make(chan struct{})}
	if p.dir, err = os.MkdirTemp(s.dir, "pooler"); err != nil {
		return nil, err
	}
	var file strings.Builder
	fmt.Fprintf(&file, "[databases]\n* = host=%s port=%d user=postgres\n[pgbouncer]\n", s.path("socket"), s.port)
	fmt.Fprintf(&file, "listen_addr = 127.0.0.1\nlisten_port = %d\nunix_socket_dir =\nauth_type = any\n", port)
	for k, v := range settings {
		fmt.Fprintf(&file, "%s = %s\n", k, v)
	}
	config := filepath.Join(p.dir, "pgbouncer.ini")
	if err := os.WriteFile(config, []byte(file.String()), 0o644); err != nil {
		return nil, err
	}
	if err := s.own(p.dir); err != nil {
		return nil, err
	}
	p.cmd = exec.Command(bin, "-q", config) //nolint:noctx // Close ends it
	p.cmd.Dir = p.dir
	s.asServer(p.cmd)
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		_ = p.cmd.Wait()
		close(p.done)
	}()
	for deadline := time.Now().Add(startMost); ; {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", p.addr)
		if err == nil {
			return p, conn.Close()
		}
		select {
		case <-p.done:
			return nil, errors.New("pgbouncer ended: see its output")
		case <-ctx.Done():
			return nil, errors.Join(ctx.Err(), p.Close())
		case <-time.After(10 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			return nil, errors.Join(fmt.Errorf("pgbouncer does not answer: %w", err), p.Close())
		}
	}
}

// Addr is the address of the pooler.
func (p *Pooler) Addr() string { return p.addr }

// Close ends the pooler.
func (p *Pooler) Close() error {
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	<-p.done
	return nil
}

// SkipTransactions sets the next transaction id of the stopped server.
func (s *Server) SkipTransactions(ctx context.Context, next uint32) error {
	out, err := s.command(ctx, "pg_resetwal", "-D", s.path("data"), "-x", strconv.FormatUint(uint64(next), 10)).CombinedOutput()
	if err != nil {
		return fmt.Errorf("pg_resetwal: %w\n%s", err, out)
	}
	return nil
}
