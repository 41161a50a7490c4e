package gateway

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/coder/websocket"
	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/gateway/internal/access"
	"github.com/ganglion-es/ganglion/gateway/internal/history"
	"github.com/ganglion-es/ganglion/gateway/internal/limits"
	"github.com/ganglion-es/ganglion/gateway/internal/session"
	"github.com/ganglion-es/ganglion/gateway/internal/stomp"
	"github.com/ganglion-es/ganglion/gateway/internal/wire"
	"github.com/ganglion-es/ganglion/proto"
	"github.com/ganglion-es/ganglion/proto/command"
	"github.com/ganglion-es/ganglion/proto/frame"
)

// Handler returns a handler for the gateway's paths, which are below /v1.
func (g *Gateway) Handler() http.Handler { return g.handler }

// route is a path and its handler; proto/openapi.yaml describes each.
type route struct {
	pattern string
	serve   http.HandlerFunc
}

func (g *Gateway) routes() []route {
	return []route{
		{"GET /v1/ws", g.serveWebSocket},
		{"GET /v1/stomp", g.serveWebSocket},
		{"POST /v1/commands", g.counted(g.serveCommand)},
		{"GET /v1/aggregates/{type}/{id}", g.counted(g.serveAggregate)},
		{"GET /v1/streams/{type}/{id}/events", g.counted(g.serveStream)},
		{"GET /v1/categories/{type}/events", g.counted(g.serveCategory)},
		{"POST /v1/queries/{name}", g.counted(g.serveQuery)},
		{"POST /v1/groups/{group}/next", g.counted(g.serveNext)},
		{"GET /v1/schema", serveDocument("application/schema+json", g.cfg.Schema)},
		{"GET /v1/openapi.yaml", serveDocument("application/yaml", proto.OpenAPI)},
		{"GET /v1/asyncapi.yaml", serveDocument("application/yaml", g.cfg.AsyncAPI)},
		{"GET /v1/docs", g.serveDocs},
	}
}

func (g *Gateway) newHandler() http.Handler {
	mux := http.NewServeMux()
	for _, r := range g.routes() {
		mux.HandleFunc(r.pattern, r.serve)
	}
	mux.HandleFunc("/v1/", func(w http.ResponseWriter, r *http.Request) {
		writeFailure(w, "", "", command.NotFound("there is no %s %s", r.Method, command.Clip(r.URL.Path)))
	})
	return g.boundHeader(g.shareWithOrigins(mux))
}

// boundHeader refuses requests whose header exceeds its limit.
func (g *Gateway) boundHeader(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if headerBytes(r) > g.cfg.Limits.HeaderBytes {
			g.server.Counters.Reached(limits.HeaderBytes)
			writeProblem(w, http.StatusRequestHeaderFieldsTooLarge, wire.Fault("", "", command.TooLarge(
				"the request's header is larger than %d bytes", g.cfg.Limits.HeaderBytes)))
			return
		}
		next.ServeHTTP(w, r)
	})
}

// headerBytes returns the approximate size of a request's header on the wire.
func headerBytes(r *http.Request) int {
	n := len(r.Method) + len(r.RequestURI) + len(r.Host)
	for name, values := range r.Header {
		for _, v := range values {
			n += len(name) + len(v) + len(": \r\n")
		}
	}
	return n
}

// serveDocument serves one of the documents that describe the API.
func serveDocument(contentType string, text []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", contentType)
		_, _ = w.Write(text) // the client may have gone
	}
}

// serveDocs serves the documents as a page, which loads nothing and runs no scripts.
func (g *Gateway) serveDocs(w http.ResponseWriter, r *http.Request) {
	if g.cfg.Docs == nil {
		writeFailure(w, "", "", command.NotFound("there is no %s %s", r.Method, command.Clip(r.URL.Path)))
		return
	}
	w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	serveDocument("text/html; charset=utf-8", g.cfg.Docs)(w, r)
}

