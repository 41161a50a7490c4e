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

// Options configure a client.
type Options struct {
	// URLs are the addresses of gateways: https://example.com, or in full
	// wss://example.com/v1/ws. Each attempt uses the next one, from a random one
	// on. Required.
	URLs []string

	// Token fetches a token. The client calls it before the first connection,
	// before the token expires, and when a gateway no longer accepts the token.
	// If it fails, the client calls it again, with backoff. It must return when
	// its context ends.
	Token func(context.Context) (string, error)

	// ClientID is the client's id, for gateways in development mode, which
	// trust it. Set either ClientID or Token: a token names its client.
	ClientID string

	// Log is the id of the log that stored cursors belong to: the value of
	// Client.Log in the previous run. Leave it empty without stored cursors.
	Log string

	// Queue bounds the number of pending commands and reads. Together they may
	// also have 4 MiB at most. One more fails with ErrQueueFull.
	//
	// Defaults to 1,000.
	Queue int

	// OnError receives errors after which the client continues: a token that
	// could not be fetched, a repeated event, or a hello, a subscription or a
	// command that was refused and will be sent again. It must not wait for the
	// client, which waits for it. Several goroutines may call it.
	//
	// Defaults to a warning in slog's default logger, at most 10 a minute.
	OnError func(*Error)

	// HTTPClient makes the connections. It may have certificates or a proxy.
	//
	// Defaults to one like http.DefaultClient that keeps no idle connections.
	HTTPClient *http.Client

	// Random draws the jitter of waits, at least 0 and below 1. Tests replace
	// it.
	//
	// Defaults to rand.Float64.
	Random func() float64
}

func (o Options) withDefaults() (Options, error) {
	var errs []error
	if len(o.URLs) == 0 {
		errs = append(errs, errors.New("ganglion: URLs is empty: give at least one, such as https://example.com"))
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
			errs = append(errs, fmt.Errorf("ganglion: URLs: %q does not begin with https:// or http://", given))
		}
		if u.Path == "" || u.Path == "/" {
			u.Path = "/v1/ws"
		}
		u.Fragment = ""
		urls[i] = u.String()
	}
	o.URLs = urls
	if o.Token != nil && o.ClientID != "" {
		errs = append(errs, errors.New("ganglion: Token and ClientID are both set: set one, since a token names its client"))
	}
	if o.Queue < 0 {
		errs = append(errs, fmt.Errorf("ganglion: Queue is %d: it must not be negative", o.Queue))
	}
	o.Queue = cmp.Or(o.Queue, 1_000)
	if o.HTTPClient == nil {
		t := &http.Transport{Proxy: http.ProxyFromEnvironment}
		if usual, ok := http.DefaultTransport.(*http.Transport); ok {
			t = usual.Clone()
		}
		t.DisableKeepAlives = true // a refused handshake leaves no connection behind
		o.HTTPClient = &http.Client{Transport: t}
	}
	if o.OnError == nil {
		o.OnError = logBounded()
	}
	if o.Random == nil {
		o.Random = rand.Float64
	}
	return o, errors.Join(errs...)
}

// warningsPerMinute bounds the log lines of a client without OnError.
const warningsPerMinute = 10

// logBounded returns a function that logs at most warningsPerMinute errors a
// minute.
func logBounded() func(*Error) {
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
			slog.Warn("client error", "err", e)
		}
	}
}

// Status is the state of a client's connection.
type Status int

// The statuses, in the order in which a client goes through them.
const (
	Connecting Status = iota // making a connection
	CatchingUp               // connected, and a subscription still gets history
	Live                     // connected, and every subscription is live
	Offline                  // waiting before the next attempt
	Closed                   // permanently
)

func (s Status) String() string {
	names := [...]string{"connecting", "catching-up", "live", "offline", "closed"}
	if s < 0 || int(s) >= len(names) {
		return "Status(" + strconv.Itoa(int(s)) + ")"
	}
	return names[s]
}

// Client is a connection to Ganglion that reconnects automatically. Its methods,
// and those of the values that it returns, are safe for concurrent use unless
// they say otherwise.
type Client struct {
	options Options
	ctx     context.Context // ends with the client
	cancel  context.CancelFunc
	tasks   sync.WaitGroup // every goroutine and timer of the client
	done    chan struct{}  // closed once the status is Closed
	wakeup  chan struct{}  // ends the wait before an attempt; has room for one

	mu      sync.Mutex // guards the fields below, and everything they point to
	status  Status
	changed chan struct{} // closed, and replaced, when the status changes
	err     error         // why the client is closed
	reports []*Error      // passed to OnError by unlock
	log     string
	ids     uint64

	connection
	requests
	subscriptions
}

