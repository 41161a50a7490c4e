package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/postgres"
	"github.com/ganglion-es/ganglion/eventstore/postgres/postgrestest"
	"github.com/ganglion-es/ganglion/eventstore/storetest"
)

// disk is a small disk of a server, which a test fills and frees.
type disk struct {
	t   *testing.T
	dir string
}

// mountDisk mounts a small disk. If the user may not mount one, it logs that and
// returns false.
func mountDisk(t *testing.T, server *postgrestest.Server, mib int) (disk, bool) {
	t.Helper()
	d := disk{t, filepath.Join(server.Dir(), "small")}
	if err := os.Mkdir(d.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", d.dir, "tmpfs", 0, fmt.Sprintf("size=%dm,mode=0700", mib)); err != nil {
		t.Logf("NOT TESTED on a small disk: this user may not mount one (%v); run the tests as root", err)
		return d, false
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(d.dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	if err := server.Own(d.dir); err != nil {
		t.Fatal(err)
	}
	return d, true
}

func (d disk) ballast() string { return filepath.Join(d.dir, "ballast") }

// fill writes until no byte is free.
func (d disk) fill() {
	d.t.Helper()
	f, err := os.OpenFile(d.ballast(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		d.t.Fatal(err)
	}
	defer f.Close()
	for _, piece := range [][]byte{make([]byte, 64<<10), make([]byte, 1)} {
		for err == nil {
			_, err = f.Write(piece)
		}
		if !errors.Is(err, syscall.ENOSPC) {
			d.t.Fatal(err)
		}
		err = nil
	}
}

func (d disk) free() {
	d.t.Helper()
	if err := os.Remove(d.ballast()); err != nil {
		d.t.Fatal(err)
	}
}

// large makes an incompressible unit of about 64 KiB.
func large(version eventstore.Version) eventstore.Unit {
	u := unit("large", version, fmt.Sprint("k", version))
	random := rand.New(rand.NewPCG(uint64(version), 1))
	text := make([]byte, 64<<10)
	for i := range text {
		text[i] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"[random.IntN(64)]
	}
	u.Commands[0].Events[0].Data = fmt.Appendf(nil, "%q", text)
	return u
}

// appendUntilRefused appends until the server refuses, and returns the number of
// acknowledged commits and the error.
func appendUntilRefused(t *testing.T, s *postgres.Store, from eventstore.Version) (eventstore.Version, error) {
	t.Helper()
	for v := from; v < from+2000; v++ {
		if _, err := s.Append(t.Context(), large(v)); err != nil {
			return v, err
		}
	}
	t.Fatal("the disk did not fill")
	return 0, nil
}

// fullData checks a store while the server cannot write data, and again after
// free has made room.
func fullData(t *testing.T, s *postgres.Store, acknowledged eventstore.Version, refusal error, free func()) {
	t.Helper()
	ctx := t.Context()
	wantUnavailable(t, "append", refusal, "free space")
	if page, err := s.Read(ctx, 0, 1); err != nil || len(page) != 1 {
		t.Errorf("stored commits cannot be read: %v", err)
	}
	if head, err := s.Head(ctx); err != nil || head != eventstore.Position(acknowledged) {
		t.Errorf("the head is %d, %v; want %d", head, err, acknowledged)
	}
	free()
	worksAgain(t, func() error { _, err := s.Append(ctx, large(acknowledged)); return err })
	if got := len(readAll(t, s)); got != int(acknowledged)+1 {
		t.Errorf("the log holds %d commits, want %d", got, acknowledged+1)
	}
	storetest.Clean(t, s)
}

// TestFaultDataDiskFull keeps the tables on a small disk.
func TestFaultDataDiskFull(t *testing.T) {
	t.Parallel()
	server := startServer(t, postgrestest.Options{})
	d, ok := mountDisk(t, server, 24)
	if !ok || rounds(0, 1) > 0 {
		fileLimit(t) // needs no rights
	}
	if !ok {
		return
	}
	exec(t, server.URL("postgres"), `create tablespace small location '`+d.dir+`'`, `create database small tablespace small`)
	s := openTo(t, postgres.Config{URL: server.URL("small")})
	if _, err := s.Append(t.Context(), large(0)); err != nil {
		t.Fatal(err)
	}
	d.fill()
	acknowledged, refusal := appendUntilRefused(t, s, 1)
	fullData(t, s, acknowledged, refusal, d.free)
}

// fileLimit limits the files of a server to a little more than 4 MiB. The server
// reports the limit as a full disk.
func fileLimit(t *testing.T) {
	t.Helper()
	server := startServer(t, smallSegments())
	s := openTo(t, postgres.Config{URL: server.URL("postgres")})
	if _, err := s.Append(t.Context(), large(0)); err != nil {
		t.Fatal(err)
	}
	limit := func(bytes int64) {
		t.Helper()
		server.LimitFiles(bytes)
		crashAndStart(t, server) // the server cannot shut down cleanly
	}
	limit(4<<20 + 4<<10) // more than a segment of the write-ahead log, and in the middle of a page
	acknowledged, refusal := appendUntilRefused(t, s, 1)
	fullData(t, s, acknowledged, refusal, func() { limit(0) })
}

func smallSegments() postgrestest.Options {
	return postgrestest.Options{SegmentMiB: 1, Settings: map[string]string{"max_wal_size": "4MB", "min_wal_size": "2MB"}}
}

// TestFaultLogDiskFull keeps the write-ahead log on a small disk. The server ends if the
// disk is full, and works again after the disk was freed and the server restarted.
func TestFaultLogDiskFull(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	server := startServer(t, smallSegments())
	url := server.URL("postgres")
	d, ok := mountDisk(t, server, 24)
	if !ok {
		return // mountDisk has logged it; no other method fills only this disk
	}
	if err := server.Stop(); err != nil {
		t.Fatal(err)
	}
	wal := filepath.Join(server.Dir(), "data", "pg_wal")
	if err := errors.Join(os.CopyFS(filepath.Join(d.dir, "wal"), os.DirFS(wal)), os.RemoveAll(wal),
		os.Symlink(filepath.Join(d.dir, "wal"), wal), server.Own(d.dir), server.Own(filepath.Dir(wal))); err != nil {
		t.Fatal(err)
	}
	if err := server.Start(ctx); err != nil {
		t.Fatal(err)
	}
	var list announcements
	s := openTo(t, postgres.Config{URL: url, Committed: list.committed, Deadline: time.Minute, Patience: time.Second})
	if _, err := s.Append(ctx, large(0)); err != nil {
		t.Fatal(err)
	}
	// The slot keeps all files. Without it, a fast checkpointer reuses them.
	exec(t, url, `select pg_create_physical_replication_slot('keep', true)`)
	d.fill()
	acknowledged, refusal := appendUntilRefused(t, s, 1)
	if !errors.Is(refusal, eventstore.ErrUnknown) && !errors.Is(refusal, eventstore.ErrUnavailable) {
		t.Errorf("append: %v, want unknown or unavailable", refusal)
	}
	safeText(t, "append", refusal)
	d.free()
	crashAndStart(t, server)
	worksAgain(t, func() error {
		_, err := s.Append(context.WithoutCancel(ctx), large(acknowledged))
		return sentAgain(err)
	})
	s = openTo(t, postgres.Config{URL: url}) // with more patience
	if got := len(readAll(t, s)); got != int(acknowledged)+1 {
		t.Errorf("the log holds %d commits, want %d", got, acknowledged+1)
	}
	storetest.Clean(t, s)
}
