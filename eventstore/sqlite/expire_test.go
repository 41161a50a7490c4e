package sqlite

import (
	"fmt"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
)

func TestOutcomesExpire(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	s, err := Open(ctx, Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	u := eventstore.Unit{Stream: eventstore.StreamID{Type: "counter", ID: "a"}}
	for i := range 700 { // more than one step
		u.Commands = append(u.Commands, eventstore.Command{Key: fmt.Sprint(i), At: time.Now(), Keep: true})
	}
	if _, err := s.Append(ctx, u); err != nil {
		t.Fatal(err)
	}
	if _, err := s.db.exec(ctx, `update outcome set stored = ? where key <> '0'`, time.Now().Add(-25*time.Hour).UnixMicro()); err != nil {
		t.Fatal(err)
	}
	if _, err := s.expire(ctx); err != nil { // concurrently with the housekeeping of Open
		t.Fatal(err)
	}
	var left int
	if err := s.db.read.QueryRowContext(ctx, `select count(*) from outcome`).Scan(&left); err != nil || left != 1 {
		t.Errorf("%d outcomes are left, %v; want 1", left, err)
	}
}
