package ganglion

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"
)

// Options say how a client connects.
type Options struct {
	// URLs are those of gateways: https://example.com, or the whole
	// wss://example.com/v1/ws. Of several, each attempt takes the next; the
	// first is drawn. Required.
	URLs []string

	// Token fetches a token: before the first connection, before the token
	// expires, and when a gateway does not take it any more. If it fails it is
	// asked again, with backoff. It returns when its context ends.
	Token func(context.Context) (string, error)

	// ClientID is the client's id, for gateways in development mode, which
	// take it on trust. Give it or Token, not both: a token names its client.
	ClientID string

	// Log is the log that stored cursors belong to: Client.Log of the run
	// before. Empty if there are none.
	Log string

	// Queue is how many commands and reads may wait for their answers; their
	// bytes are bounded as well, by 4 MiB. One more is refused with
	// ErrQueueFull.
	//
	// Defaults to 1,000.
	Queue int

	// OnError is told what went wrong without ending anything: a token that
	// could not be fetched, an event that came twice, a hello, a subscription or
	// a command that was refused for now. It must not wait for the
	// client, which waits for it, and may be called by several goroutines.
	//
	// Defaults to a warning in slog's default logger, at most 10 a minute.
	OnError func(*Error)

	// HTTPClient makes the connections, and may bring certificates or a proxy.
	//
	// Defaults to one like http.DefaultClient that keeps no idle connections.
	HTTPClient *http.Client

	// Random draws the jitter of waits, at least 0 and below 1; tests bring
	// their own.
	//
	// Defaults to rand.Float64.
	Random func() float64
}

func (o Options) withDefaults() (Options, error) {
	var errs []error
	if len(o.URLs) == 0 {
		errs = append(errs, errors.New("ganglion: URLs are missing: give at least one, such as https://example.com"))
	}
	urls := make([]string, len(o.URLs))
	for i, given := range o.URLs {
		u, err := url.Parse(given)
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("ganglion: URLs: %w", err))
			continue
		case u.Scheme == "http" || u.Scheme == "ws":
			u.Scheme = "ws"
		case u.Scheme == "https" || u.Scheme == "wss":
			u.Scheme = "wss"
		default:
			errs = append(errs, fmt.Errorf("ganglion: %q is no URL of a gateway: it begins with https:// or http://", given))
		}
		if u.Path == "" || u.Path == "/" {
			u.Path = "/v1/ws"
		}
		u.Fragment = ""
		urls[i] = u.String()
	}
	o.URLs = urls
	if o.Token != nil && o.ClientID != "" {
		errs = append(errs, errors.New("ganglion: Token and ClientID are both given: the token names the client"))
	}
	if o.Queue < 0 {
		errs = append(errs, errors.New("ganglion: Queue is negative"))
	}
	o.Queue = cmp.Or(o.Queue, 1_000)
	if o.HTTPClient == nil {
		t := &http.Transport{Proxy: http.ProxyFromEnvironment}
		if usual, ok := http.DefaultTransport.(*http.Transport); ok {
			t = usual.Clone()
		}
		t.DisableKeepAlives = true // a handshake that is refused leaves nothing behind
		o.HTTPClient = &http.Client{Transport: t}
	}
	if o.OnError == nil {
		o.OnError = logSome()
	}
	if o.Random == nil {
		o.Random = rand.Float64
	}
	return o, errors.Join(errs...)
}

// warningsPerMinute bounds what a client logs if the application does not.
const warningsPerMinute = 10

// logSome returns a function that logs errors, some of them if there are many.
func logSome() func(*Error) {
	var mu sync.Mutex
	var began time.Time
	lines := 0
	return func(e *Error) {
		mu.Lock()
		defer mu.Unlock()
		if now := time.Now(); now.Sub(began) >= time.Minute {
			began, lines = now, 0
		}
		if lines++; lines <= warningsPerMinute {
			slog.Warn("the ganglion client met an error and continues", "err", e)
		}
	}
}

// Status is how a client is connected.
type Status int

// The statuses, in the order in which a client goes through them.
const (
	Connecting Status = iota // a connection is being made
	CatchingUp               // connected, and some subscription still gets history
	Live                     // connected, and every subscription has all there is
	Offline                  // waiting before the next attempt
	Closed                   // for good
)

func (s Status) String() string {
	names := [...]string{"connecting", "catching-up", "live", "offline", "closed"}
	if s < 0 || int(s) >= len(names) {
		return "Status(" + strconv.Itoa(int(s)) + ")"
	}
	return names[s]
}

// Client is a connection to Ganglion that comes back by itself. All its
// methods, and those of what it hands out, are safe for concurrent use, except
// where they say otherwise.
type Client struct {
	options Options
	ctx     context.Context // ends with the client
	cancel  context.CancelFunc
	work    sync.WaitGroup // everything that the client started
	done    chan struct{}  // closed once the status is Closed
	wakeup  chan struct{}  // ends the wait before an attempt; has room for one

	mu      sync.Mutex // guards what follows, and all of what it leads to
	status  Status
	changed chan struct{} // closed, and replaced, when the status changes
	err     error         // why the client is closed
	reports []*Error      // for unlock to tell
	log     string
	ids     uint64

	connection
	requests
	subscriptions
}

