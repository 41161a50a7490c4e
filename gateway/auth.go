package gateway

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/proto/command"
	"github.com/ganglion-es/ganglion/proto/frame"
	"github.com/go-jose/go-jose/v4/json" // as for other tokens: it refuses a member given twice
)

// Identity is who a client is. The zero Identity is nobody: it passes only
// the access rules of Anyone.
type Identity struct {
	// Client is the client id: the token's subject.
	Client string
	// Claims are those of its token.
	Claims map[string]any
	// Expires is when the identity ends; zero if it does not.
	Expires time.Time
}

// ErrAuthUnavailable is what an Authenticator's error is if it can't tell who
// a client is at the moment, for instance since it has no keys yet: the client
// may come again, or go to another gateway.
var ErrAuthUnavailable = errors.New("tokens can't be checked at the moment")

// Authenticator tells who a client is. It is safe for concurrent use. The
// text of its errors reaches the client: it says what is wrong with the token
// and never repeats it.
type Authenticator interface {
	// Token returns who a bearer token speaks for.
	Token(ctx context.Context, token string) (Identity, error)
	// Trust returns the identity of a client that only says its own name.
	Trust(ctx context.Context, client string) (Identity, error)
}

// DevelopmentWarning is what whoever serves with Development says loudly in
// the log.
const DevelopmentWarning = "DEVELOPMENT AUTHENTICATION: every client id is taken on trust; do not expose this node to anybody you don't trust"

// Development returns an Authenticator that believes whatever a client says:
// a client id by itself, or a token of the form dev:<client id>, perhaps with
// claims as a JSON object behind it: dev:cook {"role":"kitchen"}. Serve with it
// only among people who trust each other, and log DevelopmentWarning.
func Development() Authenticator { return development{} }

type development struct{}

func (development) Token(_ context.Context, token string) (Identity, error) {
	client, ok := strings.CutPrefix(token, "dev:")
	if !ok {
		return Identity{}, errors.New("this gateway runs with development authentication: the token is dev: and a client id, " +
			"perhaps with claims, such as dev:ada or dev:cook {\"role\":\"kitchen\"}")
	}
	client, rest, hasClaims := strings.Cut(client, " {")
	if err := eventstore.ValidateID(client); err != nil {
		return Identity{}, fmt.Errorf("the token's client id: %w", err)
	}
	if !hasClaims {
		return Identity{Client: client}, nil
	}
	var claims map[string]any
	raw := []byte("{" + rest)
	if err := json.Unmarshal(raw, &claims); err != nil || !utf8.Valid(raw) || frame.HasHalfPair(raw) {
		return Identity{}, errors.New("the token's claims are no JSON object in UTF-8: write dev: and a client id, a space and the claims, " +
			"such as dev:cook {\"role\":\"kitchen\"}")
	}
	return Identity{Client: client, Claims: claims}, nil
}

func (development) Trust(_ context.Context, client string) (Identity, error) {
	if err := eventstore.ValidateID(client); err != nil {
		return Identity{}, err
	}
	return Identity{Client: client}, nil
}

// untrusted is the answer to a client whose token the Authenticator did not
// take.
func untrusted(err error) *command.Failure {
	if errors.Is(err, ErrAuthUnavailable) {
		return &command.Failure{Code: command.Unavailable, Retry: command.RetryLater, Message: err.Error()}
	}
	return &command.Failure{Code: command.Unauthenticated, Retry: command.RetryNo, Message: err.Error()}
}

// bearer reads the Authorization header. Without one the identity is nobody.
func (g *Gateway) bearer(r *http.Request) (Identity, error) {
	headers := r.Header.Values("Authorization")
	if len(headers) > 1 {
		return Identity{}, errors.New("the Authorization header is given twice: give it once")
	}
	header := r.Header.Get("Authorization")
	if header == "" {
		return Identity{}, nil
	}
	scheme, token, _ := strings.Cut(header, " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return Identity{}, errors.New("the Authorization header must be: Bearer and a token")
	}
	return g.cfg.Auth.Token(r.Context(), strings.TrimSpace(token))
}
