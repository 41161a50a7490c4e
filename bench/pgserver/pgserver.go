// Package pgserver starts the durable PostgreSQL of a benchmark, and measures what
// it uses.
package pgserver

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"runtime"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ganglion-es/ganglion/bench/procstat"
	"github.com/ganglion-es/ganglion/eventstore/postgres/postgrestest"
)

// settings are those of a small production server. A run has no checkpoint: it
// would disturb one rival and spare the next.
var settings = map[string]string{
	"shared_buffers": "1GB", "max_wal_size": "8GB", "wal_buffers": "64MB", "checkpoint_timeout": "30min",
}

// Server is the durable PostgreSQL of a run. One goroutine at a time may use it.
type Server struct {
	*postgrestest.Server
	ConnURL    string    // of the database postgres
	Admin      *pgx.Conn // for the goroutine that measures
	postmaster int       // process id
}

// Start starts a server. Close it.
func Start(ctx context.Context) (*Server, error) {
	s, err := postgrestest.StartServer(ctx, postgrestest.Options{Durable: true, Settings: settings})
	if err != nil {
		return nil, err
	}
	b := &Server{Server: s, ConnURL: s.URL("postgres")}
	if err := b.connect(ctx); err != nil {
		s.Close()
		return nil, err
	}
	return b, nil
}

func (s *Server) connect(ctx context.Context) (err error) {
	if s.Admin, err = pgx.Connect(ctx, s.ConnURL); err != nil {
		return err
	}
	if backend, ok := procstat.Read(int(s.Admin.PgConn().PID())); ok {
		s.postmaster = backend.Parent
	}
	return nil
}

// Conditions describes the machine and the server.
func (s *Server) Conditions(ctx context.Context) (string, error) {
	var version, fsync, commit string
	if err := s.Admin.QueryRow(ctx, `select current_setting('server_version'), current_setting('fsync'), current_setting('synchronous_commit')`).
		Scan(&version, &fsync, &commit); err != nil {
		return "", err
	}
	load, _ := os.ReadFile("/proc/loadavg")
	others := ""
	if f := bytes.Fields(load); len(f) > 0 {
		others = fmt.Sprintf(", load %s at the start", f[0])
	}
	return fmt.Sprintf("PostgreSQL %s (fsync %s, synchronous_commit %s, shared_buffers %s), %s, %s/%s, %d processors%s",
		version, fsync, commit, settings["shared_buffers"], runtime.Version(), runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), others), nil
}

// Usage is the processor time and the bytes of write-ahead log of a server.
type Usage struct {
	CPU time.Duration
	WAL int64
}

// Usage returns what the server has used so far.
func (s *Server) Usage(ctx context.Context) (Usage, error) {
	u := Usage{CPU: s.CPU()}
	err := s.Admin.QueryRow(ctx, `select pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint`).Scan(&u.WAL)
	return u, err
}

// Size returns the size of a table on disk in bytes, including its indexes.
func (s *Server) Size(ctx context.Context, table string) (n int64, err error) {
	err = s.Admin.QueryRow(ctx, `select pg_total_relation_size($1::regclass)`, table).Scan(&n)
	return n, err
}

// CPU returns the processor time of all processes of the server, including
// ended ones; 0 if the system has no /proc.
func (s *Server) CPU() time.Duration {
	root, ok := procstat.Read(s.postmaster)
	if !ok {
		return 0
	}
	sum := root.Own + root.Ended
	for _, backend := range procstat.Children(s.postmaster) {
		sum += backend.Own
	}
	return sum
}

// Close ends the server and removes its data.
func (s *Server) Close() error {
	_ = s.Admin.Close(context.Background())
	return s.Server.Close()
}
