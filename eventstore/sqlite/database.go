package sqlite

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"sync"

	"github.com/google/uuid"
	"github.com/pressly/goose/v3"
	_ "modernc.org/sqlite" // the database/sql driver "sqlite"

	"github.com/ganglion-es/ganglion/eventstore"
)

// schemaVersion is the newest migration.
const schemaVersion = 5

//go:embed migrations/*.sql
var migrations embed.FS

var errLocked = errors.New("locked")

// database is an open directory. The Stores of a process share it, unless it is
// read-only.
type database struct {
	dir      string
	readOnly bool
	lock     *os.File // nil if readOnly
	write    *sql.DB  // one connection
	read     *sql.DB  // several connections that cannot write
	users    int      // Stores; guarded by opened

	mu      sync.Mutex // held during a transaction
	conn    *sql.Conn  // the connection of write
	appends statements
}

// opened holds the directories that this process has open for writing.
var opened = struct {
	sync.Mutex
	byDir map[string]*database
}{byDir: make(map[string]*database)}

// acquire opens a directory. If it is already open, it adds a user.
func acquire(ctx context.Context, dir string) (*database, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("sqlite: create the data directory: %w", err)
	}
	dir, err := resolve(dir)
	if err != nil {
		return nil, err
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

// resolve returns the canonical path of a directory.
func resolve(dir string) (string, error) {
	dir, err := filepath.Abs(dir)
	if err == nil {
		dir, err = filepath.EvalSymlinks(dir)
	}
	if err != nil {
		return "", fmt.Errorf("sqlite: find the data directory: %w", err)
	}
	return dir, nil
}

// Exists returns an error if a directory has no log.
func Exists(dir string) error {
	if _, err := os.Stat(filepath.Join(dir, file)); err != nil {
		return fmt.Errorf("sqlite: no log exists in %s: %w", dir, err)
	}
	return nil
}

// openReadOnly opens a directory for one Store that only reads. It needs no lock:
// in WAL mode, readers neither block the writer nor see part of a transaction,
// and a connection that cannot write leaves checkpoints to the writer.
func openReadOnly(ctx context.Context, dir string) (*database, error) {
	dir, err := resolve(dir)
	if err != nil {
		return nil, err
	}
	if err := Exists(dir); err != nil {
		return nil, err
	}
	d := &database{dir: dir, readOnly: true}
	if err := d.openToRead(ctx); err != nil {
		return nil, errors.Join(err, d.close())
	}
	return d, nil
}

func (d *database) openToRead(ctx context.Context) (err error) {
	// SQLite rejects every statement that writes.
	if d.write, err = d.connect(1, "busy_timeout(10000)"); err != nil {
		return err
	}
	var at int64
	if err := d.write.QueryRowContext(ctx, `select max(version_id) from schema_version`).Scan(&at); err != nil {
		return fmt.Errorf("sqlite: read the schema's version in %s: %w", d.dir, err)
	}
	switch {
	case at > schemaVersion:
		err = d.checkNewer(ctx, at)
	case at < schemaVersion:
		err = fmt.Errorf("sqlite: the log in %s has schema %d, this program reads %d: start a node of this program, which migrates the log", d.dir, at, schemaVersion)
	}
	if err != nil {
		return err
	}
	if d.conn, err = d.write.Conn(ctx); err != nil {
		return fmt.Errorf("sqlite: connect: %w", err)
	}
	if err := d.appends.prepare(ctx, d.conn); err != nil {
		return err
	}
	d.read, err = d.connect(4, readerPragmas...)
	return err
}

// release removes a user, and closes the directory after the last one.
func (d *database) release() error {
	if d.readOnly {
		return d.close()
	}
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

	// The cache is 64 MiB for the writer and 16 MiB for each reader. A checkpoint
	// every 4,000 pages (16 MiB) keeps the write-ahead log short without writing
	// hot index pages too often.
	if d.write, err = d.connect(1, "journal_mode(WAL)", "synchronous(FULL)", "busy_timeout(10000)",
		"wal_autocheckpoint(4000)", "cache_size(-65536)", "trusted_schema(0)"); err != nil {
		return err
	}
	if err := d.migrate(ctx); err != nil {
		return err
	}
	if d.conn, err = d.write.Conn(ctx); err != nil {
		return fmt.Errorf("sqlite: connect: %w", err)
	}
	if _, err := d.conn.ExecContext(ctx, `insert into log (one, id) values (1, ?) on conflict do nothing`, uuid.NewString()); err != nil {
		return fmt.Errorf("sqlite: name the log: %w", err)
	}
	if err := d.appends.prepare(ctx, d.conn); err != nil {
		return err
	}
	d.read, err = d.connect(4, readerPragmas...)
	return err
}

// file is the name of the database in its directory.
const file = "log.db"

var readerPragmas = []string{"busy_timeout(10000)", "query_only(1)", "cache_size(-16384)", "trusted_schema(0)"}

func (d *database) connect(conns int, pragmas ...string) (*sql.DB, error) {
	query := url.Values{"_pragma": pragmas}
	if d.readOnly {
		query.Set("mode", "ro")
	}
	u := url.URL{
		Scheme:   "file",
		Path:     filepath.ToSlash(filepath.Join(d.dir, file)),
		RawQuery: query.Encode(),
	}
	db, err := sql.Open("sqlite", u.String())
	if err != nil {
		return nil, fmt.Errorf("sqlite: open: %w", err)
	}
	db.SetMaxOpenConns(conns)
	db.SetMaxIdleConns(conns)
	return db, nil
}

// migrate brings the schema up to date. The caller holds the lock file and opened,
// so no other migration runs.
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
		return d.checkNewer(ctx, at)
	}
	if _, err := p.Up(ctx); err != nil {
		return fmt.Errorf("sqlite: migrate the schema in %s: %w", d.dir, err)
	}
	return nil
}

// checkNewer returns an error if this program cannot use a newer schema.
func (d *database) checkNewer(ctx context.Context, at int64) error {
	var oldest int64
	err := d.write.QueryRowContext(ctx, `select oldest from compatible where schema = ?`, at).Scan(&oldest)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return fmt.Errorf("sqlite: read the schema's version in %s: %w", d.dir, err)
	}
	if err != nil || oldest > schemaVersion {
		return fmt.Errorf("%w: the log in %s has schema %d, this program knows %d: use a newer program",
			eventstore.ErrSchemaTooNew, d.dir, at, schemaVersion)
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
