package node_test

import (
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/node"
	"github.com/ganglion-es/ganglion/proto/frame"
	"github.com/ganglion-es/ganglion/test/harness"
)

const kicked = websocket.StatusCode(frame.CloseForbidden)

// actOnConsole sends an action to the console at a node, and returns the status and the
// body of the answer.
func actOnConsole(t *testing.T, url, token, action string, body map[string]any) (int, string) {
	t.Helper()
	text, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+"/_ganglion/api/actions/"+action, strings.NewReader(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+token)
	response, err := harness.HTTP.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(answer)
}

func (c *court) role(t *testing.T, name, role string) string {
	return c.token(t, name, time.Hour, map[string]any{"ganglion_role": role, "role": "judge"})
}

// connected returns a session of a client.
func (c *court) connected(t *testing.T, client string) (k *wsClient, session string) {
	t.Helper()
	k = c.connect(t, nil)
	welcome := k.ask(hello(c.token(t, client, time.Hour, map[string]any{"role": "judge"})))
	if welcome.Op != "welcome" {
		t.Fatalf("%s is answered %+v", client, welcome)
	}
	return k, welcome.Session
}

func TestConsoleClosesSessionsOfOtherNodes(t *testing.T) {
	t.Parallel()
	c := newCourt(t)
	otto, other := c.role(t, "otto", "operator"), c.urls[1] // the clients are at the first node
	ada, _ := c.connected(t, "ada")
	bob, _ := c.connected(t, "bob")
	act := func(action, key string, args map[string]any, want string) {
		t.Helper()
		code, text := actOnConsole(t, other, otto, action, map[string]any{"key": key, "args": args, "reason": "floods"})
		if code != http.StatusOK || !strings.Contains(text, want) {
			t.Fatalf("%s is answered %d %s, want %q", action, code, text, want)
		}
	}
	act("kick_client", "k1", map[string]any{"client": "ada"}, `"text":"closed 1 session with 4004"`)
	if code, _ := ada.closed(); code != kicked {
		t.Errorf("ada gets the close code %d, want %d", code, kicked)
	}
	ada, session := c.connected(t, "ada")
	act("kick_client", "k1", map[string]any{"client": "ada"}, `"replayed":true`) // and does nothing
	if a := ada.ask(map[string]any{"op": "get", "id": "g", "aggregate": "verdict/1"}); a.Op != "result" {
		t.Errorf("after the same key again, ada gets %+v", a)
	}
	act("kick_session", "k2", map[string]any{"session": session}, `"text":"closed the session with 4004"`)
	if code, _ := ada.closed(); code != kicked {
		t.Errorf("ada gets the close code %d, want %d", code, kicked)
	}
	act("kick_session", "k3", map[string]any{"session": session}, `"text":"no gateway has the session: it has ended","failed":true`)
	act("kick_client", "k4", map[string]any{"client": "cem"}, `no gateway has a session of this client`)
	act("kick_client", "k5", map[string]any{"client": 7}, `the arguments are not the expected JSON object`)
	act("kick_session", "k6", nil, `the argument session is missing`)
	act("move_sessions", "k7", map[string]any{"member": "dev9", "count": 1}, `is not a member of the cluster`)
	act("move_sessions", "k8", map[string]any{"member": "dev1", "count": 2001}, `must be from 1 to 2000`)
	act("log_level", "k10", map[string]any{"member": "dev1", "level": "debug"}, `the level of dev1's log is debug; it was info`)
	act("log_level", "k11", map[string]any{"member": "dev2", "level": "info"}, `the level of dev2's log is info; it was info`)
	act("log_level", "k12", map[string]any{"member": "dev1", "level": "loud"}, `is not a level: write debug, info, warn or error`)
	act("drain", "k9", map[string]any{"member": "dev9"}, `is not a member of the cluster`)
	if a := bob.ask(map[string]any{"op": "get", "id": "g", "aggregate": "verdict/1"}); a.Op != "result" {
		t.Errorf("bob, who was not meant, gets %+v", a)
	}
	act("move_sessions", "k13", map[string]any{"member": "dev1", "count": 5}, ` of dev1 to connect elsewhere"`)
	if code, _ := bob.closed(); code != websocket.StatusServiceRestart {
		t.Errorf("bob, whose session is moved, gets the close code %d", code)
	}
	if code, text := askConsole(t, c.urls[0]+"/_ganglion/api/audit", otto); code != http.StatusOK ||
		!strings.Contains(text, `"client":"otto","key":"k1","action":"kick_client","reason":"floods","args":"{\"client\":\"ada\"}"`) {
		t.Errorf("the audit is %d %s", code, text)
	}
}

