package gateway

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/ganglion-es/ganglion/proto/command"
	"github.com/ganglion-es/ganglion/proto/frame"
)

// debtor is a session or an HTTP response: something that holds bytes until a
// socket takes them.
type debtor interface {
	// debt returns how many bytes wait, and whether the client is anonymous.
	// closing reports whether they go away by themselves, soon.
	debt() (bytes int, anonymous, closing bool)
	// evict closes the connection, with 4100 if it is a session's.
	evict()
}

// debtPause is the least time between two looks for debtors. It leaves those
// that were evicted some time to let go of their bytes.
const debtPause = 20 * time.Millisecond

// owe counts bytes that wait for a socket, or no longer do.
func (g *Gateway) owe(bytes int) {
	if g.queued.Add(int64(bytes)) > int64(g.cfg.Limits.OutboundBytes) && bytes > 0 {
		select {
		case g.overload <- struct{}{}:
		default:
		}
	}
}

// crowded reports whether so much waits for all sockets together that sessions
// get small messages, and clients with a full socket are not read.
func (g *Gateway) crowded() bool { return g.queued.Load() > int64(g.cfg.Limits.OutboundBytes)/2 }

// watchDebts closes debtors when too much waits, until ctx ends.
func (g *Gateway) watchDebts(ctx context.Context) {
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		select {
		case <-g.overload:
		case <-ctx.Done():
			return
		}
		g.closeDebtors()
		pause.Reset(debtPause)
		select {
		case <-pause.C:
		case <-ctx.Done():
			return
		}
	}
}

// closeDebtors evicts debtors if more waits for sockets than may, until three
// quarters of that are left. First are anonymous clients that owe more than
// the average, and then whatever owes most.
func (g *Gateway) closeDebtors() {
	most := int64(g.cfg.Limits.OutboundBytes)
	waits := g.queued.Load()
	if waits <= most {
		return
	}
	type debt struct {
		debtor
		bytes int
		first bool
	}
	var debts []debt
	total := 0
	for _, d := range g.debtors() {
		switch bytes, anonymous, closing := d.debt(); {
		case closing:
			waits -= int64(bytes)
		case bytes > 0:
			debts = append(debts, debt{d, bytes, anonymous})
			total += bytes
		}
	}
	for i := range debts {
		debts[i].first = debts[i].first && debts[i].bytes >= total/len(debts)
	}
	slices.SortFunc(debts, func(a, b debt) int {
		switch {
		case a.first && !b.first:
			return -1
		case b.first && !a.first:
			return 1
		}
		return cmp.Compare(b.bytes, a.bytes)
	})
	closed := 0
	for _, d := range debts {
		if waits <= most {
			break
		}
		if closed == 0 {
			most = most / 4 * 3
		}
		d.evict()
		g.reached(limitOutboundBytes)
		waits -= int64(d.bytes)
		closed++
	}
	if closed > 0 {
		g.cfg.Logger.Warn("too much waits for sockets: the largest debtors are closed", "closed", closed, "waiting", waits, "limit", g.cfg.Limits.OutboundBytes)
	}
}

func (g *Gateway) debtors() []debtor {
	g.mu.Lock()
	defer g.mu.Unlock()
	all := make([]debtor, 0, len(g.sessions)+len(g.responses))
	for s := range g.sessions {
		all = append(all, s)
	}
	for r := range g.responses {
		all = append(all, r)
	}
	return all
}

func (s *session) debt() (bytes int, anonymous, closing bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.owed, s.identity.Client == "", s.evicted || s.ended
}

// evictedReason is what an evicted session is told.
const evictedReason = "this gateway's send buffers are full and you read too slowly: come back later"

// evict drops the answers that wait and closes the session. A message of which
// a part was written gets its rest written, if the kernel takes it.
func (s *session) evict() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.evicted || s.ended {
		return
	}
	s.evicted = true
	s.g.cfg.Logger.Info("session closed: it owed too much of the send buffers", "session", s.id, "client", s.identity.Client, "bytes", s.owed)
	for _, it := range s.queue {
		s.owe(-len(it.frame))
		if it.slot {
			<-s.slots
		}
	}
	s.queue, s.asks, s.closing = nil, nil, true
	ending := s.wire.close(frame.CloseOverloaded, evictedReason)
	if s.writing {
		s.socket.giveUp(ending)
		return
	}
	s.queue = append(s.queue, item{close: ending})
	s.kick()
}

// response is an HTTP response whose body waits for its client.
type response struct {
	g         *Gateway
	anonymous bool
	w         http.ResponseWriter
	control   *http.ResponseController

	mu      sync.Mutex
	bytes   int
	evicted bool
	over    bool // the handler may have returned
}

// respond registers a response. The handler calls the response's end.
func (g *Gateway) respond(w http.ResponseWriter, identity Identity) *response {
	r := &response{g: g, w: w, anonymous: identity.Client == "", control: http.NewResponseController(w)}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.responses[r] = struct{}{}
	return r
}

func (r *response) end() {
	r.g.mu.Lock()
	delete(r.g.responses, r)
	r.g.mu.Unlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.over = true
	r.g.owe(-r.bytes)
	r.bytes = 0
}

// write writes a part of the body to a client that may be slow, as long as it
// takes 4 KiB within each grace period. The part counts as waiting until then.
func (r *response) write(b []byte) error {
	r.holds(len(b))
	defer r.holds(0)
	for len(b) > 0 {
		if err := r.allow(); err != nil {
			return err
		}
		n, err := r.w.Write(b[:min(len(b), pieceBytes)])
		if err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// holds sets how many bytes wait in the handler.
func (r *response) holds(bytes int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.g.owe(bytes - r.bytes)
	r.bytes = bytes
}

// allow gives the next piece of the body the grace period, unless the response
// was evicted.
func (r *response) allow() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.evicted {
		return os.ErrDeadlineExceeded
	}
	err := r.control.SetWriteDeadline(time.Now().Add(r.g.cfg.ReadGrace))
	if errors.Is(err, errors.ErrUnsupported) { // a writer of a test, without a connection
		return nil
	}
	return err
}

func (r *response) debt() (bytes int, anonymous, closing bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.bytes, r.anonymous, r.evicted
}

func (r *response) evict() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.over {
		return
	}
	r.evicted = true
	_ = r.control.SetWriteDeadline(time.Now()) // the write that is under way fails
}

// enterRequest counts an HTTP request in progress of a client. Only without a
// failure must the caller call leave.
func (g *Gateway) enterRequest(identity Identity) (leave func(), failure *command.Failure) {
	most := g.cfg.Limits.OpenRequests
	if identity.Client == "" {
		most = max(1, g.cfg.Limits.Connections/2)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.requests[identity.Client] >= most {
		g.reached(limitOpenRequests)
		return nil, &command.Failure{
			Code: command.RateLimited, Retry: command.RetryLater, After: time.Second,
			Message: "too many requests of this client are in progress: wait for answers first",
		}
	}
	g.requests[identity.Client]++
	return func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.requests[identity.Client]--; g.requests[identity.Client] == 0 {
			delete(g.requests, identity.Client)
		}
	}, nil
}
