package gateway

import (
	"context"
	"errors"
	"fmt"
	"io"
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
	"github.com/ganglion-es/ganglion/proto"
	"github.com/ganglion-es/ganglion/proto/command"
	"github.com/ganglion-es/ganglion/proto/frame"
)

// Handler serves the gateway's paths. It may be mounted beside others.
func (g *Gateway) Handler() http.Handler { return g.handler }

// route is a path and who serves it; proto/openapi.yaml describes each.
type route struct {
	pattern string
	serve   http.HandlerFunc
}

func (g *Gateway) routes() []route {
	return []route{
		{"GET /v1/ws", g.serveWebSocket},
		{"POST /v1/commands", g.counted(g.serveCommand)},
		{"GET /v1/aggregates/{type}/{id}", g.counted(g.serveAggregate)},
		{"GET /v1/streams/{type}/{id}/events", g.counted(g.serveStream)},
		{"GET /v1/categories/{type}/events", g.counted(g.serveCategory)},
		{"POST /v1/queries/{name}", g.serveQuery},
		{"GET /v1/schema", serveDocument("application/schema+json", g.cfg.Schema)},
		{"GET /v1/openapi.yaml", serveDocument("application/yaml", proto.OpenAPI)},
		{"GET /v1/asyncapi.yaml", serveDocument("application/yaml", g.cfg.AsyncAPI)},
	}
}

func (g *Gateway) newHandler() http.Handler {
	mux := http.NewServeMux()
	for _, r := range g.routes() {
		mux.HandleFunc(r.pattern, r.serve)
	}
	mux.HandleFunc("/v1/", func(w http.ResponseWriter, r *http.Request) {
		writeFailure(w, "", "", &command.Failure{Code: command.NotFound, Message: "there is no " + r.Method + " " + clip(r.URL.Path)})
	})
	return g.boundHeader(g.shareWithOrigins(mux))
}

// boundHeader refuses requests whose header is past its limit.
func (g *Gateway) boundHeader(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if headerBytes(r) > g.cfg.Limits.HeaderBytes {
			g.reached(limitHeaderBytes)
			writeProblem(w, http.StatusRequestHeaderFieldsTooLarge, fault("", "", &command.Failure{
				Code: command.TooLarge, Message: "the request's header is larger than " + strconv.Itoa(g.cfg.Limits.HeaderBytes) + " bytes",
			}))
			return
		}
		next.ServeHTTP(w, r)
	})
}

// headerBytes is about how long a request's header was on the wire.
func headerBytes(r *http.Request) int {
	n := len(r.Method) + len(r.RequestURI) + len(r.Host)
	for name, values := range r.Header {
		for _, v := range values {
			n += len(name) + len(v) + len(": \r\n")
		}
	}
	return n
}

// serveDocument serves one of the documents that describe what is served.
func serveDocument(contentType string, text []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", contentType)
		_, _ = w.Write(text) // the client may have gone
	}
}

func (g *Gateway) serveQuery(w http.ResponseWriter, _ *http.Request) {
	writeFailure(w, "", "", &command.Failure{Code: command.Unsupported, Message: "this gateway answers no queries yet: read aggregates"})
}

