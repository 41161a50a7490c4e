package load

import (
	"slices"
	"time"
)

// publisher is a connection on which events are published. It collects requests
// and sends them together.
type publisher struct {
	*session
	batch []byte
	lines int
}

// Bounds of one publisher, below the gateway's limits on requests and frames.
const (
	publishers   = 4
	openRequests = 200
	batchLines   = 100
)

func (w *worker) connectPublishers(addr string) error {
	to, err := sockaddr(addr)
	if err != nil {
		return err
	}
	raw := w.dialect.Replied == nil
	g := &group{name: "publishers", raw: raw, publishes: true}
	n := publishers
	if raw || w.dialect.IsSerial {
		n = 1
	}
	for i := range n {
		var s *session
		if raw {
			fd, err := dial(to, i, 0)
			if err != nil {
				return err
			}
			s = &session{loop: w.loop, fd: fd, group: g, index: i}
			err = w.add(s)
			if err != nil {
				return err
			}
		} else {
			clients := w.server
			w.server = to
			s, err = w.connect(g, i, w.dialect.Greeting(-1-i))
			w.server = clients
			if err != nil {
				return err
			}
			if err := w.until(func() bool { return s.open }); err != nil {
				return err
			}
		}
		w.publishers = append(w.publishers, &publisher{session: s})
	}
	return nil
}

// publish adds a request for n events to a publisher; flush sends it. It
// returns false if all publishers wait for replies.
func (w *worker) publish(t *topic, n int) bool {
	for range w.publishers {
		p := w.publishers[w.turn%len(w.publishers)]
		if w.dialect.Replied != nil && p.pendingReplies >= openRequests || len(p.out) > 1<<20 {
			w.turn++
			continue
		}
		w.requests++
		if w.dialect.Replied != nil {
			if p.lines > 0 {
				p.batch = append(p.batch, '\n')
			}
			p.pendingReplies++
		}
		p.batch = w.dialect.Publish(p.batch, w.requests, t.name, n)
		p.lines++
		t.published += uint64(n)
		if p.lines >= batchLines {
			w.turn++
		}
		return true
	}
	return false
}

func (w *worker) flush() error {
	for _, p := range w.publishers {
		if p.lines == 0 {
			continue
		}
		b := p.batch
		if w.dialect.Replied != nil {
			b = appendText(nil, b)
		}
		if err := p.write(b); err != nil {
			return err
		}
		p.batch, p.lines = p.batch[:0], 0
	}
	return nil
}

// published waits until the server has confirmed all events.
func (w *worker) published() error {
	if err := w.flush(); err != nil {
		return err
	}
	if w.dialect.Replied == nil {
		for _, p := range w.publishers {
			p.pendingReplies++
			if err := p.write([]byte("sync\n")); err != nil {
				return err
			}
		}
	}
	return w.until(func() bool {
		return !slices.ContainsFunc(w.publishers, func(p *publisher) bool { return p.pendingReplies > 0 })
	})
}

// publishAll publishes events to the topics in turn, without waiting for
// deliveries.
func (w *worker) publishAll(o Order) (Report, error) {
	for n := 0; n < o.Events; n += o.Burst {
		for _, name := range o.Topics {
			for t := w.topic(name); !w.publish(t, o.Burst); {
				if err := w.flush(); err != nil {
					return Report{}, err
				}
				if err := w.step(100 * time.Millisecond); err != nil {
					return Report{}, err
				}
			}
		}
	}
	return Report{Events: o.Events}, w.published()
}