func TestConsoleRevokesTokensAndFindsSessions(t *testing.T) {
	t.Parallel()
	c := newCourt(t)
	otto := c.role(t, "otto", "operator")
	ada, session := c.connected(t, "ada")
	bob, _ := c.connected(t, "bob")
	if a := ada.ask(map[string]any{"op": "subscribe", "id": "s", "stream": "verdict/1"}); a.Op != "subscribed" {
		t.Fatalf("%+v", a)
	}
	find := c.urls[1] + "/_ganglion/api/sessions?q=" // the sessions are at the first node
	for _, text := range []string{"ada", session} {
		if code, text := askConsole(t, find+text, c.role(t, "vera", "viewer")); code != http.StatusOK ||
			!strings.HasPrefix(text, `{"open":2,"full":0,"matching":1,"gateways":[{"id":"dev1","open":2,"full":0,"matching":1},{"id":"dev2","open":0,`) ||
			!strings.Contains(text, `{"id":"`+session+`","client":"ada","node":"dev1","protocol":"websocket","seconds":`) ||
			!strings.HasSuffix(text, `,"subscriptions":1,"topics":[{"name":"verdict/1"}]}]}`) {
			t.Errorf("the answer is %d %s", code, text)
		}
	}
	if code, text := askConsole(t, find+strings.Repeat("x", 401), otto); code != http.StatusBadRequest {
		t.Errorf("a long text is answered %d %s", code, text)
	}
	if code, text := actOnConsole(t, c.urls[1], otto, "revoke_client", map[string]any{"key": "k1", "args": map[string]any{"client": "ada"}}); code != http.StatusOK ||
		!strings.Contains(text, "revoked the tokens issued until now on 2 gateways") {
		t.Fatalf("the answer is %d %s", code, text)
	}
	if code, _ := ada.closed(); code != unauthenticated {
		t.Errorf("ada gets the close code %d, want %d", code, unauthenticated)
	}
	if a := bob.ask(map[string]any{"op": "get", "id": "g", "aggregate": "verdict/1"}); a.Op != "result" {
		t.Errorf("bob gets %+v", a)
	}
	if code, text := actOnConsole(t, c.urls[1], otto, "revoke_client", map[string]any{"key": "k2"}); code != http.StatusOK || !strings.Contains(text, `the argument client is missing`) {
		t.Errorf("without a client, the answer is %d %s", code, text)
	}
}

func TestConsoleDrainsItsOwnMember(t *testing.T) {
	t.Parallel()
	c := newCourt(t)
	otto := c.role(t, "otto", "operator")
	ada, _ := c.connected(t, "ada")
	for _, url := range c.urls {
		harness.Eventually(t, "two ready members", func() error {
			s, err := harness.Status(url)
			if err == nil && (s.Ring.Owners != 2 || s.Members[0].State != "ready" || s.Members[1].State != "ready") {
				err = fmt.Errorf("the members are %+v", s.Members)
			}
			return err
		})
	}
	if code, text := actOnConsole(t, c.urls[0], otto, "drain", map[string]any{"key": "k1", "args": map[string]any{"member": "dev1"}}); code != http.StatusOK || !strings.Contains(text, "dev1 has left") {
		t.Fatalf("the answer is %d %s", code, text)
	}
	if code, before := ada.closed(); code != websocket.StatusServiceRestart || len(before) == 0 || before[len(before)-1].Op != "goodbye" {
		t.Errorf("ada gets the close code %d after %+v", code, before)
	}
	code, text := actOnConsole(t, c.urls[1], otto, "drain", map[string]any{"key": "k2", "args": map[string]any{"member": "dev2"}})
	if code != http.StatusOK || !strings.Contains(text, "dev2 is the last ready member with the role domain: start another one first") {
		t.Errorf("draining the last member is answered %d %s", code, text)
	}
	if code, text := askConsole(t, c.urls[1]+"/_ganglion/api/audit", otto); code != http.StatusOK || !strings.Contains(text, `"of":1,"text":"dev1 has left;`) {
		t.Errorf("the audit is %d %s", code, text)
	}
}

