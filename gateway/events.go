package gateway

import (
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/proto/command"
	"github.com/ganglion-es/ganglion/proto/frame"
)

func (g *Gateway) serveStream(w http.ResponseWriter, r *http.Request, identity Identity) {
	s, failure := requested(r, r.PathValue("id"))
	g.serveEvents(w, r, identity, topic{stream: s}, failure)
}

func (g *Gateway) serveCategory(w http.ResponseWriter, r *http.Request, identity Identity) {
	s, failure := requested(r, "all")
	g.serveEvents(w, r, identity, topic{category: s.Type}, failure)
}

// serveEvents answers with the events of a topic: those that there are, or as
// Server-Sent Events also those that come.
func (g *Gateway) serveEvents(w http.ResponseWriter, r *http.Request, identity Identity, t topic, failure *command.Failure) {
	live := strings.Contains(r.Header.Get("Accept"), "text/event-stream")
	log := g.cfg.Store.LogID() // that all of the answer belongs to
	req := frame.Subscribe{Stream: t.stream, Category: t.category}
	limit := 0
	if failure == nil {
		limit, failure = limitOf(r, live)
	}
	if failure == nil {
		failure = g.startOf(&req, r)
	}
	if failure == nil {
		failure = g.mayRead(identity, t)
	}
	var from start
	if failure == nil {
		from, failure = g.locate(r.Context(), asker{client: identity.Client}, t, req)
	}
	if failure == nil && !live { // up to the log's own head: who just wrote finds it here
		if done, err := g.reading(r.Context(), identity.Client); err != nil {
			failure = readFailure(err)
		} else {
			from.head, err = g.cfg.Store.Head(r.Context())
			done()
			if err != nil {
				failure = readFailure(err)
			}
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
	w.Header().Set("Ganglion-Cursor", cursor(max(from.head, from.at)))
	if live {
		g.streamEvents(w, r, identity, t, from)
		return
	}
	g.listEvents(w, r, identity, t, from)
}

// errOtherLog cuts off an answer that began before the log went back.
var errOtherLog = errors.New("the log went back")

// listEvents writes the events up to the head, one JSON object a line. A
// response that is cut off short has no final chunk: clients see that.
func (g *Gateway) listEvents(w http.ResponseWriter, r *http.Request, identity Identity, t topic, from start) {
	w.Header().Set("Content-Type", "application/x-ndjson")
	if r.Method == http.MethodHead {
		return
	}
	out := g.respond(w, identity)
	defer out.end()
	at, version := from.at, from.version
	for at < from.head {
		p, err := g.readPage(r.Context(), identity.Client, t, place{at, version}, from.head)
		if err == nil && g.cfg.Store.LogID() != w.Header().Get("Ganglion-Log") {
			p.list, err = nil, errOtherLog
		}
		var page []byte
		for _, e := range p.list {
			if e.err != nil {
				g.logUnshown(e)
				err = e.err
				break
			}
			page = append(append(append(page, '{'), e.tail...), '\n')
			version = e.version
		}
		if werr := out.write(page); err == nil {
			err = werr
		}
		if err != nil {
			g.cfg.Logger.Debug("a response was cut off", "error", err)
			panic(http.ErrAbortHandler) // the way to tell the client that there was more
		}
		at = p.to.at
	}
}

// listSomeBytes is when an answer with a limit is full, however few events it
// has: it is gathered in memory.
const listSomeBytes = 1 << 20

// listSome writes at most limit events. They are read before the answer
// begins, so that its header can say where the next one begins. An answer
// without events says that there are no more.
func (g *Gateway) listSome(w http.ResponseWriter, r *http.Request, identity Identity, t topic, from start, limit int) {
	at, version := from.at, from.version
	var body []byte
	var failure *command.Failure
	for n := 0; at < from.head && n < limit && len(body) < listSomeBytes && failure == nil; {
		p, err := g.readPage(r.Context(), identity.Client, t, place{at, version}, from.head)
		if err == nil && g.cfg.Store.LogID() != w.Header().Get("Ganglion-Log") {
			err = eventstore.ErrWentBack
		}
		if err != nil {
			failure = readFailure(err)
			break
		}
		full := false
		for _, e := range p.list {
			if e.err != nil {
				g.logUnshown(e)
				if full = n > 0; !full { // the events before it are worth an answer
					failure = g.unshown(e)
				}
				break
			}
			body = append(append(append(body, '{'), e.tail...), '\n')
			at, version, n = e.position, e.version, n+1
			if full = n == limit || len(body) >= listSomeBytes; full {
				break
			}
		}
		if full {
			break
		}
		at = p.to.at
	}
	if failure != nil {
		writeFailure(w, "", "", failure)
		return
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.Header().Set("Ganglion-Cursor", cursor(at))
	out := g.respond(w, identity)
	defer out.end()
	if err := out.write(body); err != nil {
		g.cfg.Logger.Debug("a response was cut off", "err", err)
		panic(http.ErrAbortHandler)
	}
}

// streamEvents begins a session that sends Server-Sent Events.
func (g *Gateway) streamEvents(w http.ResponseWriter, r *http.Request, identity Identity, t topic, from start) {
	if r.Method == http.MethodHead {
		w.Header().Set("Content-Type", "text/event-stream")
		return
	}
	if !r.ProtoAtLeast(1, 1) {
		writeFailure(w, "", "", needsHTTP11())
		return
	}
	s := newSession(g, identity)
	s.greeted, s.paused = true, true // the client says nothing
	if failure := g.enterNow(s); failure != nil {
		writeFailure(w, "", "", failure)
		return
	}
	_, rw, err := (&hijacker{ResponseWriter: w, session: s}).Hijack()
	if err != nil {
		g.unenter(s)
		writeFailure(w, "", "", needsHTTP11())
		return
	}
	s.wire = eventStream{rw.Reader}
	giveUpAfter(s.socket.Conn, g.cfg.ReadGrace)
	header := eventStreamHeader(w.Header())
	s.mu.Lock()
	s.writing = true // the shard writes nothing before the header, such as a close
	s.mu.Unlock()
	if err := g.admit(s); err != nil { // it changed its mind meanwhile
		s.reject(err, header)
		g.unenter(s)
		return
	}
	sub := &subscription{
		session: s, id: eventStreamSub, topic: t, head: eventStreamHead,
		started: true, at: from.at, version: from.version,
	}
	s.mu.Lock()
	s.writing = false
	// From here on whoever leaves the log closes this session as well.
	if g.cfg.Store.LogID() != w.Header().Get("Ganglion-Log") {
		s.part(frame.CloseLost, errOtherLog.Error())
	}
	s.subs[sub.id] = sub
	s.work(sub)
	if !s.ended && s.send(header) {
		s.kick()
	}
	s.mu.Unlock()
	s.start()
}

// needsHTTP11 refuses what has no chunks, or no connection of its own.
func needsHTTP11() *command.Failure {
	return &command.Failure{Code: command.Unsupported, Message: "Server-Sent Events need HTTP/1.1: use it, or a WebSocket"}
}

// enterNow counts a session that is about to begin among those of its client,
// or says why it can't begin.
func (g *Gateway) enterNow(s *session) *command.Failure {
	g.mu.Lock()
	err := g.refusal()
	g.mu.Unlock()
	if err == nil {
		err = g.enter(s, s.identity.Client)
	}
	if err != nil {
		return tooMany(err)
	}
	return nil
}

// eventParameters are the query parameters of listings and streams of events.
var eventParameters = []string{"after", "last", "cursor", "from", "log", "limit"}

// limitOf reads how many events a listing may have, 0 for all, and refuses
// parameters that do not exist.
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
		return 0, badParameter("limit", "is for listings: Server-Sent Events go on; leave it out, or ask for application/x-ndjson")
	}
	return n, nil
}

// startOf reads where a reading of events begins: where a subscription could,
// but by default at the beginning.
func (g *Gateway) startOf(req *frame.Subscribe, r *http.Request) *command.Failure {
	query, failure := parameters(r, eventParameters...)
	if failure != nil {
		return failure
	}
	if last := r.Header.Get("Last-Event-ID"); last != "" { // the URL is still that of the first request
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
		return badParameter("cursor", "and after, last and from exclude each other: give one of them")
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
		return badParameter("from", "must be now, or left out for the beginning")
	case req.Cursor == "":
		req.Cursor = "0"
	}
	if log, this := query.Get("log"), g.cfg.Store.LogID(); log != "" && log != this && req.Resumes() && !req.FromBeginning() {
		return cursorOfOtherLog(log, this)
	}
	return nil
}
