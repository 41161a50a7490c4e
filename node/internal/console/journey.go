package console

import (
	"context"
	"net/http"
	"sort"
	"strconv"
	"sync"

	"github.com/ganglion-es/ganglion/eventstore"
)

// A Step is one thing that a member did for a command.
type Step struct {
	Member  string `json:"member"`
	Kind    string `json:"kind"`              // "command", "execute", "append" or "deliver"
	Command string `json:"command,omitempty"` // its name, if the member saw it
	// Position is that of the command's last event, 0 if it is unknown.
	Position uint64 `json:"position,omitempty"`
	// Began is a Unix time by the database's clock, as far as the member knows its
	// difference, and Took a duration, both in microseconds.
	Began   int64  `json:"began"`
	Took    int64  `json:"took"`
	Outcome string `json:"outcome,omitempty"` // a failure's code, or "replayed"
	Attempt int    `json:"attempt,omitempty"` // the number of nodes that the command was sent to
	// Subscriptions are the live ones that got the events.
	Subscriptions int `json:"subscriptions,omitempty"`
}

// A Follower is a projection or a process manager on a member.
type Follower struct {
	Member   string `json:"member"`
	Name     string `json:"name"`
	Segments int    `json:"segments"`
	// Lowest is the position that all of these segments have reached.
	Lowest uint64 `json:"lowest"`
}

// silentMember is a member that did not answer.
type silentMember struct {
	Member string `json:"member"`
	Why    string `json:"why"`
}

// serveJourney answers with what the members did for the command of the event at
// ?position=, or for the command ?key= of the aggregate ?type= and ?id=.
func (c *Console) serveJourney(w http.ResponseWriter, r *http.Request, _ User) {
	q := r.URL.Query()
	stream, key := eventstore.StreamID{Type: q.Get("type"), ID: q.Get("id")}, q.Get("key")
	if text := q.Get("position"); text != "" {
		position, err := strconv.ParseUint(text, 10, 63)
		if err != nil || position == 0 {
			refuse(w, http.StatusBadRequest, "position is the number of an event")
			return
		}
		page, err := c.cfg.Log.Read(r.Context(), eventstore.Position(position-1), 1)
		switch {
		case err != nil:
			refuse(w, http.StatusServiceUnavailable, "the log cannot be read now: "+err.Error())
			return
		case len(page) == 0:
			refuse(w, http.StatusNotFound, "the log has no event at position "+text)
			return
		}
		stream, key = page[0].Stream, page[0].Key
	}
	if stream.Type == "" || stream.ID == "" || key == "" {
		refuse(w, http.StatusBadRequest, "name a position, or a type, an id and a key")
		return
	}
	found := struct {
		Stream    string         `json:"stream"`
		Key       string         `json:"key"`
		Steps     []Step         `json:"steps"`
		Followers []Follower     `json:"followers"`
		Silent    []silentMember `json:"silent"`
	}{stream.String(), key, []Step{}, []Follower{}, []silentMember{}}
	ctx, cancel := context.WithTimeout(r.Context(), findWithin)
	defer cancel()
	var (
		asking sync.WaitGroup
		mu     sync.Mutex
	)
	for _, m := range c.cfg.State().Members {
		asking.Go(func() {
			steps, followers, err := c.cfg.Steps(ctx, m, stream, key)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				found.Silent = append(found.Silent, silentMember{m.ID, err.Error()})
			}
			for _, one := range steps {
				one.Member = m.ID
				one.Began -= m.ClockMS * 1000
				found.Steps = append(found.Steps, one)
			}
			for _, one := range followers {
				one.Member = m.ID
				found.Followers = append(found.Followers, one)
			}
		})
	}
	asking.Wait()
	sort.Slice(found.Steps, func(i, j int) bool { return found.Steps[i].Began < found.Steps[j].Began })
	sort.Slice(found.Followers, func(i, j int) bool {
		a, b := found.Followers[i], found.Followers[j]
		return a.Name < b.Name || a.Name == b.Name && a.Member < b.Member
	})
	answer(w, found)
}
