package postgrestest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"

	"github.com/jackc/pgx/v5"
)

// StartStandby starts a copy of the running server as its standby. The standby
// connects to the address at, which is Addr or that of a proxy. name is its name
// in synchronous_standby_names. Close removes it.
func (s *Server) StartStandby(ctx context.Context, name, at string) (*Server, error) {
	host, port, err := net.SplitHostPort(at)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "pgt")
	if err != nil {
		return nil, err
	}
	standby := &Server{opts: Options{Durable: s.opts.Durable, Settings: map[string]string{
		"primary_conninfo": fmt.Sprintf("host=%s port=%s user=postgres sslmode=disable gssencmode=disable application_name=%s", host, port, name),
		// The time between attempts to reconnect; the server's default is 5 s.
		"wal_retrieve_retry_interval": "100ms",
	}}, bin: s.bin, dir: dir}
	for k, v := range s.opts.Settings {
		standby.opts.Settings[k] = v
	}
	if err := standby.copyFrom(ctx, s); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	if err := standby.Start(ctx); err != nil {
		return nil, errors.Join(err, standby.Close())
	}
	return standby, nil
}

func (s *Server) copyFrom(ctx context.Context, primary *Server) error {
	if err := os.Mkdir(s.path("socket"), 0o700); err != nil {
		return err
	}
	if err := s.own(s.dir); err != nil {
		return err
	}
	out, err := s.command(ctx, "pg_basebackup", "-D", s.path("data"), "-d", primary.URL("postgres"), "-X", "stream",
		"-c", "fast", "--no-sync").CombinedOutput()
	if err != nil {
		return fmt.Errorf("pg_basebackup: %w\n%s", err, out)
	}
	if err := os.WriteFile(s.path("data/standby.signal"), nil, 0o600); err != nil {
		return err
	}
	return s.own(s.path("data"))
}

// Promote promotes the standby, and waits until it is the primary.
func (s *Server) Promote(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, s.URL("postgres"))
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	var done bool
	if err := conn.QueryRow(ctx, `select pg_promote(true, 60)`).Scan(&done); err != nil {
		return err
	}
	if !done {
		return errors.New("the standby was not promoted within a minute")
	}
	return nil
}

// Dir is the directory of all files of the server. Close removes it.
func (s *Server) Dir() string { return s.dir }

// Own gives a directory and all its files to the user who runs the server.
func (s *Server) Own(dir string) error { return s.own(dir) }

// LimitFiles bounds the size of each file that the server writes after its next
// start, rounded down to a multiple of 512 bytes. 0 means no limit.
func (s *Server) LimitFiles(bytes int64) { s.fileBlocks = bytes / 512 }