func TestConsoleActionsNeedOperators(t *testing.T) {
	t.Parallel()
	c := newCourt(t)
	ada, _ := c.connected(t, "ada")
	_, me := askConsole(t, c.urls[0]+"/_ganglion/api/me", c.role(t, "otto", "operator"))
	var known struct{ Actions []string }
	if err := json.Unmarshal([]byte(me), &known); err != nil || len(known.Actions) < 4 {
		t.Fatal(me, err)
	}
	for _, action := range known.Actions {
		for _, role := range []string{"viewer", "reader"} {
			code, text := actOnConsole(t, c.urls[0], c.role(t, "vera", role), action, map[string]any{"key": "k", "args": map[string]any{"client": "ada", "member": "dev1", "count": 1}})
			if code != http.StatusForbidden || !strings.Contains(text, "needs the role operator") {
				t.Errorf("%s: a %s is answered %d %s", action, role, code, text)
			}
		}
	}
	if a := ada.ask(map[string]any{"op": "get", "id": "g", "aggregate": "verdict/1"}); a.Op != "result" {
		t.Errorf("ada gets %+v", a)
	}
	if _, text := askConsole(t, c.urls[0]+"/_ganglion/api/audit", c.role(t, "vera", "viewer")); !strings.Contains(text, `"entries":[]`) {
		t.Errorf("the audit is %s", text)
	}
}

func TestConsoleSendsProfilesOfAllMembersToOperators(t *testing.T) {
	t.Parallel()
	c := newCourt(t)
	otto := c.role(t, "otto", "operator")
	for _, path := range []string{"dev1/heap.pb.gz", "dev2/heap.pb.gz", "dev1/cpu.pb.gz?seconds=1", "dev2/cpu.pb.gz?seconds=1"} {
		code, body := 0, ""
		harness.Eventually(t, "the profile "+path, func() error { // other tests of this process may record one, too
			code, body = askConsole(t, c.urls[0]+"/_ganglion/api/profiles/"+path, otto)
			if code == http.StatusServiceUnavailable && strings.Contains(body, "cpu profiling already in use") {
				return errors.New(body)
			}
			return nil
		})
		text, err := gzip.NewReader(strings.NewReader(body))
		if err != nil {
			t.Fatalf("%s: %v: %d %.200q", path, err, code, body)
		}
		if n, err := io.Copy(io.Discard, text); n == 0 || err != nil {
			t.Errorf("%s: %d bytes, %v", path, n, err)
		}
	}
	if code, body := askConsole(t, c.urls[0]+"/_ganglion/api/profiles/dev2/goroutines.txt", otto); code != http.StatusOK || !strings.HasPrefix(body, "goroutine profile: total ") {
		t.Errorf("the goroutines are %d %.200s", code, body)
	}
	for path, want := range map[string]string{
		"dev7/heap.pb.gz":             `404 {"error":"\"dev7\" is not a member of the cluster"}`,
		"dev2/secret.pb.gz":           `404 {"error":"there is no profile \"secret.pb.gz\": [cpu.pb.gz heap.pb.gz goroutines.txt] are known"}`,
		"dev2/cpu.pb.gz?seconds=61":   `400 {"error":"seconds is \"61\": write a number from 1 to 60"}`,
		"dev2/cpu.pb.gz?seconds=0":    `400 {"error":"seconds is \"0\": write a number from 1 to 60"}`,
		"dev2/cpu.pb.gz?seconds=many": `400 {"error":"seconds is \"many\": write a number from 1 to 60"}`,
	} {
		code, body := askConsole(t, c.urls[0]+"/_ganglion/api/profiles/"+path, otto)
		if got := fmt.Sprint(code, " ", strings.TrimSpace(body)); got != want {
			t.Errorf("%s is answered %s, want %s", path, got, want)
		}
	}
	if code, body := askConsole(t, c.urls[0]+"/_ganglion/api/profiles/dev1/heap.pb.gz", c.role(t, "rita", "reader")); code != http.StatusForbidden || !strings.Contains(body, "needs the role operator") {
		t.Errorf("a reader is answered %d %.200s", code, body)
	}
}

