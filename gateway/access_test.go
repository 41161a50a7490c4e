package gateway_test

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ganglion-es/ganglion/gateway"
	"github.com/ganglion-es/ganglion/proto/command"
	"github.com/ganglion-es/ganglion/proto/frame"
)

// badges authenticates clients by badges that were handed out, and takes
// clients back.
type badges struct {
	known map[string]gateway.Identity // by token

	mu      sync.Mutex
	revoked []string // client ids and token ids
	more    chan struct{}
	upon    func() // called once a token was found good
}

func newBadges(known map[string]gateway.Identity) *badges {
	return &badges{known: known, more: make(chan struct{}), upon: func() {}}
}

func (b *badges) Token(_ context.Context, token string) (gateway.Identity, error) {
	id, ok := b.known[token]
	if !ok || b.Revoked(id) != nil {
		return gateway.Identity{}, errors.New("no such badge")
	}
	b.mu.Lock()
	upon := b.upon
	b.mu.Unlock()
	upon()
	return id, nil
}

func (*badges) Trust(context.Context, string) (gateway.Identity, error) {
	return gateway.Identity{}, errors.New("show a badge")
}

func (b *badges) Revoked(id gateway.Identity) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	token, _ := id.Claims["jti"].(string)
	if slices.Contains(b.revoked, id.Client) || token != "" && slices.Contains(b.revoked, token) {
		return errors.New("taken back")
	}
	return nil
}

func (b *badges) Revocations() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.more
}

func (b *badges) revoke(id string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.revoked = append(b.revoked, id)
	close(b.more)
	b.more = make(chan struct{})
}

// rooms is a catalog whose streams may be read by those whose badge says so.
type rooms struct{ catalog }

func (rooms) MayRead(_ string, claims map[string]any, _, id string) bool {
	open, _ := claims["rooms"].([]string)
	return slices.Contains(open, id)
}

func (rooms) MayReadAll(_ string, claims map[string]any, _ string) bool {
	open, _ := claims["rooms"].([]string)
	return slices.Contains(open, "*")
}

func badgeFor(rooms ...string) gateway.Identity {
	return gateway.Identity{Client: "ada", Claims: map[string]any{"rooms": rooms}}
}

// protocol: gateway unsubscribed, error forbidden
func TestWithdrawnAccessEndsItsSubscriptionsOnly(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	auth := newBadges(map[string]gateway.Identity{"all": badgeFor("a", "b", "*"), "b": badgeFor("b"), "none": badgeFor()})
	n := w.node(func(c *gateway.Config) { c.Auth, c.Catalog = auth, rooms{} })
	c := n.dial()
	c.send(`{"op":"hello","id":"h","token":"all","subscriptions":[{"id":"sa","stream":"counter/a"},{"id":"sb","stream":"counter/b"},{"id":"sc","category":"counter"}]}`)
	want[frame.Welcome](c)
	live := map[string]bool{}
	for len(live) < 3 {
		if f, ok := c.read().(frame.Live); ok {
			live[f.Sub] = true
		}
	}
	w.add("counter/a", 2)
	at := map[string]frame.Event{}
	for range 4 {
		e := want[frame.Event](c)
		at[e.Sub] = e
	}

	c.send(`{"op":"auth","id":"1","token":"b"}`)
	ended := map[string]frame.Unsubscribed{}
	for range 2 {
		f := want[frame.Unsubscribed](c)
		ended[f.Sub] = f
	}
	if f := want[frame.Result](c); f.ID != "1" { // all is decided before the answer
		t.Errorf("got %s", f.Append(nil))
	}
	for _, sub := range []string{"sa", "sc"} {
		if f := ended[sub]; f.ID != "" || f.Code != command.Forbidden || f.Message == "" || f.Cursor != position(at[sub]) {
			t.Errorf("%s: got %s, want the cursor %s", sub, f.Append(nil), position(at[sub]))
		}
	}
	w.add("counter/a", 3)
	w.add("counter/b", 1)
	c.wantEvents("sb", 1) // and nothing of the others
	c.sendf(`{"op":"subscribe","id":"sa","stream":"counter/a","cursor":%q}`, ended["sa"].Cursor)
	c.wantFault("sa", command.Forbidden)
	c.send(`{"op":"subscribe","id":"sc","category":"counter"}`)
	if f := c.wantFault("sc", command.Forbidden); f.Message != "ada may not read every counter: set Access.ReadAll of counter to a rule that allows it "+
		"(Read by a rule of one's own opens no category)" {
		t.Errorf("got %s", f.Append(nil))
	}

	c.send(`{"op":"auth","id":"2","token":"all"}`)
	want[frame.Result](c)
	c.sendf(`{"op":"subscribe","id":"sa","stream":"counter/a","cursor":%q}`, ended["sa"].Cursor)
	want[frame.Subscribed](c)
	c.wantEvents("sa", 3, 4, 5)
	want[frame.Live](c)
}

