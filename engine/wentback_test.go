package engine

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/postgres"
	"github.com/ganglion-es/ganglion/eventstore/postgres/postgrestest"
	"github.com/ganglion-es/ganglion/proto/command"
)

// The log loses events that a snapshot includes, and an operator accepts the loss. No get
// may show the lost events, even after other commits have taken their positions and
// versions.
func TestGetsShowNoLostEventAfterAcceptLoss(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	url := postgrestest.URL(t)
	openStore := func() *postgres.Store {
		t.Helper()
		store, err := postgres.Open(ctx, postgres.Config{URL: url})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { store.Close() })
		return store
	}
	weak := func(h *Host, want int, version eventstore.Version, who string) {
		t.Helper()
		if value, v := get(t, h, command.Get{Stream: box("a")}); value != want || v != version {
			t.Errorf("%s: a get shows %d at version %d, want %d at %d", who, value, v, want, version)
		}
	}
	store := openStore()
	h := start(t, Config{Store: store})
	granted(t, do(t, h, cmd("a", "kept", "repeat", m{"times": 12})), 12)
	for i := range 10 {
		granted(t, do(t, h, cmd("a", fmt.Sprint("lost", i), "put", m{"by": 1000})), eventstore.Version(13+i))
	}
	weak(h, 10012, 22, "before")
	def, _ := h.catalog.Type("box")
	lost := waitSnapshot(t, store, box("a"), def.Fingerprint(), 22)

	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	for _, sql := range []string{
		`alter table commit disable trigger user`, `grant all on commit to current_user`,
		`delete from commit where pos > 12`, `alter table commit enable trigger user`,
	} {
		if _, err := conn.Exec(ctx, sql); err != nil {
			t.Fatal(err)
		}
	}
	if err := store.Check(ctx); !errors.Is(err, eventstore.ErrWentBack) {
		t.Fatalf("check: %v, want a log that went back", err)
	}
	if _, err := openStore().AcceptLoss(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Resume(ctx); err != nil { // a node resumes the store and clears the host
		t.Fatal(err)
	}
	if err := store.Check(ctx); err != nil {
		t.Fatal(err)
	}
	h.Clear()
	weak(h, 12, 12, "the node that saw the lost events")
	weak(start(t, Config{Store: openStore()}), 12, 12, "a new node")

	// The log grows to the snapshot's version with other events, and a
	// delayed writer stores the old snapshot.
	granted(t, do(t, h, cmd("a", "other", "repeat", m{"times": 10})), 22)
	if err := store.SaveSnapshot(ctx, *lost); err != nil {
		t.Fatal(err)
	}
	weak(h, 22, 22, "the node that stored the other events")
	weak(start(t, Config{Store: openStore()}), 22, 22, "a node that finds the late snapshot")
}