// serveWebSocket performs the handshake of a session and starts the session.
func (g *Gateway) serveWebSocket(w http.ResponseWriter, r *http.Request) {
	if !r.ProtoAtLeast(1, 1) || !offers(r.Header.Values("Upgrade"), "websocket") || !offers(r.Header.Values("Connection"), "upgrade") {
		g.refuseUpgrade(w, r)
		return
	}
	protocols, isSTOMP := subprotocols(r)
	if protocols == nil {
		names, known := command.Clip(strings.Join(r.Header.Values("Sec-WebSocket-Protocol"), ", ")), strings.Join(append(stomp.Subprotocols(), frame.Subprotocol), ", ")
		g.warnings.upgrade.Do(func() {
			g.cfg.Logger.Warn("a WebSocket was refused: no known subprotocol", "offered", names, "known", known)
		})
		writeFailure(w, "", "", command.BadRequest("", "none of the offered subprotocols (%s) is known: offer one of %s, or none", names, known))
		return
	}
	identity, err := g.bearer(r)
	if err != nil {
		writeFailure(w, "", "", access.Failure(err))
		return
	}
	if err := g.Refusing(); err != nil {
		writeFailure(w, "", "", failureOf(err))
		return
	}
	s := session.New(g.server, identity)
	err = s.Hijack(w, func(w http.ResponseWriter) (wire.Wire, error) {
		conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{
			Subprotocols:       protocols,
			InsecureSkipVerify: true, // shareWithOrigins has checked the origin
			OnPingReceived: func(_ context.Context, payload []byte) bool {
				s.Pong(payload)
				return false
			},
		})
		if err != nil {
			return nil, err
		}
		conn.SetReadLimit(-1) // the wire bounds messages, and names the bound
		if isSTOMP {
			return stomp.New(&g.stomp, conn), nil
		}
		return wire.WebSocket{Conn: conn}, nil
	})
	if err != nil {
		g.warnings.upgrade.Do(func() { g.cfg.Logger.Warn("a WebSocket handshake failed", "err", err) })
		return
	}
	if err := g.roster.admit(&record{session: s}); err != nil { // the state may have changed during the handshake
		g.roster.reject(s, err, nil)
		return
	}
	s.Start() // in a new goroutine, since the handler's keeps the request and its buffers
}

// subprotocols returns the subprotocols of which a handshake gets one, and whether they
// are those of STOMP. It returns nil if the client offers only unknown ones. Without an
// offer, the path decides.
func subprotocols(r *http.Request) (names []string, isSTOMP bool) {
	offered := r.Header.Values("Sec-WebSocket-Protocol")
	switch {
	case len(offered) == 0:
		return []string{}, r.URL.Path == "/v1/stomp"
	case offers(offered, frame.Subprotocol):
		return []string{frame.Subprotocol}, false
	}
	for _, name := range stomp.Subprotocols() {
		if offers(offered, name) {
			return stomp.Subprotocols(), true
		}
	}
	return nil, false
}

// refuseUpgrade refuses a request that is not a WebSocket handshake. Proxies drop
// the two headers of a handshake, unless they are configured to pass them.
func (g *Gateway) refuseUpgrade(w http.ResponseWriter, r *http.Request) {
	upgrade, connection := command.Clip(strings.Join(r.Header.Values("Upgrade"), ", ")), command.Clip(strings.Join(r.Header.Values("Connection"), ", "))
	g.warnings.upgrade.Do(func() {
		g.cfg.Logger.Warn("a WebSocket was refused: the request does not upgrade its connection; a proxy must pass both headers "+
			"(nginx: proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection \"upgrade\")",
			"upgrade", upgrade, "connection", connection, "protocol", r.Proto)
	})
	w.Header().Set("Upgrade", "websocket")
	w.Header().Set("Connection", "Upgrade")
	writeProblem(w, http.StatusUpgradeRequired, wire.Fault("", "", command.BadRequest("",
		"this path is for WebSockets, over HTTP/1.1 with Upgrade: websocket and Connection: Upgrade; this request came over %s with Upgrade: %q and Connection: %q. "+
			"Use a WebSocket client, or the other paths under /v1. If a proxy dropped the headers, configure it to pass them "+
			"(nginx: proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection \"upgrade\")",
		r.Proto, upgrade, connection)))
}

// offers reports whether a header, which is a list of tokens, has a token.
func offers(headers []string, token string) bool {
	for _, h := range headers {
		for p := range strings.SplitSeq(h, ",") {
			if strings.EqualFold(strings.TrimSpace(p), token) {
				return true
			}
		}
	}
	return false
}

// counted returns a handler that calls serve, unless the client has too many
// requests in progress.
func (g *Gateway) counted(serve func(http.ResponseWriter, *http.Request, Identity)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		identity, err := g.bearer(r)
		if err != nil {
			writeFailure(w, "", "", access.Failure(err))
			return
		}
		leave, failure := g.responses.enter(identity)
		if failure != nil {
			writeFailure(w, "", "", failure)
			return
		}
		defer leave()
		serve(w, r, identity)
	}
}