func TestClientsCannotUseTheRecordOfActions(t *testing.T) {
	t.Parallel()
	c := newCourt(t)
	if code, text := actOnConsole(t, c.urls[0], c.role(t, "otto", "operator"), "kick_client", map[string]any{"key": "k", "args": map[string]any{"client": "cem"}}); code != http.StatusOK {
		t.Fatal(code, text)
	}
	k := c.connect(t, nil)
	k.ask(hello(c.role(t, "otto", "operator")))
	for i, f := range []map[string]any{
		{"op": "get", "aggregate": "ops/ganglion"},
		{"op": "command", "aggregate": "ops/ganglion", "command": "requested", "key": "c", "data": map[string]any{}},
		{"op": "subscribe", "stream": "ops/ganglion"},
		{"op": "subscribe", "category": "ops"},
	} {
		f["id"] = fmt.Sprint(i)
		if a := k.ask(f); a.Op != "error" || a.Code != "not_found" {
			t.Errorf("%v is answered %+v", f, a)
		}
	}
	for _, path := range []string{"/v1/schema", "/v1/asyncapi"} {
		if _, text := askConsole(t, c.urls[0]+path, c.role(t, "otto", "operator")); strings.Contains(text, `"ops"`) || strings.Contains(text, "requested") {
			t.Errorf("%s has the record of actions", path)
		}
	}
}

// TestConsoleOfAnApplicationWithItsRecordHasNoActions uses the name of the record for an
// aggregate, and a name of the cluster that names no stream.
func TestConsoleOfAnApplicationWithItsRecordHasNoActions(t *testing.T) {
	t.Parallel()
	c := &aggregate.Catalog{}
	_ = aggregate.Define(c, aggregate.Type[verdict]{
		Name: "ops", Access: aggregate.Access{Send: aggregate.Anyone, Read: aggregate.Anyone},
		Commands: aggregate.Commands[verdict]{"pass": pass{}}, Events: aggregate.Events[verdict]{"passed": passed{}}, Rejections: aggregate.Rejections{errTooLow},
	})
	for _, test := range []struct {
		catalog       *aggregate.Catalog
		cluster, says string
	}{
		{c, "", `the application has an aggregate \"ops\"`},
		{verdicts(), "a/b", `the cluster's name, which is \"a/b\"`},
	} {
		port, dir := harness.FreeAddress(t), t.TempDir()
		harness.Serve(t, 1, func(ctx context.Context, ready func(string)) error {
			return node.Run(ctx, node.Config{
				Catalog: test.catalog, Cluster: test.cluster, Name: "n1", Listen: "127.0.0.1:0", PeerListen: "127.0.0.1:0", GossipListen: "127.0.0.1:0", Store: dir,
				ConsoleListen: port, Ready: ready,
			})
		})
		api := "http://" + port + "/_ganglion/api/"
		if code, body := askConsole(t, api+"me", ""); code != http.StatusOK || !strings.Contains(body, `"actions":[]`) {
			t.Errorf("the actions are %d %s", code, body)
		}
		if code, body := askConsole(t, api+"audit", ""); code != http.StatusNotFound || !strings.Contains(body, test.says) {
			t.Errorf("the audit is %d %s, want %s", code, body, test.says)
		}
	}
}
