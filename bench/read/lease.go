package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ganglion-es/ganglion/eventstore"
)

// Bounds of the lease by hand, as in common recipes. A waiting worker looks at it
// each second.
const (
	leaseFor   = 10 * time.Second
	leaseRenew = 3 * time.Second
	leaseLook  = time.Second
)

// runLease runs a worker that folds the log into rows while it has the lease. It
// prints a line when it acquires it. A worker that loses its lease stops.
func runLease(ctx context.Context, url, name string) error {
	store, err := openStore(ctx, url, func([]eventstore.Commit) {})
	if err != nil {
		return err
	}
	defer store.Close()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer conn.Close(context.Background())
	acquire := func() (bool, error) {
		done, err := conn.Exec(ctx, `update lease set owner = $1, until = now() + $2::interval where owner = $1 or until < now()`, name, leaseFor.String())
		return done.RowsAffected() == 1, err
	}
	for {
		if mine, err := acquire(); err != nil {
			return err
		} else if mine {
			break
		}
		time.Sleep(leaseLook)
	}
	fmt.Println("acquired")
	var at eventstore.Position
	if err := conn.QueryRow(ctx, `select pos from leased_checkpoint`).Scan(&at); err != nil {
		return err
	}
	loop := &bare{store: store, conn: conn, table: "leased"}
	for renewed := time.Now(); ; {
		if time.Since(renewed) > leaseRenew {
			if mine, err := acquire(); err != nil || !mine {
				return errors.Join(err, fmt.Errorf("%s has lost its lease", name))
			}
			renewed = time.Now()
		}
		page, err := loop.step(ctx, at)
		if err != nil {
			return err
		}
		at = page
		time.Sleep(5 * time.Millisecond)
	}
}

// observer looks at the rows of another process. rows and head ask for the position
// of the rows and of the log.
type observer struct {
	conn       *pgx.Conn
	rows, head string
}

func observe(ctx context.Context, url, rows, head string) (*observer, error) {
	conn, err := pgx.Connect(ctx, url)
	return &observer{conn, rows, head}, err
}

func (o *observer) close() { _ = o.conn.Close(context.Background()) }

// measure waits until rows follow the events, kills their writer, and returns the
// time until they show an event that was committed afterwards.
func (o *observer) measure(ctx context.Context, p *process) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	position := func() (pos int64, err error) {
		err = o.conn.QueryRow(ctx, o.rows).Scan(&pos)
		return pos, err
	}
	until := func(beyond int64) (err error) {
		for pos := int64(0); pos <= beyond && err == nil; time.Sleep(time.Millisecond) {
			pos, err = position()
		}
		return err
	}
	begun, err := position()
	if err == nil {
		err = until(begun + takeoverRate) // about a second
	}
	if err != nil {
		return 0, fmt.Errorf("before the kill: %w", err)
	}
	start := time.Now()
	p.kill()
	_ = p.cmd.Wait()
	// The head of the log; what the killed process had sent is no newer.
	var head int64
	if err := o.conn.QueryRow(ctx, o.head).Scan(&head); err != nil {
		return 0, err
	}
	if err := until(head); err != nil {
		return 0, fmt.Errorf("after the kill: %w", err)
	}
	return time.Since(start), nil
}

// leaseTakesOver kills the worker that has the lease, and starts another that waits
// for it.
func (b *bench) leaseTakesOver(ctx context.Context, kills int) (took []time.Duration, err error) {
	loop := &bare{conn: b.server.Admin, table: "leased"}
	if err := loop.create(ctx); err != nil {
		return nil, err
	}
	head, err := b.store.Head(ctx)
	if err != nil {
		return nil, err
	}
	if _, err := b.server.Admin.Exec(ctx, fmt.Sprintf(`create table lease (owner text not null, until timestamptz not null); insert into lease values ('', now());
		update leased_checkpoint set pos = %d`, head)); err != nil {
		return nil, err
	}
	observer, err := observe(ctx, b.server.ConnURL, `select pos from leased_checkpoint`, `select coalesce(max(pos), 0) from ours.commit`)
	if err != nil {
		return nil, err
	}
	defer observer.close()
	appending, stop := context.WithCancel(ctx)
	const run = 2_000_000
	sending := every(appending, time.Second/takeoverRate, func(n int) error {
		_, err := b.store.Append(appending, unitOf(run, n, 0)) // a lot of its own: appends have no order
		return err
	})
	defer func() { stop(); err = errors.Join(err, sending()) }()
	var f fleet
	defer f.stop()
	holder, _, err := f.start("acquired", "lease", b.server.ConnURL, "w0")
	for i := 1; err == nil && i <= kills; i++ {
		var next *process
		if next, _, err = f.start("", "lease", b.server.ConnURL, fmt.Sprint("w", i)); err != nil {
			break
		}
		var d time.Duration
		if d, err = observer.measure(ctx, holder); err != nil {
			break
		}
		took = append(took, d)
		holder = next
	}
	return took, err
}
