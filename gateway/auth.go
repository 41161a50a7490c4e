package gateway

import (
	"context"
	"errors"
	"net/http"
	"strings"

	"github.com/ganglion-es/ganglion/gateway/internal/access"
)

// Identity identifies a client. The zero Identity is an anonymous client, which
// has access only by the rule Anyone.
type Identity = access.Identity

// Authenticator identifies clients. It is safe for concurrent use. The text of
// its errors is sent to the client: it must state what is wrong with the token,
// and must not contain the token.
type Authenticator = access.Authenticator

// A Revoker is an [Authenticator] that revokes tokens before they expire.
type Revoker = access.Revoker

// Catalog is what a gateway knows about the application: its types and
// commands, its access rules, and the form in which clients see events. It is
// immutable and safe for concurrent use. *aggregate.Catalog satisfies it.
type Catalog = access.Catalog

// ErrAuthUnavailable is the error of an [Authenticator] that can't identify
// clients at the moment, for instance because it has no keys yet. The client
// can retry, or connect to another gateway.
var ErrAuthUnavailable = access.ErrAuthUnavailable

// DevelopmentWarning is the line that a program logs if it serves with
// [Development].
const DevelopmentWarning = access.DevelopmentWarning

// Development returns an Authenticator that trusts every client. It accepts a
// client id without a token, and a token of the form dev:<client id>. A space
// and a JSON object of claims may follow: dev:cook {"role":"kitchen"}. Use it
// only among people who trust each other, and log [DevelopmentWarning].
func Development() Authenticator { return access.Development() }

// inProcess is the key of an [Identity] in a request's context.
type inProcess struct{}

// InProcess marks the context of a connection from the gateway's own process, for
// [http.Server.ConnContext] of a server that nothing else can reach. Its session has
// the given identity without a token, and may be a member of every consumer group.
// An identity without a client id is that of the node itself.
func InProcess(ctx context.Context, id Identity) context.Context {
	return context.WithValue(ctx, inProcess{}, access.InProcess(id))
}

// bearer identifies the client by the Authorization header. Without one the
// client is anonymous.
func (g *Gateway) bearer(r *http.Request) (Identity, error) {
	if id, ok := r.Context().Value(inProcess{}).(Identity); ok {
		return id, nil
	}
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
		return Identity{}, errors.New("the Authorization header has another scheme than Bearer: send Bearer, a space and a token")
	}
	return g.cfg.Auth.Token(r.Context(), strings.TrimSpace(token))
}
