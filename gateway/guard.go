package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// repeatAfter is the least time between two log lines about the same fault of
// the application.
const repeatAfter = time.Minute

// guard calls the application's code. A panic there becomes an ERROR line with
// its stack, at most one a minute for each place, and an error for the caller:
// it never ends the process, and it never opens access. It is safe for
// concurrent use.
type guard struct {
	log    *slog.Logger
	places sync.Map // of *rate.Sometimes, by the place
}

// call calls f. name names the place of the code, for people.
func (g *guard) call(name func() string, f func()) (err error) {
	defer func() {
		if v := recover(); v != nil {
			place := name()
			err = fmt.Errorf("%s panicked", place)
			g.sometimes(place, func() {
				g.log.Error("application code panicked", "in", place, "panic", v, "stack", string(debug.Stack()))
			})
		}
	}()
	f()
	return nil
}

// sometimes calls f, unless it did so for the same place a short while ago.
// The places are few: they are names of the application's definitions.
func (g *guard) sometimes(place string, f func()) {
	s, ok := g.places.Load(place)
	if !ok {
		s, _ = g.places.LoadOrStore(place, &rate.Sometimes{First: 1, Interval: repeatAfter})
	}
	s.(*rate.Sometimes).Do(f)
}

// guardedCatalog is the application's catalog. A rule that panics says no.
type guardedCatalog struct {
	Catalog
	guard *guard
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

// guardedAuth is the program's Authenticator. One that panics can't tell who a
// client is.
type guardedAuth struct {
	auth  Authenticator
	guard *guard
}

func (a guardedAuth) Token(ctx context.Context, token string) (id Identity, err error) {
	if failed := a.guard.call(func() string { return "Config.Auth.Token" }, func() {
		id, err = a.auth.Token(ctx, token)
		probe(err)
	}); failed != nil {
		return Identity{}, ErrAuthUnavailable
	}
	return id, err
}

func (a guardedAuth) Trust(ctx context.Context, client string) (id Identity, err error) {
	if failed := a.guard.call(func() string { return "Config.Auth.Trust" }, func() {
		id, err = a.auth.Trust(ctx, client)
		probe(err)
	}); failed != nil {
		return Identity{}, ErrAuthUnavailable
	}
	return id, err
}

// probe calls what is called of an error later, so that an error that panics
// (a nil pointer in an interface, for instance) does so under the guard.
func probe(err error) {
	if err != nil {
		_, _ = errors.Is(err, ErrAuthUnavailable), err.Error()
	}
}

// guardedRevoker is a guardedAuth that revokes. One that panics has revoked.
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
	return more // nil after a panic: it says nothing any more
}

// guardApplication puts a guard around all code of the application that the
// gateway calls.
func (c *Config) guardApplication(g *guard) {
	c.Catalog = guardedCatalog{c.Catalog, g}
	auth := guardedAuth{c.Auth, g}
	if r, ok := c.Auth.(Revoker); ok {
		c.Auth = guardedRevoker{auth, r}
	} else {
		c.Auth = auth
	}
}
