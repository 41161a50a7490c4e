package console

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// viewEvery is how old the answer of a view may be, so that several pages share one
	// read.
	viewEvery = 2 * time.Second
	// viewWithin bounds a read, and viewShare the share of the time for which the
	// database works for a view: after a read of 100 ms, the next one begins 2 s later.
	viewWithin, viewShare = 5 * time.Second, 20
	// viewKept is how long an answer is kept after the last request.
	viewKept = 30 * time.Second
)

// A View reads what a page shows: in whole, and as users see it who may not see data.
// Its calls do not overlap.
type View func(context.Context) (whole, masked any, err error)

// view reads a View for all pages of the node.
type view struct {
	read View

	mu            sync.Mutex // held during a read, so that one serves all
	whole, masked []byte
	err           error
	next          time.Time   // when it is read again
	forget        *time.Timer // nil before the first request

	changed atomic.Bool // an operator has acted since the last read began
}

// get returns the answer for a user with a role. It is read again if it is too old.
func (v *view) get(ctx context.Context, role Role) ([]byte, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.forget == nil {
		v.forget = time.AfterFunc(viewKept, v.clear)
	}
	v.forget.Reset(viewKept)
	if began := time.Now(); v.changed.Swap(false) || !began.Before(v.next) {
		within, cancel := context.WithTimeout(ctx, viewWithin)
		defer cancel()
		whole, masked, err := v.read(within)
		switch {
		case ctx.Err() != nil: // this page has gone, and the next one reads
			v.changed.Store(true)
			return nil, ctx.Err()
		case err != nil && within.Err() != nil:
			err = errors.New("the database did not answer within " + viewWithin.String())
		}
		v.whole, v.masked, v.err = nil, nil, err
		if err == nil {
			if v.whole, v.err = json.Marshal(whole); v.err == nil {
				v.masked, v.err = json.Marshal(masked)
			}
		}
		v.next = time.Now().Add(max(viewEvery, viewShare*time.Since(began)))
	}
	if role.includes(Reader) {
		return v.whole, v.err
	}
	return v.masked, v.err
}

// clear forgets the answer.
func (v *view) clear() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.whole, v.masked, v.err, v.next = nil, nil, nil, time.Time{}
}

// serveView answers with what a page of the read side shows.
func (c *Console) serveView(w http.ResponseWriter, r *http.Request, user User) {
	v := c.views[r.PathValue("view")]
	if v == nil {
		refuse(w, http.StatusNotFound, "the console has no "+r.URL.Path)
		return
	}
	text, err := v.get(r.Context(), user.Role)
	switch {
	case r.Context().Err() != nil: // the page has gone
	case err != nil:
		c.cfg.Logger.Warn("reading for the console failed", "view", r.PathValue("view"), "err", err)
		refuse(w, http.StatusServiceUnavailable, "this cannot be read now: "+err.Error())
	default:
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(text) // the page may have gone
	}
}
