package node_test

import (
	"context"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/eventstore/postgres/postgrestest"
	"github.com/ganglion-es/ganglion/gateway/token"
	"github.com/ganglion-es/ganglion/node"
	"github.com/ganglion-es/ganglion/proto/frame"
	"github.com/ganglion-es/ganglion/test/harness"
)

func TestMain(m *testing.M) { postgrestest.Main(m) }

// verdict is an aggregate whose access rules and decisions use claims.
type verdict struct {
	Level float64 `json:"level"`
}

type pass struct{}

type passed struct {
	Level float64 `json:"level"`
}

var errTooLow = aggregate.Reject("too_low", "judges of level 3 pass verdicts")

func (pass) Decide(c aggregate.Call, _ verdict) (aggregate.Decision[verdict], error) {
	level, _ := c.Claims["level"].(float64)
	if level < 3 {
		return nil, errTooLow
	}
	return aggregate.Emit(passed{Level: level})
}

func (e passed) Apply(v *verdict) { v.Level = e.Level }

func verdicts() *aggregate.Catalog {
	c := &aggregate.Catalog{}
	judge := aggregate.RuleFunc(func(c aggregate.Caller, _ string) bool { return c.Claims["role"] == "judge" })
	_ = aggregate.Define(c, aggregate.Type[verdict]{
		Name: "verdict", Doc: "What a judge decided.",
		Access:     aggregate.Access{Send: judge, Read: judge},
		Commands:   aggregate.Commands[verdict]{"pass": pass{}},
		Events:     aggregate.Events[verdict]{"passed": passed{}},
		Rejections: aggregate.Rejections{errTooLow},
	})
	return c
}

// court is a cluster of two nodes that require tokens. Some commands are decided on
// the node that the client is connected to, some on the other one.
type court struct {
	secrets, revoked string
	urls             []string
}

func newCourt(t *testing.T) *court {
	t.Helper()
	dir := t.TempDir()
	c := &court{secrets: filepath.Join(dir, "secrets")}
	if err := os.WriteFile(c.secrets, []byte(strings.Repeat("justice", 10)), 0o600); err != nil {
		t.Fatal(err)
	}
	c.revoked = filepath.Join(dir, "revoked")
	if err := os.WriteFile(c.revoked, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	c.start(t, dir, c.authenticator(t, token.Config{HMACFile: c.secrets, Audience: "court", Leeway: -1, Revocations: c.revoked}))
	return c
}

// authenticator makes an Authenticator and runs it until the test ends.
func (c *court) authenticator(t *testing.T, cfg token.Config) *token.Authenticator {
	t.Helper()
	auth, err := token.New(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = auth.Run(ctx) })
	t.Cleanup(func() { cancel(); running.Wait() })
	return auth
}

// start starts the nodes and waits until they are ready.
func (c *court) start(t *testing.T, dir string, auth *token.Authenticator) {
	t.Helper()
	const nodes = 2
	c.urls, _ = harness.Serve(t, nodes, func(ctx context.Context, ready func(string)) error {
		return node.RunDev(ctx, node.Config{Catalog: verdicts(), Listen: "127.0.0.1:0", Store: dir, Auth: auth, Ready: ready}, nodes)
	})
}

func (c *court) token(t *testing.T, client string, lifetime time.Duration, claims map[string]any) string {
	t.Helper()
	text, err := token.Sign(c.secrets, token.Grant{Client: client, Audience: "court", ExpiresIn: lifetime, Claims: claims})
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// wsClient is a client with a WebSocket connection.
type wsClient struct {
	t    *testing.T
	ctx  context.Context
	conn *websocket.Conn
	rest []string // unread lines of the last message
}

type answer struct {
	Op, ID, Client, Session, Code, Reason, Message, Retry string
	InMS                                                  int `json:"in_ms"`
}

func (c *court) connect(t *testing.T, header http.Header) *wsClient {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	conn, _, err := websocket.Dial(ctx, c.urls[0]+"/v1/ws", &websocket.DialOptions{Subprotocols: []string{"ganglion.v1"}, HTTPHeader: header})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.CloseNow() })
	return &wsClient{t: t, ctx: ctx, conn: conn}
}

func (k *wsClient) send(frame map[string]any) {
	k.t.Helper()
	raw, err := json.Marshal(frame)
	if err == nil {
		err = k.conn.Write(k.ctx, websocket.MessageText, raw)
	}
	if err != nil {
		k.t.Fatal(err)
	}
}

// receive returns the next frame.
func (k *wsClient) receive() (a answer, err error) {
	for len(k.rest) == 0 {
		_, message, err := k.conn.Read(k.ctx)
		if err != nil {
			return a, err
		}
		k.rest = strings.Split(string(message), "\n")
	}
	err = json.Unmarshal([]byte(k.rest[0]), &a)
	k.rest = k.rest[1:]
	return a, err
}

// ask sends a frame and returns the answer with its id.
func (k *wsClient) ask(frame map[string]any) answer {
	k.t.Helper()
	k.send(frame)
	for {
		a, err := k.receive()
		if err != nil {
			k.t.Fatalf("after %v: %v", frame["op"], err)
		}
		if a.ID == frame["id"] {
			return a
		}
	}
}

// closed reads until the connection closes, and returns the close code and the frames
// before it.
func (k *wsClient) closed() (code websocket.StatusCode, before []answer) {
	k.t.Helper()
	for {
		a, err := k.receive()
		if err != nil {
			return websocket.CloseStatus(err), before
		}
		before = append(before, a)
	}
}

func hello(text string) map[string]any {
	return map[string]any{"op": "hello", "id": "h", "token": text}
}

const unauthenticated = websocket.StatusCode(frame.CloseUnauthenticated)
