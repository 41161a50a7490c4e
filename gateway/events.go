package gateway

import (
	"errors"
	"net/http"
	"net/url"
	"strconv"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/gateway/internal/history"
	"github.com/ganglion-es/ganglion/gateway/internal/session"
	"github.com/ganglion-es/ganglion/proto/command"
	"github.com/ganglion-es/ganglion/proto/frame"
)

func (g *Gateway) serveStream(w http.ResponseWriter, r *http.Request, identity Identity) {
	s, failure := requested(r, r.PathValue("id"))
	g.serveEvents(w, r, identity, history.Topic{Stream: s}, failure)
}

func (g *Gateway) serveCategory(w http.ResponseWriter, r *http.Request, identity Identity) {
	s, failure := requested(r, "all")
	g.serveEvents(w, r, identity, history.Topic{Category: s.Type}, failure)
}

// serveEvents responds with the stored events of a topic, or with the stored and
// live ones as Server-Sent Events.
func (g *Gateway) serveEvents(w http.ResponseWriter, r *http.Request, identity Identity, t history.Topic, failure *command.Failure) {
	live := acceptsEvents(r)
	log := g.log.ID() // the whole response must be of this log
	req := frame.Subscribe{Stream: t.Stream, Category: t.Category}
	limit := 0
	if failure == nil {
		limit, failure = limitOf(r, live)
	}
	if failure == nil {
		failure = g.startOf(&req, r)
	}
	if failure == nil {
		failure = stateOf(&req, r, live)
	}
	if failure == nil {
		failure = g.gate.MayRead(identity, t)
	}
	var from history.Start
	if failure == nil {
		from, failure = g.log.Locate(r.Context(), history.Caller{Client: identity.Client}, t, req)
	}
	if failure == nil && !live { // read up to the stored head, so that a client finds the event it has just caused
		var err error
		if from.Head, err = g.log.Head(r.Context(), identity.Client); err != nil {
			failure = history.Failure(err)
		}
	}
	if failure != nil {
		writeFailure(w, "", "", failure)
		return
	}
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Add("Vary", "Accept")
	w.Header().Set("Ganglion-Log", log)
	if limit > 0 {
		g.listSome(w, r, identity, t, from, limit)
		return
	}
	w.Header().Set("Ganglion-Cursor", history.Cursor(max(from.Head, from.At)))
	if live {
		g.streamEvents(w, r, identity, t, from, req.State)
		return
	}
	g.listEvents(w, r, identity, t, from)
}

// errOtherLog cuts off a response that began before the log went back.
var errOtherLog = errors.New("the log went back")

// listEvents writes the events up to the head, one JSON object a line. After a
// failure, the response has no final chunk, so that the client notices.
func (g *Gateway) listEvents(w http.ResponseWriter, r *http.Request, identity Identity, t history.Topic, from history.Start) {
	w.Header().Set("Content-Type", "application/x-ndjson")
	if r.Method == http.MethodHead {
		return
	}
	out := g.responses.begin(w, identity)
	defer out.finish()
	at := from.Place
	for at.At < from.Head {
		p, err := g.log.ReadPage(r.Context(), identity.Client, t, at, from.Head)
		entries := p.Entries()
		if err == nil && g.log.ID() != w.Header().Get("Ganglion-Log") {
			entries, err = nil, errOtherLog
		}
		var page []byte
		for _, e := range entries {
			if e.Err != nil {
				_ = g.gate.Unshown(e)
				err = e.Err
				break
			}
			page = append(append(append(page, '{'), e.Tail...), '\n')
			at.Version = e.Version
		}
		if werr := out.write(page); err == nil {
			err = werr
		}
		if err != nil {
			g.cfg.Logger.Debug("a response was cut off", "err", err)
			panic(http.ErrAbortHandler) // leaves out the final chunk
		}
		at.At = p.End()
	}
}

// listSomeBytes is the size at which a response with a limit is full, even if it
// has fewer events. Such a response is collected in memory.
const listSomeBytes = 1 << 20

