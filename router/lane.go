package router

import (
	"hash/maphash"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/proto/command"
	"github.com/ganglion-es/ganglion/router/link"
)

// call is a command on its way, from Send or a peer's stream until it is
// answered and no executor or link has it any more. What follows lane is
// guarded by the shard's lock.
type call struct {
	cmd    command.Command
	claims []byte // cmd.Claims as JSON, once it was needed or as it came
	lane   *lane
	order  uint64 // in the lane

	// Where the answer goes: to reply, or as the answer to request id of the
	// lane's inbound stream. hop is that request's.
	reply func(command.Outcome)
	id    uint64
	hop   uint32

	at       place            // who has it; zero: nobody, it waits
	turn     uint64           // of the current or last handing over
	least    link.Trust       // that the link which it goes over next must have
	tried    []string         // nodes that refused it or whose answer will never come
	unknown  int              // how many of those may have executed it
	declined *command.Failure // what the last of them refused it with, if it did
	refused  *command.Failure // the answer, if whoever has it gives none
	search   time.Time        // when it stops waiting for a candidate
	timer    *time.Timer

	answered bool
}

// place is where a call was handed to: this node's executor, or a link.
type place struct {
	node string
	link *link.Link // nil: the executor
}

// lane holds the calls of one session to one aggregate, in order.
type lane struct {
	key   laneKey
	calls []*call
	// placed is how many of calls are handed over. Unless broken, they are
	// the first ones. A lane is broken when calls came back unanswered while
	// others were still out; nothing is sent until those are back as well.
	placed int
	broken bool
	order  uint64 // of the newest call

	mark    *command.Lane // of the newest call handed to the executor
	pumping bool          // a goroutine hands over its calls

	// A lane of this node's session is busy while telling, the number of its
	// refusals on their way to the client, is not 0, and until pausedUntil: for
	// all but the command with key first, the earliest that was refused. One of
	// a peer's refuses requests whose sender had not acted on reply refusedBy.
	// Either refuses with refusal.
	telling     int
	pausedUntil time.Time
	first       string
	firstOrder  uint64
	refusedBy   uint64
	refusal     *command.Failure
}

// laneKey names a lane. Calls without a session have a lane each, which is in
// no map.
type laneKey struct {
	peer    *inbound // nil: this node's own session
	session string
	stream  eventstore.StreamID
}

// shard is a part of the router's lanes, under one lock. Nothing is called
// with it held but links and streams, which take requests and replies without
// blocking: executors and reply functions are called after it is released.
//
// Lock order: shard.mu, then inbound.mu or part.mu, then those inside package
// link.
type shard struct {
	router *Router

	mu      sync.Mutex
	lanes   map[laneKey]*lane
	waiting map[*lane]struct{} // for a candidate
	paused  int                // lanes that are busy for a while
	full    time.Time          // when too many are, the whole shard is, until then
	answers []answer           // to be given when the lock is released
}

// answer is a reply function about to be called.
type answer struct {
	reply   func(command.Outcome)
	outcome command.Outcome
	busy    *lane // if not nil, it pauses once the client has been told
}

var seed = maphash.MakeSeed()

func (r *Router) shard(key *laneKey) *shard {
	var h maphash.Hash
	h.SetSeed(seed)
	h.WriteString(key.session)
	h.WriteString(key.stream.Type)
	h.WriteString(key.stream.ID)
	return &r.shards[h.Sum64()%uint64(len(r.shards))]
}

// unlock releases the lock and gives the answers that came up under it.
func (s *shard) unlock() {
	answers := s.answers
	s.answers = nil
	s.mu.Unlock()
	for _, a := range answers {
		switch f := a.outcome.Failure; {
		case f == nil && a.outcome.Result.Position > 0 && !a.outcome.Result.Replayed:
			s.router.tellAnswered()
		case f != nil && f.Code == command.Unavailable:
			s.router.tellUnavailable(f)
		}
		a.reply(a.outcome)
		if a.busy != nil {
			s.told(a.busy, a.outcome.Failure.After)
		}
	}
}

