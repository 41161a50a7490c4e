package console

import (
	"encoding/json"
	"net/http"
	"slices"
	"time"
)

// Ring says which member owns which partition.
type Ring struct {
	// Members are the members of the ring, sorted.
	Members []string
	// Owners has the owner of each partition, "" without one.
	Owners []string
	// Moves are the changes of the last hour that the node has seen, the newest first.
	Moves []Move
	// Partition returns the partition of an aggregate, type/id. The error says what is
	// wrong with its name.
	Partition func(aggregate string) (int, error)
}

// A Move counts the partitions that passed from one member to another.
type Move struct {
	At         time.Time `json:"at"`
	From       string    `json:"from"` // "" if they had no owner
	To         string    `json:"to"`   // "" if they have no owner
	Partitions int       `json:"partitions"`
}

// serveRing answers with the ring, and with the owner of the aggregate in ?aggregate=.
func (c *Console) serveRing(w http.ResponseWriter, r *http.Request, _ User) {
	ring := c.cfg.Ring()
	answer := struct {
		Members []string `json:"members"`
		Owners  []int    `json:"owners"` // indexes in Members, -1 without an owner
		Moves   []Move   `json:"moves"`
		Sought  any      `json:"sought,omitempty"`
	}{Members: ring.Members, Moves: ring.Moves}
	for _, id := range ring.Owners {
		answer.Owners = append(answer.Owners, slices.Index(ring.Members, id))
	}
	if name := r.URL.Query().Get("aggregate"); name != "" {
		p, err := ring.Partition(name)
		if err != nil {
			refuse(w, http.StatusBadRequest, err.Error())
			return
		}
		answer.Sought = map[string]any{"aggregate": name, "partition": p, "owner": ring.Owners[p]}
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(answer) // the page may have gone
}
