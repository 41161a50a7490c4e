package hub

// Stepper takes the turns of a hub with one shard on the caller's goroutine. It
// is for tests that control the time of each turn.
type Stepper struct {
	shard *Shard
	turn  *Turn
}

// NewStepper returns a Stepper. It stops the hub, so that Next does not block.
func NewStepper(h *Hub) *Stepper {
	h.Stop()
	return &Stepper{shard: h.shards[0], turn: h.shards[0].newTurn()}
}

// Next takes a turn's share of the work. It returns false if none is left.
func (s *Stepper) Next() bool { return s.shard.next(s.turn) }

// Serve writes to the sessions of the turn.
func (s *Stepper) Serve() { s.shard.serve(s.turn) }

// TakeAll takes turns until no work is left.
func (s *Stepper) TakeAll() {
	for s.Next() {
		s.Serve()
	}
}