// lane returns the lane of a key.
func (s *shard) lane(key laneKey) *lane {
	if key.session == "" {
		return &lane{key: key}
	}
	l := s.lanes[key]
	if l == nil {
		l = &lane{key: key}
		s.lanes[key] = l
	}
	return l
}

// tidy forgets a lane that has nothing to remember. Whoever held on to it
// across a release of the lock may tidy it again when its key has long named
// another lane, which stays: were it forgotten with calls in it, the next call
// would open a third one and overtake them.
func (s *shard) tidy(l *lane) {
	if len(l.calls) > 0 {
		return
	}
	delete(s.waiting, l)
	if !l.pumping && !l.busy() && l.refusedBy == 0 && s.lanes[l.key] == l {
		delete(s.lanes, l.key)
	}
}

// kick looks again at the lanes that wait for a candidate.
func (s *shard) kick() {
	s.mu.Lock()
	defer s.unlock()
	waiting := s.waiting
	if len(waiting) == 0 {
		return
	}
	s.waiting = make(map[*lane]struct{})
	for l := range waiting {
		s.pump(l)
		s.tidy(l)
	}
}

// enter takes a call into its lane, or refuses it. seen is how many replies
// the sender of an inbound call had acted on.
func (r *Router) enter(key laneKey, c *call, seen uint64) {
	s := r.shard(&key)
	now := time.Now()
	c.search = now.Add(r.cfg.Search)
	over := r.count.unanswered.Add(1) > int64(r.cfg.MaxUnanswered)
	s.mu.Lock()
	defer s.unlock()
	l := s.lane(key)
	l.order++
	c.lane, c.order = l, l.order
	l.calls = append(l.calls, c)
	if f := s.known(c, now, seen); f != nil {
		s.answer(c, command.Failed(f), true)
	} else if over {
		s.answer(c, command.Failed(busy("this node has %d unanswered commands", r.cfg.MaxUnanswered)), false)
	} else if len(l.calls) > r.cfg.MaxLane {
		s.answer(c, command.Failed(busy("this session has %d unanswered commands for %v", r.cfg.MaxLane, key.stream)), false)
	} else {
		c.timer = time.AfterFunc(min(r.cfg.Search, c.cmd.Deadline.Sub(now)), func() { r.expire(s, c) })
		s.pump(l)
	}
	s.tidy(l)
}

// known returns the refusal that the sender of a new call could not know of
// when it sent it; nil if there is none.
func (s *shard) known(c *call, now time.Time, seen uint64) *command.Failure {
	l := c.lane
	if p := l.key.peer; p != nil {
		if seen < l.refusedBy {
			return l.refusal
		}
		return p.refusesAll(l, seen)
	}
	if l.key.session == "" || l.busy() && c.cmd.Key == l.first {
		return nil
	}
	until := l.pausedUntil
	if l.telling > 0 {
		until = now.Add(s.router.cfg.BusyPause)
	}
	if s.full.After(until) {
		until = s.full
	}
	if !now.Before(until) {
		return nil
	}
	f := busy("too many commands of this node's sessions have to be sent again")
	if l.busy() {
		f = new(*l.refusal)
	}
	f.After = until.Sub(now)
	return f
}

// comesAgain tells whether a failed command will be sent again, by its sender
// or by its client: what is behind it must wait for that.
func comesAgain(f *command.Failure) bool {
	return f != nil && (f.Retry != command.RetryNo || f.Elsewhere)
}

// behind is the failure of what comes after a command that comes again. It was
// not begun, and its own time is not over.
func behind(f *command.Failure) *command.Failure {
	g := &command.Failure{Code: f.Code, Message: f.Message, Retry: command.RetryLater, After: f.After, Elsewhere: f.Elsewhere}
	if f.Code != command.Unavailable && !f.Elsewhere {
		g.Code = command.Busy
	}
	if !f.Elsewhere && !strings.HasPrefix(f.Message, afterAnother) {
		g.Message = afterAnother + f.Message
	}
	return g
}

const afterAnother = "a command that this session sent before this one has to be sent again first: "