func position(e frame.Event) string { return strconv.FormatUint(uint64(e.Position), 10) }

// slowly answers gets when it is told to.
type slowly struct {
	gateway.Router
	asked, answer chan struct{}
}

func (s slowly) Get(ctx context.Context, g command.Get) (command.State, error) {
	s.asked <- struct{}{}
	<-s.answer
	return s.Router.Get(ctx, g)
}

// protocol: client auth, error forbidden
func TestWithdrawnAccessAnswersASubscriptionThatHasYetToBegin(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	auth := newBadges(map[string]gateway.Identity{"all": badgeFor("a", "b"), "b": badgeFor("b")})
	router := slowly{w.router, make(chan struct{}), make(chan struct{})}
	n := w.node(func(c *gateway.Config) {
		c.Auth, c.Catalog, c.Router, c.Limits.OpenRequests = auth, rooms{}, router, 2
	})
	c := n.dial()
	c.send(`{"op":"hello","id":"h","token":"all"}`)
	want[frame.Welcome](c)
	c.send(`{"op":"subscribe","id":"s","stream":"counter/a","state":true}`)
	<-router.asked
	c.send(`{"op":"auth","id":"1","token":"b"}`)
	c.wantFault("s", command.Forbidden)
	want[frame.Result](c)
	close(router.answer)
	go func() {
		for range router.asked {
		}
	}()
	t.Cleanup(func() { close(router.asked) })
	for range 5 { // its place among the open requests is free again, and its id too
		c.send(`{"op":"subscribe","id":"s","stream":"counter/b","state":true}`)
		want[frame.Subscribed](c)
		want[frame.State](c)
		want[frame.Live](c)
		c.send(`{"op":"unsubscribe","id":"u","sub":"s"}`)
		want[frame.Unsubscribed](c)
	}
}

// hours is a catalog whose streams may be read while open is true: its rules
// look at more than the token.
type hours struct {
	catalog
	open *atomic.Bool
}

func (h hours) MayRead(string, map[string]any, string, string) bool { return h.open.Load() }

func TestHeartbeatEndsSubscriptionsThatRulesNoLongerAllow(t *testing.T) {
	t.Parallel()
	var open atomic.Bool
	open.Store(true)
	bubbleOver(t, func(c *gateway.Config) { c.Catalog = hours{open: &open} }, func(t *testing.T, g *gateway.Gateway, transport *http.Transport) {
		e, err := openEvents(transport, "http://gateway/v1/streams/counter/a/events", "ada")
		if err != nil {
			t.Fatal(err)
		}
		defer e.close()
		e.wantEvent(t, "live", "")
		c, _, err := dialWith(t, "http://gateway", &http.Client{Transport: transport})
		if err != nil {
			t.Fatal(err)
		}
		c.send(`{"op":"hello","id":"h","client":"ada","subscriptions":[{"id":"s","stream":"counter/a"}]}`)
		for {
			if _, ok := c.eventually().(frame.Live); ok {
				break
			}
		}
		began := time.Now()
		open.Store(false)
		for {
			if f, ok := c.eventually().(frame.Unsubscribed); ok {
				if f.Sub != "s" || f.Code != command.Forbidden || f.Cursor != "0" {
					t.Errorf("got %s", f.Append(nil))
				}
				break
			}
		}
		for {
			ev, err := e.next()
			if err != nil {
				t.Fatal(err)
			}
			if ev.name == "unsubscribed" {
				if !strings.Contains(ev.data, `"code":"forbidden"`) {
					t.Errorf("got %+v", ev)
				}
				break
			}
		}
		e.wantEvent(t, "close", `"code":4200`)
		if took := time.Since(began); took > 25*time.Second {
			t.Errorf("they ended %v after the rule said no, a heartbeat is 25 s", took)
		}
		if resp, err := openEvents(transport, "http://gateway/v1/streams/counter/a/events", "ada", "Last-Event-ID", "0"); err != nil || resp.resp.StatusCode != http.StatusForbidden {
			t.Errorf("coming back: %v, %v", resp, err)
		} else {
			resp.close()
		}
		c.send(`{"op":"ping","id":"1"}`) // the session itself goes on
		for {
			if f, ok := c.eventually().(frame.Pong); ok && f.ID == "1" {
				break
			}
		}
	})
}