// listSome writes at most limit events. It reads them before the response
// begins, so that the header can have the cursor for the next request. A
// response without events means that no more are stored.
func (g *Gateway) listSome(w http.ResponseWriter, r *http.Request, identity Identity, t history.Topic, from history.Start, limit int) {
	at := from.Place
	var body []byte
	var failure *command.Failure
	for n := 0; at.At < from.Head && n < limit && len(body) < listSomeBytes && failure == nil; {
		p, err := g.log.ReadPage(r.Context(), identity.Client, t, at, from.Head)
		if err == nil && g.log.ID() != w.Header().Get("Ganglion-Log") {
			err = eventstore.ErrWentBack
		}
		if err != nil {
			failure = history.Failure(err)
			break
		}
		full := false
		for _, e := range p.Entries() {
			if e.Err != nil {
				unshown := g.gate.Unshown(e)
				if full = n > 0; !full { // return the events before it
					failure = unshown
				}
				break
			}
			body = append(append(append(body, '{'), e.Tail...), '\n')
			at, n = e.Place(), n+1
			if full = n == limit || len(body) >= listSomeBytes; full {
				break
			}
		}
		if full {
			break
		}
		at.At = p.End()
	}
	if failure != nil {
		writeFailure(w, "", "", failure)
		return
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.Header().Set("Ganglion-Cursor", history.Cursor(at.At))
	out := g.responses.begin(w, identity)
	defer out.finish()
	if err := out.write(body); err != nil {
		g.cfg.Logger.Debug("a response was cut off", "err", err)
		panic(http.ErrAbortHandler)
	}
}

// streamEvents starts a session that sends Server-Sent Events.
func (g *Gateway) streamEvents(w http.ResponseWriter, r *http.Request, identity Identity, t history.Topic, from history.Start, mode frame.StateMode) {
	if r.Method == http.MethodHead {
		w.Header().Set("Content-Type", "text/event-stream")
		return
	}
	g.stream(w, r, identity, func(s *session.Session) (func([]byte, func() bool), *command.Failure) {
		return func(head []byte, isOtherLog func() bool) { s.StartEventStream(t, from.Place, mode, head, isOtherLog) }, nil
	})
}

// needsHTTP11 refuses an event stream over a version of HTTP that has no chunks,
// or in which requests share a connection.
func needsHTTP11() *command.Failure {
	return command.Unsupported("Server-Sent Events need HTTP/1.1: use it, or a WebSocket")
}

// eventParameters are the query parameters of listings and streams of events.
var eventParameters = []string{"after", "last", "cursor", "from", "log", "limit", "state"}

// limitOf parses the maximum number of events in a listing; 0 means all. It
// refuses unknown parameters.
func limitOf(r *http.Request, live bool) (int, *command.Failure) {
	query, failure := parameters(r, eventParameters...)
	if failure != nil {
		return 0, failure
	}
	if !query.Has("limit") {
		return 0, nil
	}
	n, err := strconv.Atoi(query.Get("limit"))
	switch {
	case err != nil || n < 1:
		return 0, badParameter("limit", "must be a whole number of 1 or more")
	case live:
		return 0, badParameter("limit", "is for listings, and Server-Sent Events do not end: leave it out, or ask for application/x-ndjson")
	}
	return n, nil
}

// stateOf parses which states a stream of events has. It is called after
// startOf.
func stateOf(req *frame.Subscribe, r *http.Request, live bool) *command.Failure {
	query, failure := parameters(r, eventParameters...)
	if failure != nil || !query.Has("state") {
		return failure
	}
	mode := frame.StateMode(query.Get("state"))
	switch {
	case mode != frame.StateEach && mode != frame.StateOnly:
		return badParameter("state", "must be each or only; leave it out for events alone")
	case req.Category != "":
		return badParameter("state", "is for streams: a category has no state")
	case !live:
		return badParameter("state", "is for Server-Sent Events, and a listing has events alone: accept text/event-stream, or read the aggregate")
	case mode == frame.StateOnly && (req.After != nil || req.Last > 0):
		return badParameter("state", "is only, and after and last choose events: leave them out, or give the state each")
	}
	req.State = mode
	return nil
}

// startOf parses where a response begins. It has the choices of a subscription,
// but the default is the beginning of the log.
func (g *Gateway) startOf(req *frame.Subscribe, r *http.Request) *command.Failure {
	query, failure := parameters(r, eventParameters...)
	if failure != nil {
		return failure
	}
	if last := r.Header.Get("Last-Event-ID"); last != "" { // takes precedence: a browser repeats the URL of its first request
		query = url.Values{"cursor": {last}, "log": query["log"]}
	}
	after, last, from := query.Get("after"), query.Get("last"), query.Get("from")
	req.Cursor = query.Get("cursor")
	given := 0
	for _, v := range []string{after, last, from, req.Cursor} {
		if v != "" {
			given++
		}
	}
	switch {
	case given > 1:
		return command.BadRequest("cursor", "the parameters after, last, cursor and from exclude each other: give one of them")
	case req.Category != "" && after != "":
		return badParameter("after", "is for streams: a category begins at a cursor")
	case req.Category != "" && last != "":
		return badParameter("last", "is for streams: a category begins at a cursor")
	case after != "":
		n, failure := number("after", after, 0, "must be a version: a whole number")
		if failure != nil {
			return failure
		}
		v := eventstore.Version(n)
		req.After = &v
	case last != "":
		n, failure := number("last", last, 1, "must be a whole number of 1 or more")
		if failure != nil {
			return failure
		}
		req.Last = n
	case from == "now":
	case from != "":
		return badParameter("from", "must be now; leave it out to begin at the beginning")
	case req.Cursor == "":
		req.Cursor = "0"
	}
	if log, this := query.Get("log"), g.log.ID(); log != "" && log != this && req.Resumes() && !req.FromBeginning() {
		return history.OtherLog(log, this)
	}
	return nil
}
