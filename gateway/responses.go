package gateway

import (
	"errors"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/ganglion-es/ganglion/gateway/internal/limits"
	"github.com/ganglion-es/ganglion/gateway/internal/socket"
	"github.com/ganglion-es/ganglion/proto/command"
)

// responses bounds the HTTP requests in progress of each client, and has the
// responses that are being written. It is safe for concurrent use.
type responses struct {
	limits   *limits.Limits
	counters *limits.Counters
	budget   *limits.Budget
	grace    time.Duration // for each write of 4 KiB

	mu       sync.Mutex
	byClient map[string]int // requests in progress
	open     map[*response]struct{}
}

// enter counts a client's request as in progress. The caller must call leave at
// its end, unless enter returns a failure.
func (rs *responses) enter(identity Identity) (leave func(), failure *command.Failure) {
	most := rs.limits.OpenRequests
	if identity.IsAnonymous() {
		most = max(1, rs.limits.Connections/2)
	}
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if rs.byClient[identity.Client] >= most {
		rs.counters.Reached(limits.OpenRequests)
		return nil, command.RateLimited(time.Second, "too many requests of this client are in progress: wait for replies first")
	}
	rs.byClient[identity.Client]++
	return func() {
		rs.mu.Lock()
		defer rs.mu.Unlock()
		if rs.byClient[identity.Client]--; rs.byClient[identity.Client] == 0 {
			delete(rs.byClient, identity.Client)
		}
	}, nil
}

// begin registers a response. The handler must call finish.
func (rs *responses) begin(w http.ResponseWriter, identity Identity) *response {
	r := &response{all: rs, w: w, anonymous: identity.IsAnonymous(), control: http.NewResponseController(w)}
	rs.mu.Lock()
	defer rs.mu.Unlock()
	rs.open[r] = struct{}{}
	return r
}

// appendTo appends the responses to holders.
func (rs *responses) appendTo(holders []limits.Holder) []limits.Holder {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	for r := range rs.open {
		holders = append(holders, r)
	}
	return holders
}

// response is an HTTP response that is being written.
type response struct {
	all       *responses
	anonymous bool
	w         http.ResponseWriter
	control   *http.ResponseController

	mu        sync.Mutex
	bytes     int
	isEvicted bool
	hasEnded  bool // the handler may have returned
}

func (r *response) finish() {
	r.all.mu.Lock()
	delete(r.all.open, r)
	r.all.mu.Unlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.hasEnded = true
	r.all.budget.Add(-r.bytes)
	r.bytes = 0
}

// write writes a part of the body, which counts as outbound bytes until write
// returns. It blocks as long as the client takes 4 KiB within each grace period.
func (r *response) write(b []byte) error {
	r.hold(len(b))
	defer r.hold(0)
	for len(b) > 0 {
		if err := r.extendDeadline(); err != nil {
			return err
		}
		n, err := r.w.Write(b[:min(len(b), socket.PieceBytes)])
		if err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// hold sets the number of outbound bytes of the response.
func (r *response) hold(bytes int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all.budget.Add(bytes - r.bytes)
	r.bytes = bytes
}

// extendDeadline gives the next piece of the body the grace period, unless the
// response was evicted.
func (r *response) extendDeadline() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.isEvicted {
		return os.ErrDeadlineExceeded
	}
	err := r.control.SetWriteDeadline(time.Now().Add(r.all.grace))
	if errors.Is(err, errors.ErrUnsupported) { // a test's writer has no connection
		return nil
	}
	return err
}

// Held implements [limits.Holder].
func (r *response) Held() (bytes int, anonymous, closing bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.bytes, r.anonymous, r.isEvicted
}

// Evict implements [limits.Holder].
func (r *response) Evict() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.hasEnded {
		return
	}
	r.isEvicted = true
	_ = r.control.SetWriteDeadline(time.Now()) // the write in progress fails
}
