package node

import (
	"context"
	"errors"
	"log/slog"

	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/eventstore"
)

const (
	// formPages and formCommits bound the search for stored forms that the program
	// would misread: 64 pages of 256 commits, which takes a fraction of a second. A
	// log of up to 16,000 events is read whole.
	formPages   = 64
	formCommits = 256
)

// checkForms compares stored events with the forms that the catalog declares. It
// logs each differing form once, as an error if the program would misread it. It
// reads pages spread evenly over the log, including the first and the newest. Hosts
// and gateways compare each event that they read, so they find the forms that this
// check misses.
func checkForms(ctx context.Context, store eventstore.Store, catalog *aggregate.Catalog, log *slog.Logger) error {
	head, err := store.Head(ctx)
	if err != nil {
		return err
	}
	known := map[formKey]bool{}
	page := func(after eventstore.Position) error {
		commits, err := store.Read(ctx, after, formCommits)
		for i := range commits {
			reportForms(catalog, &commits[i], known, log)
		}
		return err
	}
	for after := eventstore.Position(0); after < head; after += head/formPages + 1 {
		if err := page(after); err != nil {
			return err
		}
	}
	return page(head - min(head, formCommits))
}

// formKey identifies a form that differs from the declared one.
type formKey struct {
	typ, event string
	form       int
	misread    bool
}

func reportForms(catalog *aggregate.Catalog, c *eventstore.Commit, known map[formKey]bool, log *slog.Logger) {
	for i, e := range c.Events {
		wrong, ok := errors.AsType[*aggregate.FormError](catalog.CheckStored(c.Stream.Type, e.Type, e.Form, e.Data))
		if !ok {
			continue
		}
		key := formKey{wrong.Type, wrong.Event, wrong.Form, wrong.Misread()}
		if known[key] {
			continue
		}
		known[key] = true
		level, message := slog.LevelWarn, "the log has events with members that this program ignores"
		if wrong.Misread() {
			level, message = slog.LevelError, "the log has events that this program would misread: their aggregates cannot be used here"
		}
		log.Log(context.Background(), level, message, "type", wrong.Type, "event", wrong.Event, "form", wrong.Form,
			"unknown", wrong.Unknown, "missing", wrong.Missing,
			"stream", c.Stream, "position", c.First()+eventstore.Position(i), "err", wrong)
	}
}

// reportStoredForms runs checkForms. It returns no error, since watchLog reports a
// log that cannot be read.
func (n *node) reportStoredForms(ctx context.Context) error {
	if err := checkForms(ctx, n.store, n.cfg.Catalog, n.log); err != nil && ctx.Err() == nil {
		n.log.Warn("the log's stored forms were not checked", "err", err)
	}
	return nil
}
