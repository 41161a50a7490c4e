package gateway

import (
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/gateway/internal/limits"
	"github.com/ganglion-es/ganglion/gateway/internal/questions"
	"github.com/ganglion-es/ganglion/gateway/internal/session"
	"github.com/ganglion-es/ganglion/gateway/internal/wire"
	"github.com/ganglion-es/ganglion/proto/ask"
	"github.com/ganglion-es/ganglion/proto/command"
	"github.com/ganglion-es/ganglion/proto/frame"
)

// serveQuery responds with a page of the rows of a query, or with all of its rows and
// their changes as Server-Sent Events.
func (g *Gateway) serveQuery(w http.ResponseWriter, r *http.Request, identity Identity) {
	live := acceptsEvents(r)
	query, failure := g.questionOf(r, live)
	if failure == nil {
		query.Question.Data, failure = g.readData(w, r)
	}
	if failure != nil {
		writeFailure(w, "", "", failure)
		return
	}
	w.Header().Add("Vary", "Accept")
	w.Header().Set("Ganglion-Log", g.log.ID())
	if live {
		g.streamQuery(w, r, identity, query)
		return
	}
	query.Question.Client, query.Question.Claims = identity.Client, identity.Claims
	answer, failure := g.server.Asker.Ask(r.Context(), questions.Caller{Client: identity.Client}, query.Question, query.Timeout)
	if failure != nil {
		writeFailure(w, "", "", failure)
		return
	}
	g.respond(w, identity, frame.Result{Position: answer.Position, Data: questions.Page(answer)})
}

// respond responds with a result, which may be large.
func (g *Gateway) respond(w http.ResponseWriter, identity Identity, result frame.Result) {
	out := g.responses.begin(w, identity)
	defer out.finish()
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	body := append(result.Append(nil), '\n')
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	_ = out.write(body) // the client may have gone
}

// acceptsEvents reports whether a request asks for Server-Sent Events.
func acceptsEvents(r *http.Request) bool {
	return strings.Contains(r.Header.Get("Accept"), "text/event-stream")
}

// streamQuery starts a session that sends the rows of a query as Server-Sent Events.
// It responds with a failure if there is no answer in time.
func (g *Gateway) streamQuery(w http.ResponseWriter, r *http.Request, identity Identity, query session.Query) {
	g.stream(w, r, identity, func(s *session.Session) (func([]byte, func() bool), *command.Failure) {
		if failure := s.Follow(r.Context(), query); failure != nil {
			return nil, failure
		}
		return func(head []byte, isOtherLog func() bool) { s.StartQueryStream(query, head, isOtherLog) }, nil
	})
}

// questionOf parses the path and the parameters of a query.
func (g *Gateway) questionOf(r *http.Request, live bool) (session.Query, *command.Failure) {
	q := session.Query{Question: ask.Question{Query: r.PathValue("name")}, Timeout: frame.DefaultTimeout}
	query, failure := parameters(r, "at_least", "timeout_ms", "after", "cursor", "log")
	if failure != nil {
		return q, failure
	}
	if at := query.Get("at_least"); at != "" {
		n, failure := number("at_least", at, 0, "must be a position: a whole number")
		if failure != nil {
			return q, failure
		}
		q.Question.AtLeast = eventstore.Position(n)
	}
	if ms := query.Get("timeout_ms"); ms != "" {
		n, failure := number("timeout_ms", ms, 1, timeoutRange)
		if failure != nil {
			return q, failure
		}
		if q.Timeout = time.Duration(n) * time.Millisecond; q.Timeout > frame.MaxTimeout || n > uint64(frame.MaxTimeout.Milliseconds()) {
			return q, badParameter("timeout_ms", timeoutRange)
		}
	}
	q.Question.After, q.Cursor = query.Get("after"), query.Get("cursor")
	if last := r.Header.Get("Last-Event-ID"); last != "" && live {
		q.Cursor = last
	}
	switch {
	case live && q.Question.After != "":
		return q, badParameter("after", "is for pages, and Server-Sent Events have all rows: leave it out")
	case !live && q.Cursor != "":
		return q, badParameter("cursor", "is for Server-Sent Events: send Accept: text/event-stream, or ask for a page with after")
	case !isOpaque(q.Question.After):
		return q, badParameter("after", "must be the member next of a page")
	case !isOpaque(q.Cursor):
		return q, badParameter("cursor", "must be the id of an earlier event")
	}
	log := query.Get("log")
	q.IsOtherLog = log != "" && log != g.log.ID() && q.Cursor != ""
	return q, nil
}