// Connect opens a client. It returns immediately; the client connects, and
// reconnects, in the background. Connect fails only if an option is invalid. The
// client lives until Close, until ctx ends, or until a server refuses it
// permanently. Status and ConnErr report the state of the connection.
func Connect(ctx context.Context, o Options) (*Client, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	c := &Client{
		options: o, log: o.Log, done: make(chan struct{}), wakeup: make(chan struct{}, 1), changed: make(chan struct{}),
		requests:      requests{lanes: map[string]*lane{}, inFlight: map[string]*request{}, open: map[*request]struct{}{}},
		subscriptions: subscriptions{byID: map[string]*subscriber{}, parks: map[string]*Delivery{}},
	}
	c.urlIndex = int(o.Random() * float64(len(o.URLs)))
	c.ctx, c.cancel = context.WithCancel(ctx)
	c.tasks.Go(c.connectLoop)
	return c, nil
}

// Close closes the client permanently and waits until all its goroutines have
// ended. Pending requests and subscriptions fail with ErrClosed.
func (c *Client) Close() {
	c.mu.Lock()
	c.closeWith(&Error{Code: CodeClosed, Message: "the client was closed", Retry: RetryNo})
	c.unlock()
	c.cancel()
	c.tasks.Wait()
}

// Done returns a channel that is closed when the client closes: by Close, at the
// end of its context, or because a server refused it permanently.
func (c *Client) Done() <-chan struct{} { return c.done }

// Err returns the reason why the client is closed, such as ErrUnauthenticated if
// no gateway accepts its token. It is nil while the client is open.
func (c *Client) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// ConnErr returns the error that ended the newest connection. It is nil while
// the client is connected, and before the first attempt.
func (c *Client) ConnErr() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.connErr
}

// Log returns the log's id, or "" until it is known. Store it with cursors, and
// set it as Options.Log in the next run.
func (c *Client) Log() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.log
}

// Status returns the state of the connection.
func (c *Client) Status() Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.status
}

// Statuses yields the current status and then each change. If the status changes
// several times during an iteration, it yields only the last. It ends after
// Closed, or when ctx ends.
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

// Wake connects immediately, or checks whether the connection is alive. Call it
// when the network returns. It does not shorten a wait that a server asked for.
func (c *Client) Wake() {
	c.mu.Lock()
	defer c.unlock()
	switch {
	case c.welcomed:
		c.probe()
	case c.status == Offline && !c.waitIsFixed:
		select {
		case c.wakeup <- struct{}{}:
		default:
		}
	}
}

// Aggregate returns one aggregate, which need not have events yet. Its state
// and events are JSON; [Type] gives them Go types.
func (c *Client) Aggregate(typ, id string) *Aggregate[json.RawMessage, json.RawMessage] {
	return Type[json.RawMessage, json.RawMessage]{Name: typ}.Aggregate(c, id)
}

// Category returns all aggregates of a type. Their events are JSON; [Type]
// gives them Go types.
func (c *Client) Category(typ string) *Category[json.RawMessage, json.RawMessage] {
	return Type[json.RawMessage, json.RawMessage]{Name: typ}.Category(c)
}

// id returns a new id for a frame.
func (c *Client) id() string {
	c.ids++
	return strconv.FormatUint(c.ids, 10)
}

// report queues an error for OnError, which unlock calls.
func (c *Client) report(e *Error) { c.reports = append(c.reports, e) }

// unlock releases the lock and then passes the queued errors to OnError.
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

// updateStatus sets the status of a welcomed connection.
func (c *Client) updateStatus() {
	switch {
	case !c.welcomed:
	case c.isCatchingUp():
		c.setStatus(CatchingUp)
	default:
		c.setStatus(Live)
	}
}

// closeWith closes the client with err. It leaves the connection and the
// goroutines to their contexts.
func (c *Client) closeWith(err *Error) {
	if c.status == Closed {
		return
	}
	c.watchdog.stop()
	c.setStatus(Closed)
	c.err = err
	c.failRequests(err)
	c.endSubscriptions(err)
	close(c.done)
}