// serveCommand executes the command of a request. Concurrent requests have no
// order.
func (g *Gateway) serveCommand(w http.ResponseWriter, r *http.Request, identity Identity) {
	body, failure := g.readBody(w, r)
	if failure != nil {
		writeFailure(w, "", "", failure)
		return
	}
	f, err := frame.ParseCommand(body)
	if err != nil {
		var bad *frame.Error
		if !errors.As(err, &bad) {
			bad = &frame.Error{Code: command.CodeBadRequest, Message: "the body is not JSON in UTF-8: send the body of a command frame"}
		}
		writeFailure(w, bad.ID, bad.Key, bad.Failure())
		return
	}
	answer := g.execute(r.Context(), f, identity, g.rates.Take(identity.Client, time.Now()))
	if fault, failed := answer.(frame.Fault); failed {
		writeProblem(w, statusOf(fault.Code), fault)
		return
	}
	writeJSON(w, http.StatusOK, "application/json", answer.Append(nil))
}

// state reads an aggregate's public state.
func (g *Gateway) state(ctx context.Context, f frame.Get, identity Identity) (command.State, *command.Failure) {
	if failure := g.gate.MayRead(identity, history.Topic{Stream: f.Aggregate}); failure != nil {
		return command.State{}, failure
	}
	get := command.Get{Stream: f.Aggregate, AtLeast: f.AtLeast, Strong: f.Strong}
	return g.server.States.Get(ctx, history.Caller{Client: identity.Client}, get)
}

func (g *Gateway) serveAggregate(w http.ResponseWriter, r *http.Request, identity Identity) {
	s, failure := requested(r, r.PathValue("id"))
	f := frame.Get{Aggregate: s}
	query, bad := parameters(r, "at_least", "strong")
	if failure == nil {
		failure = bad
	}
	if at := query.Get("at_least"); at != "" && failure == nil {
		var n uint64
		n, failure = number("at_least", at, 0, "must be a position: a whole number")
		f.AtLeast = eventstore.Position(n)
	}
	if strong := query.Get("strong"); query.Has("strong") && failure == nil {
		var err error
		if f.Strong, err = strconv.ParseBool(strong); err != nil && strong != "" {
			failure = badParameter("strong", "must be true or false")
		}
		f.Strong = f.Strong || strong == ""
	}
	var state command.State
	if failure == nil {
		state, failure = g.state(r.Context(), f, identity)
	}
	if failure != nil {
		writeFailure(w, "", "", failure)
		return
	}
	g.respond(w, identity, frame.Result{Version: state.Version, Position: state.Position, Data: state.Data})
}

// requested returns the aggregate that a request names.
func requested(r *http.Request, id string) (eventstore.StreamID, *command.Failure) {
	s := eventstore.StreamID{Type: r.PathValue("type"), ID: id}
	if err := s.Validate(); err != nil {
		return s, command.BadRequest("aggregate", "%v", err)
	}
	return s, nil
}

// parameters parses the query string. It refuses ambiguous query strings (a
// parameter given twice, bytes that are not UTF-8) and unknown parameters:
// a response that ignored one would have another meaning.
func parameters(r *http.Request, names ...string) (url.Values, *command.Failure) {
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, command.BadRequest("", "the query string can't be read: write percent-encoded pairs name=value, with & between them")
	}
	for _, name := range slices.Sorted(maps.Keys(query)) {
		switch values := query[name]; {
		case !utf8.ValidString(name):
			return nil, command.BadRequest("", "the name of a parameter is not valid UTF-8")
		case !slices.Contains(names, name):
			return nil, command.BadRequest(command.Clip(name), "there is no parameter %s here: use %s", command.Quote(name), strings.Join(names, ", "))
		case len(values) > 1:
			return nil, badParameter(command.Clip(name), "is given twice: give it once")
		case !utf8.ValidString(values[0]):
			return nil, badParameter(command.Clip(name), "is not valid UTF-8")
		}
	}
	return query, nil
}

// number parses a whole number of at least least. what describes a valid one.
func number(name, value string, least uint64, what string) (uint64, *command.Failure) {
	n, err := strconv.ParseUint(value, 10, 64)
	switch {
	case errors.Is(err, strconv.ErrRange), n > frame.MaxNumber:
		return 0, badParameter(name, "is "+command.Clip(value)+": numbers of 2^53 or more may have been rounded in transit; send a smaller number")
	case err != nil, n < least:
		return 0, badParameter(name, what)
	}
	return n, nil
}

func badParameter(name, what string) *command.Failure {
	return command.BadRequest(name, "the parameter %s %s", name, what)
}
