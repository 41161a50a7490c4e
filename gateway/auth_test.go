package gateway_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/ganglion-es/ganglion/gateway"
	"github.com/ganglion-es/ganglion/proto/command"
	"github.com/ganglion-es/ganglion/proto/frame"
)

// kitchen is a catalog in which clients with the role kitchen may send commands.
type kitchen struct{ catalog }

func (kitchen) MaySend(_ string, claims map[string]any, _, _, _ string) bool {
	return claims["role"] == "kitchen"
}

func TestDevelopmentTokensCarryClaims(t *testing.T) {
	t.Parallel()
	n := newWorld(t).node(func(c *gateway.Config) { c.Catalog = kitchen{} })
	const add = `{"id":"2","op":"command","aggregate":"counter/a","command":"add","data":{"by":1}}`

	c := n.dial()
	c.send(`{"op":"hello","id":"1","token":"dev:cook {\"role\":\"kitchen\"}"}`)
	if f := want[frame.Welcome](c); f.Client != "cook" {
		t.Errorf("the client is %q", f.Client)
	}
	c.send(add)
	want[frame.Result](c)
	c = n.join("cook")
	c.send(add)
	c.wantFault("2", command.CodeForbidden)

	for who, status := range map[string]int{
		`cook {"role":"kitchen"}`:                    http.StatusOK,
		`head cook {"role":"kitchen"}`:               http.StatusOK,
		`cook`:                                       http.StatusForbidden,
		`cook {"role":"guest"}`:                      http.StatusForbidden,
		`cook {"role":"guest","role":"kitchen"}`:     http.StatusUnauthorized,
		`cook {"role":"kitchen"} and more`:           http.StatusUnauthorized,
		`cook {"role":"kitchen"`:                     http.StatusUnauthorized,
		`cook {"role":"kitchen","x":"\ud800"}`:       http.StatusUnauthorized,
		"cook {\"role\":\"kitchen\",\"x\":\"\xff\"}": http.StatusUnauthorized,
		` {"role":"kitchen"}`:                        http.StatusUnauthorized,
	} {
		got, body := n.do("POST", "/v1/commands", who, add)
		if got != status {
			t.Errorf("%s: got %d %s, want %d", who, got, body, status)
		}
		if strings.Contains(body, "kitchen\\\",") {
			t.Errorf("%s: the answer repeats the token: %s", who, body)
		}
	}
}

func TestDuplicateAuthorizationHeaderIsRefused(t *testing.T) {
	t.Parallel()
	n := newWorld(t).node()
	status, body := n.ask("GET /v1/aggregates/counter/a HTTP/1.1\nHost: gw\nAuthorization: Bearer dev:ada\nAuthorization: Bearer dev:eve\n\n")
	if status != http.StatusUnauthorized || !strings.Contains(body, "given twice") {
		t.Errorf("got %d %s", status, body)
	}
}
