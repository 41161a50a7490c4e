package console

import (
	"context"
	"encoding/json"
	"net/http"
	"sync"
	"time"
)

const (
	// interval is the time between two samples.
	interval = time.Second
	// kept is the number of samples that are kept: 15 minutes.
	kept = 900
	// answerWithin is how long a member may take to answer.
	answerWithin = 500 * time.Millisecond
	// linger is how long samples are kept and taken after the last page was closed, so
	// a page that is loaded again has its charts.
	linger = 10 * time.Second
)

// A sample has the figures of the cluster for one second.
type sample struct {
	At        int64          `json:"at"` // Unix time in milliseconds
	Commands  float64        `json:"commands"`
	Events    float64        `json:"events"`
	Delivered float64        `json:"delivered"`
	P50       *float64       `json:"p50"` // seconds; nil without commands
	P99       *float64       `json:"p99"`
	LagEvents uint64         `json:"lag_events"`
	Lag       float64        `json:"lag"` // seconds
	Sessions  map[string]int `json:"sessions"`
}

// row has the figures of a member for one second.
type row struct {
	Member
	// Silent is why the member did not answer, "" if it did. The figures below are
	// missing then.
	Silent    string   `json:"silent,omitempty"`
	Sessions  *int     `json:"sessions,omitempty"`
	Full      int      `json:"full,omitempty"`
	Commands  float64  `json:"commands"`  // per second
	Delivered float64  `json:"delivered"` // events per second
	CPU       *float64 `json:"cpu,omitempty"`
	Memory    uint64   `json:"memory,omitempty"` // bytes
	Behind    uint64   `json:"behind,omitempty"` // events that it has not received yet
	StoreUp   bool     `json:"store_up,omitempty"`
	Expires   int64    `json:"certificate_expires,omitempty"` // Unix time in milliseconds, missing without a certificate
}

// picture is what a page shows of the cluster.
type picture struct {
	State
	At       int64     `json:"at"` // Unix time in milliseconds
	Node     string    `json:"node"`
	Members  []row     `json:"members"`
	Problems []problem `json:"problems"`
	Sample   sample    `json:"sample"`
	Blocked  int       `json:"blocked"`
	Stopped  int       `json:"stopped"`
	Full     int       `json:"full"`
}

// reading is what a member answered, and when.
type reading struct {
	Vitals
	at  time.Time
	age int64 // of the member, in seconds: a lower one belongs to a new process
	err error
}

// watch gathers figures while pages are open.
type watch struct {
	cfg    Config
	wanted chan struct{}

	mu      sync.Mutex
	pages   map[chan struct{}]bool // each has one place, which is full while its page has news
	samples []sample
	newest  []byte // the picture as JSON, nil before the first

	last  map[string]reading // of each member; only run uses it
	doubt map[string]int     // for how many samples a condition has held; only run uses it
}

func newWatch(cfg Config) *watch {
	return &watch{cfg: cfg, wanted: make(chan struct{}, 1), pages: map[chan struct{}]bool{}}
}

// run gathers figures while at least one page is open, and for a while after that.
func (w *watch) run(ctx context.Context) error {
	for {
		select {
		case <-w.wanted:
			w.gatherWhileWanted(ctx)
		case <-ctx.Done():
			return nil
		}
	}
}

func (w *watch) gatherWhileWanted(ctx context.Context) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for unwanted := time.Duration(0); unwanted <= linger; {
		w.gather(ctx)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		w.mu.Lock()
		if unwanted += interval; len(w.pages) > 0 {
			unwanted = 0
		}
		w.mu.Unlock()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.samples, w.newest = nil, nil
	w.last, w.doubt = nil, nil
	select {
	case <-w.wanted:
	default:
	}
	if len(w.pages) > 0 { // a page has come in the meantime
		w.want()
	}
}

// want makes run gather figures.
func (w *watch) want() {
	select {
	case w.wanted <- struct{}{}:
	default:
	}
}

// gather asks all members, and passes what they answer to the pages.
func (w *watch) gather(ctx context.Context) {
	state := w.cfg.State()
	answers := make([]reading, len(state.Members))
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	var asking sync.WaitGroup
	for i, m := range state.Members {
		asking.Go(func() {
			answers[i].Vitals, answers[i].err = w.cfg.Vitals(ctx, m)
			answers[i].at, answers[i].age = time.Now(), m.AgeSeconds
		})
	}
	asking.Wait()
	p := w.picture(state, answers)
	text, err := json.Marshal(p)
	if err != nil {
		w.cfg.Logger.Error("the console cannot write its figures", "err", err)
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.samples = append(w.samples, p.Sample); len(w.samples) > kept {
		w.samples = append(make([]sample, 0, kept+kept/4), w.samples[len(w.samples)-kept:]...)
	}
	w.newest = text
	for page := range w.pages {
		select {
		case page <- struct{}{}:
		default: // it has not yet taken the last one, and will take this one instead
		}
	}
}

// serveStatus sends a page the samples so far, and then a picture each second. A slow
// page misses some pictures.
func (c *Console) serveStatus(w http.ResponseWriter, r *http.Request, user User) {
	s := openStream(w, r, user)
	defer s.close()
	news := make(chan struct{}, 1)
	samples := c.watch.join(news)
	defer c.watch.leave(news)
	history, err := json.Marshal(samples)
	if err != nil || !s.send("samples", history) {
		return
	}
	for {
		select {
		case <-news:
		case <-s.ctx.Done():
			return
		}
		c.watch.mu.Lock()
		text := c.watch.newest
		c.watch.mu.Unlock()
		if text != nil && !s.send("picture", text) {
			return
		}
	}
}

// join adds a page, and returns the samples so far.
func (w *watch) join(news chan struct{}) []sample {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pages[news] = true
	if w.newest != nil {
		news <- struct{}{}
	}
	w.want()
	return append([]sample{}, w.samples...)
}

func (w *watch) leave(news chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.pages, news)
}
