package console

import (
	"context"
	"net/http"
	"slices"
	"sort"
	"sync"
	"time"
)

const (
	// maxSessions is the number of sessions that a member describes, and that an answer
	// has.
	maxSessions = 200
	// findWithin bounds the answer of a member.
	findWithin = 5 * time.Second
	// maxSought bounds the text that is sought, in bytes.
	maxSought = 400
)

// Sessions are the sessions of one gateway.
type Sessions struct {
	// Open is their number, Full that of the ones whose socket is full, and Matching that
	// of the ones that match the text.
	Open, Full, Matching int
	// List describes at most maxSessions of the matching ones.
	List []Session
}

// Session is a session of a gateway.
type Session struct {
	ID            string  `json:"id"`
	Client        string  `json:"client,omitempty"` // missing for anonymous ones
	Node          string  `json:"node"`
	Protocol      string  `json:"protocol"`
	Seconds       int64   `json:"seconds"`           // since it was opened
	Waiting       uint64  `json:"waiting,omitempty"` // bytes that were not written to its socket
	Full          bool    `json:"full,omitempty"`    // its socket is full
	Subscriptions int     `json:"subscriptions"`
	Topics        []Topic `json:"topics"` // of the first subscriptions
}

// Topic is what a session subscribes to: TYPE/ID, TYPE/*, "query NAME" or "group NAME".
type Topic struct {
	Name string `json:"name"`
	// Behind is the number of positions from its cursor to the head.
	Behind uint64 `json:"behind,omitempty"`
}

// gatewayRow counts the sessions of a gateway.
type gatewayRow struct {
	ID       string `json:"id"`
	Open     int    `json:"open"`
	Full     int    `json:"full"`
	Matching int    `json:"matching"`
	// Silent is why the gateway did not answer, "" if it did.
	Silent string `json:"silent,omitempty"`
}

// serveSessions answers with the number of sessions of all gateways, and with the first
// ones that have the text ?q= in their id or their client id.
func (c *Console) serveSessions(w http.ResponseWriter, r *http.Request, _ User) {
	text := r.URL.Query().Get("q")
	if len(text) > maxSought {
		refuse(w, http.StatusBadRequest, "the text is too long")
		return
	}
	page := struct {
		Open     int          `json:"open"`
		Full     int          `json:"full"`
		Matching int          `json:"matching"`
		Gateways []gatewayRow `json:"gateways"`
		Sessions []Session    `json:"sessions"`
	}{Gateways: []gatewayRow{}, Sessions: []Session{}}
	ctx, cancel := context.WithTimeout(r.Context(), findWithin)
	defer cancel()
	var gateways []Member
	for _, m := range c.cfg.State().Members {
		if slices.Contains(m.Roles, "gateway") {
			gateways = append(gateways, m)
		}
	}
	answers, errs := make([]Sessions, len(gateways)), make([]error, len(gateways))
	var asking sync.WaitGroup
	for i, m := range gateways {
		asking.Go(func() { answers[i], errs[i] = c.cfg.Sessions(ctx, m, text, maxSessions) })
	}
	asking.Wait()
	for i, m := range gateways {
		row := gatewayRow{ID: m.ID}
		if errs[i] != nil {
			row.Silent = errs[i].Error()
		} else {
			a := answers[i]
			row.Open, row.Full, row.Matching = a.Open, a.Full, a.Matching
			page.Open, page.Full, page.Matching = page.Open+a.Open, page.Full+a.Full, page.Matching+a.Matching
			for _, s := range a.List {
				s.Node = m.ID
				page.Sessions = append(page.Sessions, s)
			}
		}
		page.Gateways = append(page.Gateways, row)
	}
	sort.Sort(bySlowness(page.Sessions))
	page.Sessions = page.Sessions[:min(len(page.Sessions), maxSessions)]
	answer(w, page)
}

// bySlowness sorts the sessions whose socket is full first, and then by client.
type bySlowness []Session

func (s bySlowness) Len() int      { return len(s) }
func (s bySlowness) Swap(i, j int) { s[i], s[j] = s[j], s[i] }
func (s bySlowness) Less(i, j int) bool {
	a, b := &s[i], &s[j]
	switch {
	case a.Full != b.Full:
		return a.Full
	case a.Client != b.Client:
		return a.Client < b.Client
	}
	return a.ID < b.ID
}
