package sqlite_test

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"

	"github.com/ganglion-es/ganglion/eventstore"
)

// TestFullDiskIsUnavailableAndLosesNothing fills a small disk, and then enlarges it.
func TestFullDiskIsUnavailableAndLosesNothing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	mount := func(flags uintptr, mib int) error {
		return syscall.Mount("tmpfs", dir, "tmpfs", flags, fmt.Sprintf("size=%dm", mib))
	}
	if err := mount(0, 6); err != nil {
		t.Logf("NOT TESTED on a small disk: this user may not mount one (%v); run the tests as root", err)
		return
	}
	defer func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	}()
	s := open(t, dir, nil)
	defer s.Close()
	unit := func(i int) eventstore.Unit {
		return eventstore.Unit{
			Stream:   eventstore.StreamID{Type: "counter", ID: "a"},
			Expected: eventstore.Version(i),
			Commands: []eventstore.Command{{Key: fmt.Sprint("k", i), Events: []eventstore.Event{
				{Type: "added", Data: []byte(`"` + strings.Repeat("x", 200_000) + `"`)},
			}}},
		}
	}
	stored := 0
	for ; stored < 100; stored++ {
		if _, err := s.Append(t.Context(), unit(stored)); err != nil {
			if !errors.Is(err, eventstore.ErrUnavailable) || errors.Is(err, eventstore.ErrUnknown) || !strings.Contains(err.Error(), "disk is full") {
				t.Errorf("a full disk: got %v, want unavailable", err)
			}
			break
		}
	}
	wantCommits := func(want int) {
		t.Helper()
		page, err := s.Read(t.Context(), 0, 1000)
		if err != nil || len(page) != want {
			t.Errorf("the log holds %d commits, %v; want %d", len(page), err, want)
		}
	}
	wantCommits(stored)
	if err := mount(syscall.MS_REMOUNT, 20); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Append(t.Context(), unit(stored)); err != nil {
		t.Errorf("after the disk was enlarged: %v", err)
	}
	wantCommits(stored + 1)
}