// serveWebSocket is the handshake of a session, and then the session.
func (g *Gateway) serveWebSocket(w http.ResponseWriter, r *http.Request) {
	if !r.ProtoAtLeast(1, 1) || !offers(r.Header.Values("Upgrade"), "websocket") || !offers(r.Header.Values("Connection"), "upgrade") {
		g.refuseUpgrade(w, r)
		return
	}
	if offered := r.Header.Values("Sec-WebSocket-Protocol"); len(offered) > 0 && !offers(offered, frame.Subprotocol) {
		names := clip(strings.Join(offered, ", "))
		g.warnings.upgrade.Do(func() {
			g.cfg.Logger.Warn("a WebSocket was refused: none of its subprotocols is known", "offered", names, "known", frame.Subprotocol)
		})
		writeFailure(w, "", "", &command.Failure{
			Code: command.BadRequest, Message: "none of the offered subprotocols (" + names + ") is known: offer " + frame.Subprotocol + ", or none",
		})
		return
	}
	identity, err := g.bearer(r)
	if err != nil {
		writeFailure(w, "", "", untrusted(err))
		return
	}
	if err := g.Refusing(); err != nil {
		writeFailure(w, "", "", &command.Failure{Code: command.Unavailable, Retry: command.RetryLater, Message: err.Error() + ": connect to another gateway"})
		return
	}
	s := newSession(g, identity)
	conn, err := websocket.Accept(&hijacker{ResponseWriter: w, session: s}, r, &websocket.AcceptOptions{
		Subprotocols:       []string{frame.Subprotocol},
		InsecureSkipVerify: true, // checked above, to answer in our words
		OnPingReceived: func(_ context.Context, payload []byte) bool {
			s.pong(payload)
			return false
		},
	})
	if err != nil {
		s.cancel()
		g.warnings.upgrade.Do(func() { g.cfg.Logger.Warn("a WebSocket handshake failed", "error", err) })
		return
	}
	conn.SetReadLimit(-1) // read bounds messages, and says by what
	s.wire = webSocket{conn}
	if err := g.admit(s); err != nil { // too many, or it changed its mind during the handshake
		s.reject(err, nil)
		return
	}
	s.start() // beside the handler, whose goroutine keeps the request and its buffers
}

// refuseUpgrade answers a request that is no WebSocket handshake. Proxies drop
// the headers that make it one, unless they are told to pass them.
func (g *Gateway) refuseUpgrade(w http.ResponseWriter, r *http.Request) {
	upgrade, connection := clip(strings.Join(r.Header.Values("Upgrade"), ", ")), clip(strings.Join(r.Header.Values("Connection"), ", "))
	g.warnings.upgrade.Do(func() {
		g.cfg.Logger.Warn("a WebSocket was refused: the request does not upgrade its connection; a proxy must pass both headers "+
			"(nginx: proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection \"upgrade\")",
			"upgrade", upgrade, "connection", connection, "protocol", r.Proto)
	})
	w.Header().Set("Upgrade", "websocket")
	w.Header().Set("Connection", "Upgrade")
	writeProblem(w, http.StatusUpgradeRequired, fault("", "", &command.Failure{
		Code: command.BadRequest,
		Message: fmt.Sprintf("WebSockets connect here, by HTTP/1.1 with Upgrade: websocket and Connection: Upgrade; this request came by %s with Upgrade: %q and Connection: %q. "+
			"Use a WebSocket client, or the other paths under /v1. If a proxy dropped the headers, let it pass them "+
			"(nginx: proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection \"upgrade\")",
			r.Proto, upgrade, connection),
	}))
}

// offers reports whether a header that lists tokens has one of them.
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

// counted serves a request of a client that has not too many in progress.
func (g *Gateway) counted(serve func(http.ResponseWriter, *http.Request, Identity)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		identity, err := g.bearer(r)
		if err != nil {
			writeFailure(w, "", "", untrusted(err))
			return
		}
		leave, failure := g.enterRequest(identity)
		if failure != nil {
			writeFailure(w, "", "", failure)
			return
		}
		defer leave()
		serve(w, r, identity)
	}
}

