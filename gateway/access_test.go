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

// badges is an Authenticator whose tokens are the keys of known. It can revoke
// them.
type badges struct {
	known map[string]gateway.Identity // by token

	mu      sync.Mutex
	revoked []string // client ids and token ids
	more    chan struct{}
	onValid func() // called after a token was found valid
}

func newBadges(known map[string]gateway.Identity) *badges {
	return &badges{known: known, more: make(chan struct{}), onValid: func() {}}
}

func (b *badges) Token(_ context.Context, token string) (gateway.Identity, error) {
	id, ok := b.known[token]
	if !ok || b.Revoked(id) != nil {
		return gateway.Identity{}, errors.New("no such badge")
	}
	b.mu.Lock()
	onValid := b.onValid
	b.mu.Unlock()
	onValid()
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

// rooms is a catalog whose streams a client may read if its claims name them.
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
func TestRevokedAccessEndsItsSubscriptionsOnly(t *testing.T) {
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
	if f := want[frame.Result](c); f.ID != "1" { // access is rechecked before the reply
		t.Errorf("got %s", f.Append(nil))
	}
	for _, sub := range []string{"sa", "sc"} {
		if f := ended[sub]; f.ID != "" || f.Code != command.CodeForbidden || f.Message == "" || f.Cursor != position(at[sub]) {
			t.Errorf("%s: got %s, want the cursor %s", sub, f.Append(nil), position(at[sub]))
		}
	}
	w.add("counter/a", 3)
	w.add("counter/b", 1)
	c.wantEvents("sb", 1) // and no event of the others
	c.sendf(`{"op":"subscribe","id":"sa","stream":"counter/a","cursor":%q}`, ended["sa"].Cursor)
	c.wantFault("sa", command.CodeForbidden)
	c.send(`{"op":"subscribe","id":"sc","category":"counter"}`)
	if f := c.wantFault("sc", command.CodeForbidden); f.Message != "ada may not read every counter: set Access.ReadAll of counter to a rule that allows it "+
		"(a custom rule in Read opens no category)" {
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

// slowRouter is a router that replies to a get when the test closes answer.
type slowRouter struct {
	gateway.Router
	asked, answer chan struct{}
}

func (s slowRouter) Get(ctx context.Context, g command.Get) (command.State, error) {
	s.asked <- struct{}{}
	<-s.answer
	return s.Router.Get(ctx, g)
}

// protocol: client auth, error forbidden
func TestRevokedAccessRefusesASubscriptionThatHasNotBegun(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	auth := newBadges(map[string]gateway.Identity{"all": badgeFor("a", "b"), "b": badgeFor("b")})
	router := slowRouter{w.router, make(chan struct{}), make(chan struct{})}
	n := w.node(func(c *gateway.Config) {
		c.Auth, c.Catalog, c.Router, c.Limits.OpenRequests = auth, rooms{}, router, 2
	})
	c := n.dial()
	c.send(`{"op":"hello","id":"h","token":"all"}`)
	want[frame.Welcome](c)
	c.send(`{"op":"subscribe","id":"s","stream":"counter/a","state":true}`)
	<-router.asked
	c.send(`{"op":"auth","id":"1","token":"b"}`)
	c.wantFault("s", command.CodeForbidden)
	want[frame.Result](c)
	close(router.answer)
	go func() {
		for range router.asked {
		}
	}()
	t.Cleanup(func() { close(router.asked) })
	for range 5 { // its slot and its id are free again
		c.send(`{"op":"subscribe","id":"s","stream":"counter/b","state":true}`)
		want[frame.Subscribed](c)
		want[frame.State](c)
		want[frame.Live](c)
		c.send(`{"op":"unsubscribe","id":"u","sub":"s"}`)
		want[frame.Unsubscribed](c)
	}
}

// timedRules is a catalog whose streams may be read while open is true: its rules
// depend on more than the token.
type timedRules struct {
	catalog
	open *atomic.Bool
}

func (h timedRules) MayRead(string, map[string]any, string, string) bool { return h.open.Load() }

func TestHeartbeatEndsSubscriptionsThatRulesNoLongerAllow(t *testing.T) {
	t.Parallel()
	var open atomic.Bool
	open.Store(true)
	bubbleWithTransport(t, func(c *gateway.Config) { c.Catalog = timedRules{open: &open} }, func(t *testing.T, g *gateway.Gateway, transport *http.Transport) {
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
				if f.Sub != "s" || f.Code != command.CodeForbidden || f.Cursor != "0" {
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
			t.Errorf("the subscriptions ended %v after the rule denied access, want at most a heartbeat of 25 s", took)
		}
		if resp, err := openEvents(transport, "http://gateway/v1/streams/counter/a/events", "ada", "Last-Event-ID", "0"); err != nil || resp.resp.StatusCode != http.StatusForbidden {
			t.Errorf("a reconnection: %v, %v", resp, err)
		} else {
			resp.close()
		}
		c.send(`{"op":"ping","id":"1"}`) // the session itself continues
		for {
			if f, ok := c.eventually().(frame.Pong); ok && f.ID == "1" {
				break
			}
		}
	})
}

// protocol: close 4001
func TestRevokedTokenEndsItsSessions(t *testing.T) {
	t.Parallel()
	auth := newBadges(map[string]gateway.Identity{"ada": {Client: "ada"}, "bob": {Client: "bob"}, "cem": {Client: "cem"}})
	n := newWorld(t).node(func(c *gateway.Config) { c.Auth = auth })
	hello := func(token string) *client {
		c := n.dial()
		c.sendf(`{"op":"hello","id":"h","token":%q}`, token)
		return c
	}
	welcomed, silent, other := hello("ada"), n.dial("Authorization", "Bearer ada"), hello("bob")
	want[frame.Welcome](welcomed)
	want[frame.Welcome](other)
	silent.send(`{"op":"ping","id":"1"}`)
	want[frame.Pong](silent)

	auth.revoke("ada")
	welcomed.wantClose(4001)
	silent.wantClose(4001)
	again := hello("ada")
	again.wantFault("h", command.CodeUnauthenticated)
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

// TestTokenRevokedDuringItsCheckEndsTheSession revokes a token after it was
// found valid. The gateway checks all sessions for revoked tokens before the
// session has the identity.
//
// protocol: close 4001
func TestTokenRevokedDuringItsCheckEndsTheSession(t *testing.T) {
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
			bubbleWithTransport(t, func(c *gateway.Config) { c.Auth = auth }, func(t *testing.T, g *gateway.Gateway, transport *http.Transport) {
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
					auth.onValid = func() {
						auth.revoke("2")
						synctest.Wait() // until all sessions were checked
					}
				})
				c.wantClose(4001)
			})
		})
	}
}

func TestReservedKeysAndIDsAreRefusedOnEveryPath(t *testing.T) {
	t.Parallel()
	n := newWorld(t).node()
	c := n.join("ada")
	c.send(`{"op":"command","id":"1","aggregate":"counter/a","command":"add","data":{"by":1},"key":"~wake:1"}`)
	if f := c.wantFault("1", command.CodeBadRequest); f.Field != "key" || f.Key != "~wake:1" {
		t.Errorf("got %s, want the field key", f.Append(nil))
	}
	status, body := n.do("POST", "/v1/commands", "ada", `{"aggregate":"counter/a","command":"add","data":{"by":1},"key":"~wake:1"}`)
	if status != http.StatusBadRequest || !strings.Contains(body, "use another key") {
		t.Errorf("over HTTP: %d %s", status, body)
	}
	status, body = n.do("POST", "/v1/commands", "~wake", `{"aggregate":"counter/a","command":"add","data":{"by":1}}`)
	if status != http.StatusUnauthorized || !strings.Contains(body, "reserved") {
		t.Errorf("as ~wake over HTTP: %d %s", status, body)
	}
	other := n.dial()
	other.send(`{"op":"hello","id":"1","client":"~wake"}`)
	other.wantFault("1", command.CodeBadRequest)
}