// answer gives a call its outcome, and refuses what is behind it if it comes
// again. again says that it is refused because another one was.
func (s *shard) answer(c *call, out command.Outcome, again bool) {
	if c.answered {
		return
	}
	c.answered = true
	if c.timer != nil {
		c.timer.Stop()
	}
	r, l := s.router, c.lane
	r.count.unanswered.Add(-1)
	var refusal *command.Failure // of what is behind it
	if f := out.Failure; f != nil {
		g := r.final(c, f)
		if comesAgain(f) {
			if g.After == 0 && !g.Elsewhere {
				g.After = r.cfg.BusyPause
			}
			refusal = behind(f)
			refusal.After = g.After
		}
		out.Failure = g
	}
	if p := l.key.peer; p != nil {
		n := p.answer(c.id, out)
		// Also what is refused because something before it was: a sender may
		// know of that one and not yet of this.
		if refusal != nil && l.key.session != "" && p.remember(l, n) {
			l.refusedBy = n
			if !again || l.refusal == nil {
				l.refusal = refusal
			}
		}
		r.own.add(-1)
	} else {
		told := answer{reply: c.reply, outcome: out}
		if refusal != nil && !again && l.key.session != "" {
			if !l.busy() || c.order < l.firstOrder {
				l.first, l.firstOrder, l.refusal = c.cmd.Key, c.order, refusal
			}
			told.busy = l
			l.telling++
		}
		s.answers = append(s.answers, told)
	}
	if c.at == (place{}) {
		l.remove(c)
	}
	if refusal != nil && !again {
		s.refuseBehind(c, refusal)
	}
}

// refuseBehind refuses all calls of a lane that came after c. Those that
// nobody has are answered at once. Whoever has one of the others refuses it as
// well, and says so; if that answer never comes, it is not sent again.
func (s *shard) refuseBehind(c *call, f *command.Failure) {
	for _, d := range slices.Clone(c.lane.calls) {
		switch {
		case d.order <= c.order || d.answered:
		case d.at == (place{}):
			s.answer(d, command.Failed(f), true)
			if l := d.lane; l.key.peer == nil && l.key.session != "" {
				// Its client may know of the first refusal long before this one.
				s.answers[len(s.answers)-1].busy = l
				l.telling++
			}
		default:
			d.refused = f
		}
	}
}

// busy tells whether a lane takes only the command that has to come first.
func (l *lane) busy() bool { return l.telling > 0 || !l.pausedUntil.IsZero() }

// remove takes a call that nobody has out of its lane.
func (l *lane) remove(c *call) {
	switch i := slices.Index(l.calls, c); i {
	case -1:
	case 0:
		l.calls[0] = nil
		l.calls = l.calls[1:]
	default:
		l.calls = slices.Delete(l.calls, i, i+1)
	}
}

// maxPaused bounds the lanes of a shard that stay busy for a while. When there
// are more, the whole shard is.
const maxPaused = 1024

// told pauses a lane whose client has been told of a refusal. A pause that began
// with the decision could be over before the client knew.
func (s *shard) told(l *lane, d time.Duration) {
	s.mu.Lock()
	defer s.unlock()
	l.telling--
	s.pause(l, d)
	s.tidy(l)
}

// pause keeps a lane busy for a while.
func (s *shard) pause(l *lane, d time.Duration) {
	until := time.Now().Add(d)
	switch {
	case !l.pausedUntil.IsZero():
		if until.After(l.pausedUntil) {
			l.pausedUntil = until // resume sees that it comes too early
		}
	case s.paused >= maxPaused:
		if until.After(s.full) {
			s.full = until
		}
	default:
		s.paused++
		l.pausedUntil = until
		time.AfterFunc(d, func() { s.resume(l) })
	}
}

// resume ends a lane's pause.
func (s *shard) resume(l *lane) {
	s.mu.Lock()
	defer s.unlock()
	if left := time.Until(l.pausedUntil); left > 0 {
		time.AfterFunc(left, func() { s.resume(l) })
		return
	}
	l.pausedUntil = time.Time{}
	s.paused--
	s.tidy(l)
}