// Connect opens a client. It returns at once, and the client connects in the
// background, again whenever it has to; the error is about the options. The
// client lives until Close, until ctx ends, or until a server wants no more of
// it. What waits meanwhile is told by the status and by ConnErr.
func Connect(ctx context.Context, o Options) (*Client, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	c := &Client{
		options: o, log: o.Log, done: make(chan struct{}), wakeup: make(chan struct{}, 1), changed: make(chan struct{}),
		requests:      requests{lanes: map[string]*lane{}, inFlight: map[string]*request{}, open: map[*request]struct{}{}},
		subscriptions: subscriptions{byID: map[string]*feed{}},
	}
	c.url = int(o.Random() * float64(len(o.URLs)))
	c.ctx, c.cancel = context.WithCancel(ctx)
	c.work.Go(c.run)
	return c, nil
}

// Close closes the client for good and waits until everything that it started
// has ended. What waits for an answer fails with ErrClosed, and so do
// subscriptions.
func (c *Client) Close() {
	c.mu.Lock()
	c.end(&Error{Code: CodeClosed, Message: "the client was closed", Retry: RetryNo})
	c.unlock()
	c.cancel()
	c.work.Wait()
}

// Done is closed when the client is: by Close, by its context, or since a
// server wants no more of it.
func (c *Client) Done() <-chan struct{} { return c.done }

// Err returns why the client is closed, such as ErrUnauthenticated after a
// token that no gateway takes; nil while it is not.
func (c *Client) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// ConnErr returns why there is no connection: what ended the newest one. It
// is nil while there is one, and before the first was tried.
func (c *Client) ConnErr() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.connErr
}

// Log returns the log's id, once known. Keep it beside stored cursors, and
// give it back as Options.Log.
func (c *Client) Log() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.log
}

// Status returns how the client is connected.
func (c *Client) Status() Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.status
}

// Statuses yields every status from now on, beginning with the present one;
// of several that came meanwhile, the last. It ends with Closed, or with ctx.
func (c *Client) Statuses(ctx context.Context) iter.Seq[Status] {
	return func(yield func(Status) bool) {
		last := Status(-1)
		for ctx.Err() == nil && last != Closed {
			c.mu.Lock()
			now, changed := c.status, c.changed
			c.mu.Unlock()
			if now != last {
				if last = now; !yield(now) {
					return
				}
				continue
			}
			select {
			case <-changed:
			case <-ctx.Done():
			}
		}
	}
}

// Wake tries to connect now, or finds out whether the connection still lives:
// for a program that knows that the network came back. A wait that a server
// asked for is not shortened.
func (c *Client) Wake() {
	c.mu.Lock()
	defer c.unlock()
	switch {
	case c.welcomed:
		c.probe()
	case c.status == Offline && !c.told:
		select {
		case c.wakeup <- struct{}{}:
		default:
		}
	}
}

// Aggregate returns one aggregate, whether it has events yet or not. What it
// shows and emits is JSON; Type makes it Go's types.
func (c *Client) Aggregate(typ, id string) *Aggregate[json.RawMessage, json.RawMessage] {
	return Type[json.RawMessage, json.RawMessage]{Name: typ}.Aggregate(c, id)
}

// Category returns all aggregates of a type. What they emit is JSON; Type
// makes it Go's types.
func (c *Client) Category(typ string) *Category[json.RawMessage, json.RawMessage] {
	return Type[json.RawMessage, json.RawMessage]{Name: typ}.Category(c)
}

// id makes the id of a frame.
func (c *Client) id() string {
	c.ids++
	return strconv.FormatUint(c.ids, 10)
}

// report is told to the application by unlock.
func (c *Client) report(e *Error) { c.reports = append(c.reports, e) }

// unlock releases the lock, and then tells what went wrong meanwhile.
func (c *Client) unlock() {
	reports := c.reports
	c.reports = nil
	c.mu.Unlock()
	for _, e := range reports {
		c.options.OnError(e)
	}
}

func (c *Client) setStatus(s Status) {
	if c.status == s || c.status == Closed {
		return
	}
	c.status = s
	close(c.changed)
	c.changed = make(chan struct{})
}

// settle finds the status of a connection anew.
func (c *Client) settle() {
	switch {
	case !c.welcomed:
	case c.behind():
		c.setStatus(CatchingUp)
	default:
		c.setStatus(Live)
	}
}

// end closes the client, but for the connection and the goroutines.
func (c *Client) end(err *Error) {
	if c.status == Closed {
		return
	}
	c.watchdog.stop()
	c.setStatus(Closed)
	c.err = err
	c.closeRequests(err)
	c.closeSubscriptions(err)
	close(c.done)
}