var timeoutRange = "must be 1 to " + strconv.FormatInt(frame.MaxTimeout.Milliseconds(), 10)

// isOpaque reports whether s can be a cursor or the place of a page.
func isOpaque(s string) bool {
	return len(s) <= frame.MaxCursorBytes && strings.IndexFunc(s, func(c rune) bool { return c < ' ' || c > '~' }) < 0
}

// readData reads the data of a query. An empty body means {}.
func (g *Gateway) readData(w http.ResponseWriter, r *http.Request) ([]byte, *command.Failure) {
	body, failure := g.readBody(w, r)
	switch {
	case failure != nil:
		return nil, failure
	case len(body) == 0:
		return []byte("{}"), nil
	}
	data, err := frame.ParseData(body)
	var bad *frame.Error
	switch {
	case err == nil:
		return data, nil
	case errors.As(err, &bad):
		return nil, bad.Failure()
	}
	return nil, command.BadRequest("", "the body is not JSON in UTF-8: send the parameters of the query as a JSON object")
}

// readBody reads the body of a request, which must arrive within the time for a
// hello.
func (g *Gateway) readBody(w http.ResponseWriter, r *http.Request) ([]byte, *command.Failure) {
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(time.Now().Add(g.cfg.Limits.HelloTimeout)) // a test's writer may have no connection
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, int64(g.cfg.Limits.FrameBytes)))
	_ = control.SetReadDeadline(time.Time{})
	var large *http.MaxBytesError
	switch {
	case err == nil:
		return body, nil
	case errors.As(err, &large):
		g.server.Counters.Reached(limits.FrameBytes)
		return nil, command.TooLarge("the body is larger than %d bytes", g.cfg.Limits.FrameBytes)
	}
	return nil, command.BadRequest("", "the body could not be read")
}

// stream starts a session of Server-Sent Events. prepare may block; it returns a
// function that starts the session with the head of the response, or the failure to
// respond with.
func (g *Gateway) stream(w http.ResponseWriter, r *http.Request, identity Identity, prepare func(*session.Session) (start func(head []byte, isOtherLog func() bool), failure *command.Failure)) {
	if !r.ProtoAtLeast(1, 1) {
		writeFailure(w, "", "", needsHTTP11())
		return
	}
	s := session.NewEventStream(g.server, identity)
	rec := &record{session: s}
	if failure := g.roster.reserve(rec, identity.Client); failure != nil {
		writeFailure(w, "", "", failure)
		return
	}
	start, failure := prepare(s)
	if failure != nil {
		g.roster.release(rec)
		writeFailure(w, "", "", failure)
		return
	}
	err := s.Hijack(w, func(w http.ResponseWriter) (wire.Wire, error) {
		_, _, err := w.(http.Hijacker).Hijack()
		return wire.EventStream{}, err
	})
	if err != nil {
		s.EndQueryStream()
		g.roster.release(rec)
		writeFailure(w, "", "", needsHTTP11())
		return
	}
	s.Hold()
	head := wire.EventStreamResponse(w.Header())
	if err := g.roster.admit(rec); err != nil { // the state may have changed in the meantime
		s.EndQueryStream()
		g.roster.reject(s, err, head)
		g.roster.release(rec)
		return
	}
	start(head, func() bool { return g.log.ID() != w.Header().Get("Ganglion-Log") })
}
