package access

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"golang.org/x/time/rate"
)

// repeatAfter is the least time between two log lines about the same fault of
// the application.
const repeatAfter = time.Minute

// Guard calls the application's code. It turns a panic into an error for the
// caller, and logs it at level ERROR with its stack, at most once a minute for
// each place. A panic never ends the process and never grants access.
type Guard struct {
	log    *slog.Logger
	places sync.Map // of *rate.Sometimes, by place
}

// Call calls f, which calls code at a place.
func (g *Guard) Call(place string, f func()) error { return g.call(func() string { return place }, f) }

// call calls f. name returns the place of the code, for the log.
func (g *Guard) call(name func() string, f func()) (err error) {
	defer func() {
		if v := recover(); v != nil {
			place := name()
			err = fmt.Errorf("%s panicked", place)
			g.Sometimes(place, func() {
				g.log.Error("application code panicked", "in", place, "panic", v, "stack", string(debug.Stack()))
			})
		}
	}()
	f()
	return nil
}

// Sometimes calls f, unless it did so for the same place in the last minute.
// The number of places is bounded by that of the application's definitions.
func (g *Guard) Sometimes(place string, f func()) {
	s, ok := g.places.Load(place)
	if !ok {
		s, _ = g.places.LoadOrStore(place, &rate.Sometimes{First: 1, Interval: repeatAfter})
	}
	s.(*rate.Sometimes).Do(f)
}

// guardedCatalog is a Catalog whose rules deny access if they panic.
type guardedCatalog struct {
	Catalog
	guard *Guard
}

func (c guardedCatalog) CheckCommand(typ, command string, data json.RawMessage) (field string, err error) {
	if failed := c.guard.call(func() string { return "the check of command " + command + " of " + typ }, func() {
		field, err = c.Catalog.CheckCommand(typ, command, data)
	}); failed != nil {
		return "", failed
	}
	return field, err
}

func (c guardedCatalog) MaySend(client string, claims map[string]any, typ, id, command string) (may bool) {
	err := c.guard.call(func() string { return "the access rule for command " + command + " of " + typ }, func() {
		may = c.Catalog.MaySend(client, claims, typ, id, command)
	})
	return may && err == nil
}

func (c guardedCatalog) MayRead(client string, claims map[string]any, typ, id string) (may bool) {
	err := c.guard.call(func() string { return "the access rule for reading " + typ }, func() {
		may = c.Catalog.MayRead(client, claims, typ, id)
	})
	return may && err == nil
}

func (c guardedCatalog) MayReadAll(client string, claims map[string]any, typ string) (may bool) {
	err := c.guard.call(func() string { return "the access rule for reading every " + typ }, func() {
		may = c.Catalog.MayReadAll(client, claims, typ)
	})
	return may && err == nil
}

func (c guardedCatalog) Show(typ, event string, form int, data json.RawMessage) (shown json.RawMessage, err error) {
	if failed := c.guard.call(func() string { return fmt.Sprintf("the reading of event %s of %s", event, typ) }, func() {
		shown, err = c.Catalog.Show(typ, event, form, data)
	}); failed != nil {
		return nil, failed
	}
	return shown, err
}

// guardedAuth is an Authenticator that turns panics into [ErrAuthUnavailable], and
// refuses reserved client ids.
type guardedAuth struct {
	auth  Authenticator
	guard *Guard
}

func (a guardedAuth) Token(ctx context.Context, token string) (id Identity, err error) {
	if failed := a.guard.call(func() string { return "Config.Auth.Token" }, func() {
		id, err = a.auth.Token(ctx, token)
		probe(err)
	}); failed != nil {
		return Identity{}, ErrAuthUnavailable
	}
	return unreserved(id, err)
}

func (a guardedAuth) Trust(ctx context.Context, client string) (id Identity, err error) {
	if failed := a.guard.call(func() string { return "Config.Auth.Trust" }, func() {
		id, err = a.auth.Trust(ctx, client)
		probe(err)
	}); failed != nil {
		return Identity{}, ErrAuthUnavailable
	}
	return unreserved(id, err)
}

// unreserved refuses an identity whose client id is reserved, whatever the
// Authenticator says.
func unreserved(id Identity, err error) (Identity, error) {
	if err == nil && strings.HasPrefix(id.Client, eventstore.Reserved) {
		return Identity{}, eventstore.ValidateClient(id.Client)
	}
	return id, err
}

// probe calls the methods of err that are called later, so that an error whose
// methods panic (for instance a nil pointer in an interface) does so under the
// guard.
func probe(err error) {
	if err != nil {
		_, _ = errors.Is(err, ErrAuthUnavailable), err.Error()
	}
}

// guardedRevoker is a guardedAuth that revokes. An identity for which it panics
// counts as revoked.
type guardedRevoker struct {
	guardedAuth
	revoker Revoker
}

func (a guardedRevoker) Revoked(id Identity) (err error) {
	if failed := a.guard.call(func() string { return "Config.Auth.Revoked" }, func() { err = a.revoker.Revoked(id) }); failed != nil {
		return failed
	}
	return err
}

func (a guardedRevoker) Revocations() (more <-chan struct{}) {
	_ = a.guard.call(func() string { return "Config.Auth.Revocations" }, func() { more = a.revoker.Revocations() })
	return more // after a panic nil, which is never ready
}

// Catalog returns a Catalog that calls c under the guard.
func (g *Guard) Catalog(c Catalog) Catalog { return guardedCatalog{c, g} }

// Auth returns an Authenticator that calls a under the guard. It is a [Revoker]
// if a is.
func (g *Guard) Auth(a Authenticator) Authenticator {
	guarded := guardedAuth{a, g}
	if r, ok := a.(Revoker); ok {
		return guardedRevoker{guarded, r}
	}
	return guarded
}

// NewGuard returns a Guard that logs to log.
func NewGuard(log *slog.Logger) *Guard { return &Guard{log: log} }