// protocol: close 4001
func TestARevokedTokenEndsItsSessions(t *testing.T) {
	t.Parallel()
	auth := newBadges(map[string]gateway.Identity{"ada": {Client: "ada"}, "bob": {Client: "bob"}, "cem": {Client: "cem"}})
	n := newWorld(t).node(func(c *gateway.Config) { c.Auth = auth })
	greet := func(token string) *client {
		c := n.dial()
		c.sendf(`{"op":"hello","id":"h","token":%q}`, token)
		return c
	}
	greeted, silent, other := greet("ada"), n.dial("Authorization", "Bearer ada"), greet("bob")
	want[frame.Welcome](greeted)
	want[frame.Welcome](other)
	silent.send(`{"op":"ping","id":"1"}`)
	want[frame.Pong](silent)

	auth.revoke("ada")
	greeted.wantClose(4001)
	silent.wantClose(4001)
	again := greet("ada")
	again.wantFault("h", command.Unauthenticated)
	again.wantClose(4001)
	if _, resp, err := n.tryDial("Authorization", "Bearer ada"); err == nil || resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("a handshake with a revoked token: %v, %v", resp, err)
	}
	other.send(`{"op":"ping","id":"1"}`)
	want[frame.Pong](other)

	if got := n.Stats().Revoked; got != 2 {
		t.Errorf("%d sessions were revoked, want 2", got)
	}
}

// TestTokenRevokedWhileItIsCheckedEndsTheSession revokes a token after it was
// found good and before the session has the identity: the look at all sessions
// that a revocation brings is over by then.
//
// protocol: close 4001
func TestTokenRevokedWhileItIsCheckedEndsTheSession(t *testing.T) {
	t.Parallel()
	for name, use := range map[string]func(dial func(header ...string) *client, next func()) *client{
		"handshake": func(dial func(...string) *client, next func()) *client {
			next()
			return dial("Authorization", "Bearer new")
		},
		"hello": func(dial func(...string) *client, next func()) *client {
			c := dial()
			next()
			c.send(`{"op":"hello","id":"h","token":"new"}`)
			return c
		},
		"auth": func(dial func(...string) *client, next func()) *client {
			c := dial()
			c.send(`{"op":"hello","id":"h","token":"old"}`)
			want[frame.Welcome](c)
			next()
			c.send(`{"op":"auth","id":"a","token":"new"}`)
			return c
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			auth := newBadges(map[string]gateway.Identity{"old": {Client: "ada"}, "new": {Client: "ada", Claims: map[string]any{"jti": "2"}}})
			bubbleOver(t, func(c *gateway.Config) { c.Auth = auth }, func(t *testing.T, g *gateway.Gateway, transport *http.Transport) {
				dial := func(header ...string) *client {
					c, _, err := dialWith(t, "http://gateway", &http.Client{Transport: transport}, header...)
					if err != nil {
						t.Fatal(err)
					}
					return c
				}
				c := use(dial, func() {
					auth.mu.Lock()
					defer auth.mu.Unlock()
					auth.upon = func() {
						auth.revoke("2")
						synctest.Wait() // until all sessions were looked at
					}
				})
				c.wantClose(4001)
			})
		})
	}
}
