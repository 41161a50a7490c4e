package gateway_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/ganglion-es/ganglion/gateway"
)

// A gateway stands between clients and a router, and is fed by whoever knows
// what was committed.
func Example() {
	g, err := gateway.New(gateway.Config{
		Node: "n1", Catalog: catalog{}, Store: nothing{}, Router: newOwner(nothing{}),
		Auth: gateway.Development(), // trusts everybody
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
	// 404 {"op":"error","code":"not_found","message":"there are no aggregates of type \"unicorn\"","retry":"no","type":"about:blank","title":"Not Found","status":404,"detail":"there are no aggregates of type \"unicorn\""}
	// <nil>
}
