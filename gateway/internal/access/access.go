// Package access decides what a client may do. An [Authenticator] identifies
// it, a [Catalog] has the application's rules, and a [Gate] applies them to
// commands and reads. A [Guard] protects the gateway from panics in the
// Authenticator and the Catalog.
//
// Everything here is safe for concurrent use.
package access

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/proto/command"
	"github.com/ganglion-es/ganglion/proto/frame"
	"github.com/go-jose/go-jose/v4/json" // refuses duplicate members, as for other tokens
	"github.com/google/uuid"
)

// Identity identifies a client. The zero Identity is an anonymous client, which
// has access only by the rule Anyone.
type Identity struct {
	// Client is the client id: the token's subject.
	Client string
	// Claims are the claims of the token.
	Claims map[string]any
	// Expires is when the identity expires; zero if it does not.
	Expires time.Time

	inProcess bool
}

// InProcess returns the identity of a client that runs in the gateway's own process.
// Without a client id it gets one that no token can have.
func InProcess(id Identity) Identity {
	id.Client = cmp.Or(id.Client, "~node")
	id.inProcess = true
	return id
}

// IsInProcess reports whether the client runs in the gateway's own process. It
// need not be allowed to be a member of a consumer group.
func (id Identity) IsInProcess() bool { return id.inProcess }

// IsAnonymous reports whether the client has no id.
func (id Identity) IsAnonymous() bool { return id.Client == "" }

// ErrAuthUnavailable is the error of an Authenticator that can't identify
// clients at the moment, for instance because it has no keys yet. The client
// can retry, or connect to another gateway.
var ErrAuthUnavailable = errors.New("tokens can't be checked at the moment")

// Authenticator identifies clients. It is safe for concurrent use. The text of
// its errors is sent to the client: it must state what is wrong with the token,
// and must not contain the token.
type Authenticator interface {
	// Token returns the identity of the bearer of a token.
	Token(ctx context.Context, token string) (Identity, error)
	// Trust returns the identity of a client that only states its name.
	Trust(ctx context.Context, client string) (Identity, error)
}

// A Revoker is an Authenticator that revokes tokens before they expire.
type Revoker interface {
	Authenticator
	// Revoked returns the reason if an identity, which the Authenticator
	// returned earlier, was revoked, and nil if it was not.
	Revoked(Identity) error
	// Revocations returns a channel that is closed when more identities may
	// have been revoked.
	Revocations() <-chan struct{}
}

// DevelopmentWarning is the line that a program logs if it serves with
// [Development].
const DevelopmentWarning = "DEVELOPMENT AUTHENTICATION: every client id is taken on trust; do not expose this node to anybody you don't trust"

// Development returns an Authenticator that trusts every client. It accepts a
// client id without a token, and a token of the form dev:<client id>. A space
// and a JSON object of claims may follow: dev:cook {"role":"kitchen"}. Use it
// only among people who trust each other, and log [DevelopmentWarning].
func Development() Authenticator { return development{} }

// IsDevelopment reports whether an Authenticator is [Development].
func IsDevelopment(a Authenticator) bool { _, ok := a.(development); return ok }

type development struct{}

func (development) Token(_ context.Context, token string) (Identity, error) {
	client, ok := strings.CutPrefix(token, "dev:")
	if !ok {
		return Identity{}, errors.New("this gateway runs with development authentication: send a token of dev: and a client id, " +
			"with or without claims, such as dev:ada or dev:cook {\"role\":\"kitchen\"}")
	}
	client, rest, hasClaims := strings.Cut(client, " {")
	if err := eventstore.ValidateClient(client); err != nil {
		return Identity{}, fmt.Errorf("the token's client id: %w", err)
	}
	if !hasClaims {
		return Identity{Client: client}, nil
	}
	var claims map[string]any
	raw := []byte("{" + rest)
	if err := json.Unmarshal(raw, &claims); err != nil || !utf8.Valid(raw) || frame.HasHalfPair(raw) {
		return Identity{}, errors.New("the token's claims are not a JSON object in UTF-8: write dev: and a client id, a space and the claims, " +
			"such as dev:cook {\"role\":\"kitchen\"}")
	}
	return Identity{Client: client, Claims: claims}, nil
}

func (development) Trust(_ context.Context, client string) (Identity, error) {
	if err := eventstore.ValidateClient(client); err != nil {
		return Identity{}, err
	}
	return Identity{Client: client}, nil
}

// Failure turns an Authenticator's error into a failure for the client.
func Failure(err error) *command.Failure {
	if errors.Is(err, ErrAuthUnavailable) {
		return command.Unavailable("%v", err)
	}
	return command.Unauthenticated("%v", err)
}

// NewID returns a UUIDv7 (RFC 9562). It begins with the time, so that new
// entries of an index are next to each other.
func NewID() string { return uuid.Must(uuid.NewV7()).String() } // fails only without a source of randomness
