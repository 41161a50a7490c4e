package gateway_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/ganglion-es/ganglion/gateway"
)

// A gateway passes commands of clients to a router. The feed calls Deliver with
// committed events.
func Example() {
	g, err := gateway.New(gateway.Config{
		Node: "n1", Catalog: catalog{}, Store: emptyStore{}, Router: newOwner(emptyStore{}),
		Auth: gateway.Development(), // trusts every client
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	stopped := make(chan error)
	go func() { stopped <- g.Run(ctx) }()
	g.Begin(0) // the log is empty: live delivery begins at its first event

	w := httptest.NewRecorder()
	command := `{"aggregate":"unicorn/1","command":"ride","data":{}}`
	r := httptest.NewRequestWithContext(ctx, http.MethodPost, "/v1/commands", strings.NewReader(command))
	r.Header.Set("Authorization", "Bearer dev:ada")
	g.Handler().ServeHTTP(w, r)
	fmt.Print(w.Code, " ", w.Body)

	cancel()
	fmt.Println(<-stopped)
	// Output:
	// 404 {"op":"error","code":"not_found","message":"unknown aggregate type \"unicorn\"","retry":"no","type":"about:blank","title":"Not Found","status":404,"detail":"unknown aggregate type \"unicorn\""}
	// <nil>
}