// serveCommand is a command over HTTP. Each request is a lane of its own.
func (g *Gateway) serveCommand(w http.ResponseWriter, r *http.Request, identity Identity) {
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(time.Now().Add(g.cfg.Limits.HelloTimeout)) // some writers of tests have no connection
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, int64(g.cfg.Limits.FrameBytes)))
	_ = control.SetReadDeadline(time.Time{})
	if err != nil {
		f := &command.Failure{Code: command.BadRequest, Message: "the body could not be read"}
		var large *http.MaxBytesError
		if errors.As(err, &large) {
			g.reached(limitFrameBytes)
			f = &command.Failure{Code: command.TooLarge, Message: "the body is larger than " + strconv.Itoa(g.cfg.Limits.FrameBytes) + " bytes"}
		}
		writeFailure(w, "", "", f)
		return
	}
	f, err := frame.ParseCommand(body)
	if err != nil {
		var bad *frame.Error
		if !errors.As(err, &bad) {
			bad = &frame.Error{Code: command.BadRequest, Message: "the body is not JSON in UTF-8: send the body of a command frame"}
		}
		writeFailure(w, bad.ID, bad.Key, &command.Failure{Code: bad.Code, Field: bad.Field, Message: bad.Message})
		return
	}
	log := g.logCommand(&f, identity)
	var c command.Command
	var failure *command.Failure
	if after := g.rates.take(identity.Client, time.Now()); after > 0 {
		failure = g.tooFast(after)
	} else {
		c, failure = g.prepare(f, identity, newID())
	}
	if failure != nil {
		log.end(f.Key, command.Failed(failure))
		writeFailure(w, f.ID, f.Key, failure)
		return
	}
	g.stats.commands.Add(1)
	outcome := make(chan command.Outcome, 1)
	g.cfg.Router.Send(c, func(o command.Outcome) {
		log.end(c.Key, o)
		outcome <- o
	})
	select { // the router answers by the command's deadline
	case o := <-outcome:
		if o.Failure != nil {
			writeFailure(w, f.ID, c.Key, o.Failure)
			return
		}
		writeJSON(w, http.StatusOK, "application/json", answer(f.ID, c.Key, o).Append(nil))
	case <-r.Context().Done(): // the client has gone
	}
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
		state, failure = g.state(r.Context(), f, identity, "")
	}
	if failure != nil {
		writeFailure(w, "", "", failure)
		return
	}
	out := g.respond(w, identity)
	defer out.end()
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	body := append(frame.Result{Version: state.Version, Position: state.Position, Data: state.Data}.Append(nil), '\n')
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	_ = out.write(body) // the client may have gone
}

// requested reads what a request asks for.
func requested(r *http.Request, id string) (eventstore.StreamID, *command.Failure) {
	s := eventstore.StreamID{Type: r.PathValue("type"), ID: id}
	if err := s.Validate(); err != nil {
		return s, &command.Failure{Code: command.BadRequest, Field: "aggregate", Message: err.Error()}
	}
	return s, nil
}

// parameters reads the query string. It refuses one that can be read in two
// ways (a parameter given twice, bytes that are not UTF-8) and parameters that
// are not of names: one that was ignored would change what the answer means.
func parameters(r *http.Request, names ...string) (url.Values, *command.Failure) {
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, &command.Failure{Code: command.BadRequest, Message: "the query string can't be read: write name=value, with & between them, percent-encoded"}
	}
	for _, name := range slices.Sorted(maps.Keys(query)) {
		switch values := query[name]; {
		case !utf8.ValidString(name):
			return nil, &command.Failure{Code: command.BadRequest, Message: "the name of a parameter is not valid UTF-8"}
		case !slices.Contains(names, name):
			return nil, &command.Failure{
				Code: command.BadRequest, Field: clip(name),
				Message: "there is no parameter " + strconv.Quote(clip(name)) + " here: use " + strings.Join(names, ", "),
			}
		case len(values) > 1:
			return nil, badParameter(clip(name), "is given twice: give it once")
		case !utf8.ValidString(values[0]):
			return nil, badParameter(clip(name), "is not valid UTF-8")
		}
	}
	return query, nil
}

// number reads a whole number from least on. what says what else it must be.
func number(name, value string, least uint64, what string) (uint64, *command.Failure) {
	n, err := strconv.ParseUint(value, 10, 64)
	switch {
	case errors.Is(err, strconv.ErrRange), n > frame.MaxNumber:
		return 0, badParameter(name, "is "+clip(value)+": whole numbers from 2^53 on may have been rounded on their way and are refused")
	case err != nil, n < least:
		return 0, badParameter(name, what)
	}
	return n, nil
}

func badParameter(name, what string) *command.Failure {
	return &command.Failure{Code: command.BadRequest, Field: name, Message: "the parameter " + name + " " + what}
}
