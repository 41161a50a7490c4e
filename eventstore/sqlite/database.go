package sqlite

import (
	"context"
	"crypto/rand"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"sync"

	"github.com/pressly/goose/v3"
	_ "modernc.org/sqlite" // the database/sql driver "sqlite"

	"github.com/ganglion-es/ganglion/eventstore"
)

// schemaVersion is the newest migration below.
const schemaVersion = 1

//go:embed migrations/*.sql
var migrations embed.FS

var errLocked = errors.New("locked")

// database is one open directory, shared by the Stores of this process.
type database struct {
	dir   string
	lock  *os.File
	write *sql.DB // one connection
	read  *sql.DB // several, which can't write
	users int     // guarded by opened

	mu      sync.Mutex // held while a transaction is under way
	conn    *sql.Conn  // the connection of write
	appends statements
}

// opened holds the directories that this process has open.
var opened = struct {
	sync.Mutex
	byDir map[string]*database
}{byDir: make(map[string]*database)}

// acquire opens a directory, or joins those who have it open.
func acquire(ctx context.Context, dir string) (*database, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("sqlite: make the data directory: %w", err)
	}
	dir, err := filepath.Abs(dir)
	if err == nil {
		dir, err = filepath.EvalSymlinks(dir)
	}
	if err != nil {
		return nil, fmt.Errorf("sqlite: find the data directory: %w", err)
	}
	opened.Lock()
	defer opened.Unlock()
	if d, ok := opened.byDir[dir]; ok {
		d.users++
		return d, nil
	}
	d := &database{dir: dir, users: 1}
	if err := d.open(ctx); err != nil {
		return nil, errors.Join(err, d.close())
	}
	opened.byDir[dir] = d
	return d, nil
}

// release closes the directory when nobody is left who uses it.
func (d *database) release() error {
	opened.Lock()
	defer opened.Unlock()
	if d.users--; d.users > 0 {
		return nil
	}
	delete(opened.byDir, d.dir)
	return d.close()
}

func (d *database) open(ctx context.Context) error {
	lock, pid, err := lockFile(filepath.Join(d.dir, "lock"))
	if errors.Is(err, errLocked) {
		if pid != "" {
			pid = " (process " + pid + ")"
		}
		return fmt.Errorf("sqlite: the directory %s is in use by another process%s: stop it, or choose another directory", d.dir, pid)
	}
	if err != nil {
		return fmt.Errorf("sqlite: lock the directory: %w", err)
	}
	d.lock = lock

	// The cache is 64 MiB for the writer and 16 for each reader. A checkpoint
	// every 4,000 pages (16 MiB) keeps the write-ahead log short without
	// writing hot index pages too often.
	if d.write, err = connect(d.dir, 1, "journal_mode(WAL)", "synchronous(FULL)", "busy_timeout(10000)",
		"wal_autocheckpoint(4000)", "cache_size(-65536)", "trusted_schema(0)"); err != nil {
		return err
	}
	if err := d.migrate(ctx); err != nil {
		return err
	}
	if d.conn, err = d.write.Conn(ctx); err != nil {
		return fmt.Errorf("sqlite: connect: %w", err)
	}
	if _, err := d.conn.ExecContext(ctx, `insert into log (one, id) values (1, ?) on conflict do nothing`, newLogID()); err != nil {
		return fmt.Errorf("sqlite: name the log: %w", err)
	}
	if err := d.appends.prepare(ctx, d.conn); err != nil {
		return err
	}
	d.read, err = connect(d.dir, 4, "busy_timeout(10000)", "query_only(1)", "cache_size(-16384)", "trusted_schema(0)")
	return err
}

func connect(dir string, conns int, pragmas ...string) (*sql.DB, error) {
	u := url.URL{
		Scheme:   "file",
		Path:     filepath.ToSlash(filepath.Join(dir, "log.db")),
		RawQuery: url.Values{"_pragma": pragmas}.Encode(),
	}
	db, err := sql.Open("sqlite", u.String())
	if err != nil {
		return nil, fmt.Errorf("sqlite: open: %w", err)
	}
	db.SetMaxOpenConns(conns)
	db.SetMaxIdleConns(conns)
	return db, nil
}

// migrate brings the schema up to date. The caller holds the lock file and
// the process's own lock, so nobody else does the same.
func (d *database) migrate(ctx context.Context) error {
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return err
	}
	p, err := goose.NewProvider(goose.DialectSQLite3, d.write, files,
		goose.WithTableName("schema_version"), goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return fmt.Errorf("sqlite: migrate: %w", err)
	}
	at, err := p.GetDBVersion(ctx)
	if err != nil {
		return fmt.Errorf("sqlite: read the schema's version in %s: %w", d.dir, err)
	}
	if at > schemaVersion {
		var oldest int64
		err := d.write.QueryRowContext(ctx, `select oldest from compatible where schema = ?`, at).Scan(&oldest)
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return fmt.Errorf("sqlite: read the schema's version in %s: %w", d.dir, err)
		}
		if err != nil || oldest > schemaVersion {
			return fmt.Errorf("%w: the log in %s has schema %d, this program knows %d: use a newer one",
				eventstore.ErrSchemaTooNew, d.dir, at, schemaVersion)
		}
		return nil
	}
	if _, err := p.Up(ctx); err != nil {
		return fmt.Errorf("sqlite: migrate the schema in %s: %w", d.dir, err)
	}
	return nil
}

func (d *database) close() error {
	var errs []error
	if d.read != nil {
		errs = append(errs, d.read.Close())
	}
	if d.conn != nil {
		d.appends.close()
		errs = append(errs, d.conn.Close())
	}
	if d.write != nil {
		errs = append(errs, d.write.Close())
	}
	if d.lock != nil {
		errs = append(errs, unlockFile(d.lock))
	}
	return errors.Join(errs...)
}

// newLogID returns a random uuid (version 4).
func newLogID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[0:4], b[4:6], b[6:8], b[8:10], b[10:])
}
