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

// disk is a small one of the server's own, which a test fills and frees.
type disk struct {
	t   *testing.T
	dir string
}

// mountDisk mounts a disk of so many MiB. It reports false, and says why,
// where that is not allowed.
func mountDisk(t *testing.T, server *postgrestest.Server, mib int) (disk, bool) {
	t.Helper()
	d := disk{t, filepath.Join(server.Dir(), "small")}
	if err := os.Mkdir(d.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", d.dir, "tmpfs", 0, fmt.Sprintf("size=%dm,mode=0700", mib)); err != nil {
		t.Logf("NOT TESTED ON A REAL SMALL DISK: this user may not mount one (%v); run the tests as root for that", err)
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

// fill leaves no free byte.
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

// large makes a unit of about 64 KiB that does not compress.
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

// appendUntilRefused appends until the server refuses, and returns how many
// commits were acknowledged and the refusal.
func appendUntilRefused(t *testing.T, s *postgres.Store, from eventstore.Version) (eventstore.Version, error) {
	t.Helper()
	for v := from; v < from+2000; v++ {
		if _, err := s.Append(t.Context(), large(v)); err != nil {
			return v, err
		}
	}
	t.Fatal("the disk was never full")
	return 0, nil
}

// fullData checks what a store does while the server can't write data, and
// afterwards.
func fullData(t *testing.T, s *postgres.Store, acknowledged eventstore.Version, refusal error, free func()) {
	t.Helper()
	ctx := t.Context()
	unavailable(t, "append", refusal, "free space")
	if page, err := s.Read(ctx, 0, 1); err != nil || len(page) != 1 {
		t.Errorf("what is there can't be read: %v", err)
	}
	if head, err := s.Head(ctx); err != nil || head != eventstore.Position(acknowledged) {
		t.Errorf("the head is %d, %v; want %d", head, err, acknowledged)
	}
	free()
	goesOn(t, func() error { _, err := s.Append(ctx, large(acknowledged)); return err })
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
		fileLimit(t) // what is possible without rights
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

// fileLimit lets a server write no file larger than 4 MiB and a bit, which
// looks like a full disk to it.
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
		crashAndStart(t, server) // in order, it can't even end
	}
	limit(4<<20 + 4<<10) // above a segment of the write-ahead log; within a page
	acknowledged, refusal := appendUntilRefused(t, s, 1)
	fullData(t, s, acknowledged, refusal, func() { limit(0) })
}

func smallSegments() postgrestest.Options {
	return postgrestest.Options{SegmentMiB: 1, Settings: map[string]string{"max_wal_size": "4MB", "min_wal_size": "2MB"}}
}

// TestFaultLogDiskFull keeps the write-ahead log on a small disk. Without room
// for it the server gives up, and comes back when there is room again and
// somebody starts it.
func TestFaultLogDiskFull(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	server := startServer(t, smallSegments())
	url := server.URL("postgres")
	d, ok := mountDisk(t, server, 24)
	if !ok {
		return // said loudly; there is nothing else that fills this disk alone
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
	var list told
	s := openTo(t, postgres.Config{URL: url, Committed: list.committed, Deadline: time.Minute, Patience: time.Second})
	if _, err := s.Append(ctx, large(0)); err != nil {
		t.Fatal(err)
	}
	// A checkpointer that keeps up with the appends would use files again.
	exec(t, url, `select pg_create_physical_replication_slot('keep', true)`)
	d.fill()
	acknowledged, refusal := appendUntilRefused(t, s, 1)
	if !errors.Is(refusal, eventstore.ErrUnknown) && !errors.Is(refusal, eventstore.ErrUnavailable) {
		t.Errorf("append: %v, want unknown or unavailable", refusal)
	}
	sentence(t, "append", refusal)
	d.free()
	crashAndStart(t, server)
	goesOn(t, func() error {
		_, err := s.Append(context.WithoutCancel(ctx), large(acknowledged))
		return sentAgain(err)
	})
	s = openTo(t, postgres.Config{URL: url}) // with more patience
	if got := len(readAll(t, s)); got != int(acknowledged)+1 {
		t.Errorf("the log holds %d commits, want %d", got, acknowledged+1)
	}
	storetest.Clean(t, s)
}
