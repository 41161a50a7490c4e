package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/postgres"
)

// eventsPerLot is the number of events of a lot, and so of each row.
const eventsPerLot = 10

// title is the text of a lot: with it, a row has about 250 bytes.
var title = strings.Repeat("An oak table of 1780. ", 5)

func lotID(n int) string { return fmt.Sprintf("lot-%07d", n) }

// nthEvent returns the nth event of a lot, from 0, as a type and its data.
func nthEvent(lot, n int) (typ string, data any) {
	if n == 0 {
		return "listed", listed{Title: title, Reserve: int64(lot), ClosesAt: time.Date(2027, 1, 1, 0, lot%1440, 0, 0, time.UTC)}
	}
	return "bid", bid{Bidder: fmt.Sprintf("client-%04d", (lot+n)%10_000), Amount: int64(lot + n)}
}

// command returns the nth event of a lot as a command.
func command(lot, n int) eventstore.Command {
	typ, value := nthEvent(lot, n)
	data, err := json.Marshal(value)
	if err != nil {
		panic(err) // the types above can be encoded
	}
	return eventstore.Command{
		Key: fmt.Sprintf("%d-%d", lot, n), At: time.Now(), Meta: eventstore.Meta{Client: "ada"},
		Events: []eventstore.Event{{Type: typ, Data: data}},
	}
}

// fill appends the events of lots, in the order in which many clients would: one
// event of each lot, then the next of each. So no two events of a lot are near
// each other.
func fill(ctx context.Context, store *postgres.Store, lots int) error {
	const writers = 512
	for n := range eventsPerLot {
		var writing errgroup.Group
		for w := range writers {
			writing.Go(func() error {
				for lot := w; lot < lots; lot += writers {
					u := eventstore.Unit{
						Stream:   eventstore.StreamID{Type: "lot", ID: lotID(lot)},
						Expected: eventstore.Version(n), Commands: []eventstore.Command{command(lot, n)},
					}
					if _, err := store.Append(ctx, u); err != nil {
						return err
					}
				}
				return nil
			})
		}
		if err := writing.Wait(); err != nil {
			return err
		}
	}
	return nil
}

var errWrongRows = errors.New("the rows differ from the events")

// checkRows compares a table's number of rows, and the sums of their prices and
// bids, with those of the lots' events.
func checkRows(ctx context.Context, conn *pgx.Conn, sql string, lots int) error {
	var rows int
	var prices, bids int64
	if err := conn.QueryRow(ctx, sql).Scan(&rows, &prices, &bids); err != nil {
		return err
	}
	want := int64(lots)*(eventsPerLot-1) + int64(lots)*int64(lots-1)/2
	if rows != lots || prices != want || bids != int64(lots)*(eventsPerLot-1) {
		return fmt.Errorf("%w: %d rows, prices %d, bids %d; want %d rows, prices %d", errWrongRows, rows, prices, bids, lots, want)
	}
	return nil
}
