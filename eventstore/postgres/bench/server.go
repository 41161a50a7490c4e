package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ganglion-es/ganglion/eventstore/postgres/postgrestest"
)

// settings are those of a small production server. Checkpoints stay out of the
// way: they would strike one rival and spare the next.
var settings = map[string]string{
	"shared_buffers": "1GB", "max_wal_size": "8GB", "wal_buffers": "64MB", "checkpoint_timeout": "30min",
}

// server is the durable PostgreSQL of a run, and what it uses.
type server struct {
	*postgrestest.Server
	url        string
	admin      *pgx.Conn
	postmaster int // process id
}

func startServer(ctx context.Context) (*server, error) {
	s, err := postgrestest.StartServer(ctx, postgrestest.Options{Durable: true, Settings: settings})
	if err != nil {
		return nil, err
	}
	b := &server{Server: s, url: s.URL("postgres")}
	if err := b.connect(ctx); err != nil {
		s.Close()
		return nil, err
	}
	return b, nil
}

func (s *server) connect(ctx context.Context) (err error) {
	if s.admin, err = pgx.Connect(ctx, s.url); err != nil {
		return err
	}
	stat, ok := readStat(int(s.admin.PgConn().PID()))
	if ok {
		s.postmaster = stat.parent
	}
	return nil
}

// conditions describes the machine and the server in a line or two.
func (s *server) conditions(ctx context.Context) (string, error) {
	var version, fsync, commit string
	if err := s.admin.QueryRow(ctx, `select current_setting('server_version'), current_setting('fsync'), current_setting('synchronous_commit')`).
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

// usage is what the server has used so far.
type usage struct {
	cpu time.Duration
	wal int64
}

func (s *server) usage(ctx context.Context) (usage, error) {
	u := usage{cpu: s.cpu()}
	err := s.admin.QueryRow(ctx, `select pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint`).Scan(&u.wal)
	return u, err
}

// size returns the bytes that a table takes on the disk, with its indexes.
func (s *server) size(ctx context.Context, table string) (n int64, err error) {
	err = s.admin.QueryRow(ctx, `select pg_total_relation_size($1::regclass)`, table).Scan(&n)
	return n, err
}

// measured adds to a sample what the server used while it was taken.
func (s *server) measured(ctx context.Context, take func() (sample, error)) (sample, error) {
	before, err := s.usage(ctx)
	if err != nil {
		return sample{}, err
	}
	taken, err := take()
	if err != nil {
		return taken, err
	}
	after, err := s.usage(ctx)
	taken.cpu, taken.wal = after.cpu-before.cpu, after.wal-before.wal
	return taken, err
}

// cpu returns the processor time of all the server's processes, living and
// dead; 0 where the system has no /proc.
func (s *server) cpu() time.Duration {
	if s.postmaster == 0 {
		return 0
	}
	root, _ := readStat(s.postmaster)
	ticks := root.own + root.children
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, file := range stats {
		pid, _ := strconv.Atoi(strings.Split(file, "/")[2])
		if p, ok := readStat(pid); ok && p.parent == s.postmaster {
			ticks += p.own
		}
	}
	const tick = time.Second / 100 // USER_HZ is 100 on every platform that Go runs on
	return time.Duration(ticks) * tick
}

type stat struct {
	parent        int
	own, children int // processor time in ticks
}

// readStat reads /proc/<pid>/stat; see proc_pid_stat(5).
func readStat(pid int) (stat, bool) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return stat{}, false
	}
	// The program's name is in parentheses and may hold spaces.
	f := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	if len(f) < 15 {
		return stat{}, false
	}
	number := func(i int) int {
		n, _ := strconv.Atoi(string(f[i]))
		return n
	}
	return stat{parent: number(1), own: number(11) + number(12), children: number(13) + number(14)}, true
}

func (s *server) close() error {
	_ = s.admin.Close(context.Background())
	return s.Close()
}
