package load

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// An Order tells the clients what to do next.
type Order struct {
	Do    string // open, saturate, pace, publish, resume, trickle or cut
	Group string // of sessions

	Sessions int      // open, resume: number of sessions
	Topics   []string // session i subscribes to the one at i modulo their number
	Slot     int      // open: which of a session's two subscriptions

	For    time.Duration // saturate, pace
	Window int           // saturate: published events that are not yet delivered to all
	Burst  int           // saturate, publish: events per request, all to one topic
	Rate   int           // pace: events per second; trickle: bytes per second and session
	Events int           // publish: events per topic
	After  int           // resume: the last known version

	Watch []int // processes to measure, each with its children and theirs
}

// A Report is the result of an Order.
type Report struct {
	Error string

	Elapsed    time.Duration
	Events     int // published, or resumed per session
	Deliveries int
	Messages   int // that the sessions received
	Skipped    int // of Deliveries: the client got only a newer version
	Bytes      int
	CPU        []time.Duration // processor time per watched process
	Own        time.Duration   // processor time of this process
	P50, P99   time.Duration   // from publication to receipt
	Done       []time.Duration // resume: sorted times until each session caught up
	Furthest   uint64          // cut: the newest version that a session received
}

// patience bounds each wait.
const patience = 2 * time.Minute

// Run executes orders from in, one JSON object per line, and writes a Report for
// each to out. Between orders the sessions stay open and reply to pings.
func Run(dialect, server, publish string, in io.Reader, out io.Writer) error {
	d, ok := Dialects[dialect]
	if !ok {
		return fmt.Errorf("unknown dialect %q", dialect)
	}
	to, err := sockaddr(server)
	if err != nil {
		return err
	}
	l, err := newLoop(d, to)
	if err != nil {
		return err
	}
	w := &worker{loop: l, groups: map[string]*group{}, topics: map[string]*topic{}}
	if err := w.connectPublishers(publish); err != nil {
		return err
	}
	orders, failed := make(chan Order), make(chan error, 1)
	go func() { // until the input ends
		defer close(orders)
		for lines := json.NewDecoder(in); ; {
			var o Order
			if err := lines.Decode(&o); err != nil {
				failed <- err
				return
			}
			orders <- o
		}
	}()
	reports := json.NewEncoder(out)
	var broken error // why a session ended between two orders
	for {
		select {
		case o, more := <-orders:
			if !more {
				if err := <-failed; !errors.Is(err, io.EOF) {
					return err
				}
				return nil
			}
			r, err := Report{}, broken
			if err == nil {
				r, err = w.do(o)
			}
			if err != nil {
				r.Error = fmt.Sprintf("%s %s: %v", o.Do, o.Group, err)
			}
			if err := reports.Encode(r); err != nil {
				return err
			}
		default:
			if broken == nil {
				broken = l.step(20 * time.Millisecond)
			} else {
				time.Sleep(20 * time.Millisecond)
			}
		}
	}
}

func sockaddr(hostport string) (unix.SockaddrInet4, error) {
	a, err := netip.ParseAddrPort(hostport)
	if err != nil {
		return unix.SockaddrInet4{}, err
	}
	return unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}, nil
}

// group is a set of sessions that are measured together.
type group struct {
	name      string
	sessions  []*session
	topics    []*topic // of the measured slot
	raw       bool     // plain TCP connections
	publishes bool

	subscribed int

	delivered, bytes int
	messages         int
	skipped          int // of delivered: a newer version arrived instead
	timing           bool
	latency          []time.Duration
	resuming         bool // a session is done when it has all events of its topic
	done             []time.Time

	trickles bool // its sessions read slowly; see openTrickle
}

// topic is a stream or a channel.
type topic struct {
	name      string
	published uint64
	first     uint64 // at[i] is the publication time of version first+1+i
	at        []time.Time
}

type worker struct {
	*loop
	groups     map[string]*group
	topics     map[string]*topic
	publishers []*publisher
	requests   uint64
	turn       int
}

// until runs the loop until the condition holds.
func (w *worker) until(condition func() bool) error {
	for end := time.Now().Add(patience); !condition(); {
		if err := w.step(100 * time.Millisecond); err != nil {
			return err
		}
		if time.Now().After(end) {
			return fmt.Errorf("timed out after %v", patience)
		}
	}
	return nil
}

func (w *worker) topic(name string) *topic {
	t, ok := w.topics[name]
	if !ok {
		t = &topic{name: name}
		w.topics[name] = t
	}
	return t
}

func (w *worker) do(o Order) (Report, error) {
	switch o.Do {
	case "open":
		return w.openGroup(o)
	case "saturate":
		return w.saturate(o)
	case "pace":
		return w.pace(o)
	case "publish":
		return w.publishAll(o)
	case "resume":
		return w.resume(o)
	case "trickle":
		return w.openTrickle(o)
	case "cut":
		return w.cutGroup(o)
	}
	return Report{}, fmt.Errorf("unknown order %q", o.Do)
}
