package session

// minReadRoom is the least room that is reserved in the outbox for a state before
// it is read, in bytes. If the last state was larger, the room for the next one
// is as large.
const minReadRoom = 16 << 10

// stateReads are the requests whose reply has a state: get, and subscribe with
// state. A state may be large, and it can be read again, so each request waits
// until the outbox has room. If the state is larger than its room and does not
// fit into the outbox, it is dropped, and read again when the outbox is empty.
// The pending states of a session therefore have at most Config.QueueBytes,
// unless a single state is larger than that.
type stateReads struct {
	waiting  []*stateRead
	reserved int // room for reads in progress, in bytes
	last     int // size of the last state, in bytes
}

type stateRead struct {
	read    func() (bytes int) // asks the router; s.mu is not held
	done    func()             // replies; s.mu is held
	isAlone bool               // it waits until the outbox is empty
}

// readState queues a request until the outbox has room for its reply. The
// caller holds s.mu.
func (s *Session) readState(r *stateRead) {
	s.states.waiting = append(s.states.waiting, r)
	s.startReads()
}

// startReads starts the requests for whose replies the outbox has room. The
// caller holds s.mu.
func (s *Session) startReads() {
	most, states := s.server.Out.QueueBytes, &s.states
	for len(states.waiting) > 0 && !s.out.IsClosing() {
		r, room := states.waiting[0], min(max(minReadRoom, states.last), most)
		if r.isAlone {
			room = most
		}
		if used := s.out.Bytes() + states.reserved; used > 0 && used+room > most {
			return // until a message has been written
		}
		states.waiting[0] = nil
		if states.waiting = states.waiting[1:]; len(states.waiting) == 0 {
			states.waiting = nil
		}
		states.reserved += room
		s.spawn(func() { s.finishRead(r, r.read(), room) })
	}
}

// finishRead replies with a state. If the state is too large for its room, it
// queues the request again.
func (s *Session) finishRead(r *stateRead, bytes, room int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.states.reserved -= room
	s.states.last = bytes
	used := s.out.Bytes() + s.states.reserved
	isTooLarge := bytes > room && used > 0 && used+bytes > s.server.Out.QueueBytes
	if isTooLarge && !r.isAlone && !s.out.IsClosing() {
		r.isAlone = true
		s.states.waiting = append([]*stateRead{r}, s.states.waiting...)
	} else {
		r.done()
	}
	s.startReads()
}
