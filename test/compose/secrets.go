package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"

	ganglion "github.com/ganglion-es/ganglion/client/go"
)

// revoke revokes the tokens of a client. Its session must end, and the token must
// not open another one. The sessions of other clients continue.
func (l *load) revoke(ctx context.Context) error {
	const client = "mallory"
	token, err := output(ctx, "deploy/cluster.sh", "ganglion", "token", "--client", client)
	if err != nil {
		return err
	}
	c, err := ganglion.Connect(ctx, ganglion.Options{
		URLs: []string{l.url}, Token: func(context.Context) (string, error) { return token, nil },
	})
	if err != nil {
		return err
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if _, err := counters.Aggregate(c, client).Get(ctx); err != nil {
		return fmt.Errorf("before its token was revoked: %w", err)
	}
	if err := cluster(ctx, "secrets", "ganglion", "revoke", "--jwt-revocations", "revoked", "--client", client); err != nil {
		return err
	}
	// After the session was closed, the library reconnects with the token, and gives
	// up when the token is refused.
	select {
	case <-c.Done():
	case <-ctx.Done():
		return errors.New("the session continues after its token was revoked")
	}
	var refused *ganglion.Error
	if err := c.Err(); !errors.As(err, &refused) || refused.Code != ganglion.CodeUnauthenticated {
		return fmt.Errorf("with a revoked token: %w, want %s", err, ganglion.CodeUnauthenticated)
	}
	return nil
}

// newAuthority replaces the certificates with those of another authority, as
// docs/security.md describes.
func newAuthority(ctx context.Context) error {
	for _, step := range [][]string{
		{"ganglion", "certs", "--dir", "next", "--node", "domain", "--node", "gateway"},
		{"cat next/ca.pem >>ca.pem"},
		{"mv next/*.key next/domain.pem next/gateway.pem ."},
		{"mv next/ca.pem . && rmdir next"},
	} {
		if err := cluster(ctx, append([]string{"secrets"}, step...)...); err != nil {
			return err
		}
	}
	return nil
}

// newPassword changes the password of the database, which nodes read at their start.
func newPassword(ctx context.Context) error {
	password := rand.Text()
	if err := cluster(ctx, "compose", "exec", "-T", "postgres", "psql", "-U", "ganglion", "-c", "ALTER ROLE ganglion PASSWORD '"+password+"'"); err != nil {
		return err // the nodes keep the current password
	}
	return cluster(ctx, "secrets", "echo "+password+" >database-password")
}
