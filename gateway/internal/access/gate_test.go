package access_test

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/gateway/internal/access"
	"github.com/ganglion-es/ganglion/gateway/internal/history"
	"github.com/ganglion-es/ganglion/gateway/internal/limits"
	"github.com/ganglion-es/ganglion/proto/command"
	"github.com/ganglion-es/ganglion/proto/frame"
)

// rules is an application with the type note. Each client may use the note with
// its own id. Rules panic for the id boom.
type rules struct{ access.Catalog }

func (rules) HasType(typ string) bool                               { return typ == "note" }
func (rules) IsSystem(_, name string) bool                          { return name == "end" }
func (rules) HasCommand(_, name string) bool                        { return name == "write" || name == "end" }
func (rules) MayRead(c string, _ map[string]any, _, id string) bool { return own(c, id) }
func (rules) MayReadAll(string, map[string]any, string) bool        { return false }
func (rules) MaySend(c string, _ map[string]any, _, id, _ string) bool {
	return own(c, id)
}

func (rules) CheckCommand(_, _ string, data json.RawMessage) (string, error) {
	if string(data) == `{}` {
		return "text", errors.New("data.text is missing")
	}
	return "", nil
}

func own(client, id string) bool {
	if id == "boom" {
		panic("a rule")
	}
	return client == id
}

func newGate() *access.Gate {
	log := slog.New(slog.DiscardHandler)
	guard := access.NewGuard(log)
	return &access.Gate{Catalog: guard.Catalog(rules{}), Guard: guard, Counters: &limits.Counters{}, Logger: log, PerSecond: 5}
}

func TestGateAdmitsOnlyWhatTheRulesAllow(t *testing.T) {
	t.Parallel()
	g := newGate()
	for name, c := range map[string]struct {
		client, stream, command, data string
		after                         time.Duration
		code                          command.Code // empty: admitted
	}{
		"its own":             {"ada", "note/ada", "write", `{"text":"x"}`, 0, ""},
		"too fast":            {"ada", "note/ada", "write", `{"text":"x"}`, time.Second, command.CodeRateLimited},
		"unknown type":        {"ada", "unicorn/ada", "write", `{"text":"x"}`, 0, command.CodeNotFound},
		"unknown command":     {"ada", "note/ada", "ride", `{"text":"x"}`, 0, command.CodeNotFound},
		"of another client":   {"ada", "note/bob", "write", `{"text":"x"}`, 0, command.CodeForbidden},
		"anonymous":           {"", "note/bob", "write", `{"text":"x"}`, 0, command.CodeUnauthenticated},
		"a rule that panics":  {"ada", "note/boom", "write", `{"text":"x"}`, 0, command.CodeForbidden},
		"invalid data":        {"ada", "note/ada", "write", `{}`, 0, command.CodeBadRequest},
		"the system's":        {"ada", "note/ada", "end", `{"text":"x"}`, 0, command.CodeForbidden},
		"the same, anonymous": {"", "note/ada", "end", `{"text":"x"}`, 0, command.CodeForbidden},
		"a reserved id":       {"~wake", "note/~wake", "write", `{"text":"x"}`, 0, command.CodeBadRequest},
	} {
		stream, err := eventstore.ParseStreamID(c.stream)
		if err != nil {
			t.Fatal(err)
		}
		f := frame.Command{Aggregate: stream, Command: c.command, Data: json.RawMessage(c.data)}
		admitted, _, failure := g.Admit(f, access.Identity{Client: c.client}, "session", c.after)
		switch {
		case c.code == "" && (failure != nil || admitted.Key == "" || admitted.ClientKey || admitted.Client != c.client || admitted.Deadline.IsZero()):
			t.Errorf("%s: got %+v, %v, want it admitted with a key of the gateway", name, admitted, failure)
		case c.code != "" && (failure == nil || failure.Code != c.code):
			t.Errorf("%s: got %v, want %s", name, failure, c.code)
		}
	}
	if n := g.Admitted(); n != 1 {
		t.Errorf("%d commands were admitted, want 1", n)
	}
}

func TestGateRefusesReservedKeys(t *testing.T) {
	t.Parallel()
	f := frame.Command{Aggregate: eventstore.StreamID{Type: "note", ID: "ada"}, Command: "write", Data: json.RawMessage(`{"text":"x"}`), Key: "~wake:7"}
	_, _, failure := newGate().Admit(f, access.Identity{Client: "ada"}, "session", 0)
	if failure == nil || failure.Code != command.CodeBadRequest || failure.Field != "key" || !strings.Contains(failure.Message, "use another key") {
		t.Errorf("got %+v, want a bad request that names the key and what to do", failure)
	}
}

// trusting is an Authenticator that accepts whatever a client says.
type trusting struct{}

func (trusting) Token(_ context.Context, token string) (access.Identity, error) {
	return access.Identity{Client: token}, nil
}

func (trusting) Trust(_ context.Context, client string) (access.Identity, error) {
	return access.Identity{Client: client}, nil
}

func TestReservedClientIDsAreRefusedWhateverTheAuthenticatorSays(t *testing.T) {
	t.Parallel()
	auth := access.NewGuard(slog.New(slog.DiscardHandler)).Auth(trusting{})
	for _, identify := range []func(context.Context, string) (access.Identity, error){auth.Token, auth.Trust} {
		if id, err := identify(t.Context(), "~wake"); err == nil || id.Client != "" || !strings.Contains(err.Error(), "reserved") {
			t.Errorf("~wake is %q, %v; want it refused as reserved", id.Client, err)
		}
		if id, err := identify(t.Context(), "a~wake"); err != nil || id.Client != "a~wake" {
			t.Errorf("a~wake is %q, %v; want it accepted", id.Client, err)
		}
	}
}

func TestGateOpensACategoryOnlyByItsOwnRule(t *testing.T) {
	t.Parallel()
	g, ada := newGate(), access.Identity{Client: "ada"}
	if f := g.MayRead(ada, history.Topic{Stream: eventstore.StreamID{Type: "note", ID: "ada"}}); f != nil {
		t.Errorf("its own stream: %v", f)
	}
	if f := g.MayRead(ada, history.Topic{Category: "note"}); f == nil || f.Code != command.CodeForbidden {
		t.Errorf("the category: %v, want it forbidden", f)
	}
	if f := g.MayRead(access.Identity{}, history.Topic{Category: "note"}); f == nil || f.Code != command.CodeUnauthenticated {
		t.Errorf("the category for an anonymous client: %v, want it to identify itself", f)
	}
}
