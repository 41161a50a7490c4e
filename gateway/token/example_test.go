package token_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/ganglion-es/ganglion/gateway/token"
)

func Example() {
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	secrets := filepath.Join(dir, "secrets")
	if err := os.WriteFile(secrets, []byte("a-secret-that-openssl-rand-would-make-better\n"), 0o600); err != nil {
		panic(err)
	}

	ctx := context.Background()
	auth, err := token.New(ctx, token.Config{HMACFile: secrets, Audience: "auctions"})
	if err != nil {
		panic(err)
	}
	text, err := token.Sign(secrets, token.Grant{
		Client: "ada", Audience: "auctions", ExpiresIn: time.Hour, Claims: map[string]any{"role": "judge"},
	})
	if err != nil {
		panic(err)
	}
	id, err := auth.Token(ctx, text)
	fmt.Println(id.Client, id.Claims["role"], err)

	text, _ = token.Sign(secrets, token.Grant{Client: "ada", Audience: "shops", ExpiresIn: time.Hour})
	_, err = auth.Token(ctx, text)
	fmt.Println(err)

	_, err = auth.Trust(ctx, "ada")
	fmt.Println(err)
	// Output:
	// ada judge <nil>
	// the token's aud must contain "auctions"
	// this gateway requires a token, which contains the client id: send hello with token instead of client
}
