package token

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ganglion-es/ganglion/gateway/watched"
)

const (
	// maxSource bounds a file or a response, in bytes.
	maxSource = 1 << 20
	// maxRedirects bounds the redirects of one fetch.
	maxRedirects = 3
)

// keeper holds the newest valid keys. One goroutine, in run, reads them. A caller
// of newer, whose token names an unknown key, requests an early read and waits
// for it.
type keeper struct {
	cfg  Config
	log  *slog.Logger
	load func(context.Context) (*keySet, error)

	current atomic.Pointer[keySet]
	watched watched.Files
	wanted  chan struct{} // capacity 1: a request to read before the interval ends

	mu        sync.Mutex
	running   bool
	reading   bool
	done      chan struct{} // closed at the end of the next read
	notBefore time.Time     // newer requests no read before this time
}

func newKeeper(cfg Config) *keeper {
	k := &keeper{cfg: cfg, log: cfg.Logger, wanted: make(chan struct{}, 1), done: make(chan struct{})}
	switch {
	case cfg.HMACFile != "":
		k.load = func(context.Context) (*keySet, error) { return readFile(cfg.HMACFile, parseSecrets) }
	case isURL(cfg.JWKS):
		k.load = k.fetch
	default:
		k.load = func(context.Context) (*keySet, error) { return readFile(cfg.JWKS, parseJWKS) }
	}
	k.current.Store(&keySet{})
	return k
}

// read reads the keys once. After an error the current keys stay in use.
func (k *keeper) read(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, k.cfg.FetchTimeout)
	defer cancel()
	set, err := k.load(ctx)
	if err == nil && !bytes.Equal(set.raw, k.current.Load().raw) {
		k.current.Store(set)
		k.log.Info("read the keys that verify tokens", "keys", len(set.keys))
	}
	return err
}

// run reads the keys at intervals, and early when newer requests it, until ctx
// ends.
func (k *keeper) run(ctx context.Context) {
	k.mu.Lock()
	k.running = true
	k.mu.Unlock()
	defer func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		k.running, k.reading = false, false
		close(k.done) // release the waiting callers: no read will follow
		k.done = make(chan struct{})
	}()

	failures := 0
	pause := k.cfg.Refresh
	if len(k.current.Load().keys) == 0 {
		pause = k.cfg.Floor
	}
	timer := time.NewTimer(pause)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-k.wanted:
		case <-timer.C:
		}
		k.beginRead()
		err := k.read(ctx)
		if ctx.Err() != nil {
			return
		}
		warn, mended := k.watched.Record(err, time.Now())
		switch {
		case err != nil:
			failures++
			if warn {
				k.log.Warn("the keys that verify tokens can't be read: the earlier ones stay in use until a restart", "err", err)
			}
			pause = min(k.cfg.Floor<<min(failures-1, 20), k.cfg.Refresh)
		default:
			if mended {
				k.log.Info("the keys that verify tokens can be read again and are in use", "failures", failures)
			}
			failures, pause = 0, k.cfg.Refresh
		}
		k.endRead()
		timer.Reset(pause)
	}
}

func (k *keeper) beginRead() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.reading = true
	select {
	case <-k.wanted: // the read that begins now also serves this request
	default:
	}
}

func (k *keeper) endRead() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.reading = false
	k.notBefore = time.Now().Add(k.cfg.Floor)
	close(k.done)
	k.done = make(chan struct{})
}

// newer returns keys that were read later than old, or old if there are none. It
// requests a read if the floor allows one, and blocks until the read ends, ctx
// ends or Config.Wait has passed. Without run it returns immediately.
func (k *keeper) newer(ctx context.Context, old *keySet) *keySet {
	k.mu.Lock()
	if now := k.current.Load(); now != old {
		k.mu.Unlock()
		return now
	}
	if !k.running || !k.reading && time.Now().Before(k.notBefore) {
		k.mu.Unlock()
		return old
	}
	if !k.reading {
		select {
		case k.wanted <- struct{}{}:
		default: // another caller requested it
		}
	}
	done := k.done
	k.mu.Unlock()

	timer := time.NewTimer(k.cfg.Wait)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
	case <-ctx.Done():
	}
	return k.current.Load()
}

// fetch reads a key set from a URL. Each fetch opens a connection: fetches are so
// rare that a kept connection would only go stale.
func (k *keeper) fetch(ctx context.Context) (*keySet, error) {
	transport := &http.Transport{
		Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true, ForceAttemptHTTP2: true,
		MaxResponseHeaderBytes: 64 << 10,
	}
	client := &http.Client{Transport: transport, CheckRedirect: func(req *http.Request, via []*http.Request) error {
		if len(via) > maxRedirects {
			return errors.New("too many redirects")
		}
		return k.cfg.checkHop(req.URL)
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, k.cfg.JWKS, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/jwk-set+json, application/json")
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answered %s", req.URL.Host, resp.Status)
	}
	raw, err := readAll(resp.Body)
	if err != nil {
		return nil, fmt.Errorf("the response of %s: %w", req.URL.Host, err)
	}
	set, err := parseJWKS(raw)
	if err != nil {
		return nil, fmt.Errorf("the response of %s: %w", req.URL.Host, err)
	}
	return set, nil
}

func readFile(name string, parse func([]byte) (*keySet, error)) (*keySet, error) {
	f, err := os.Open(name)
	if err != nil {
		var path *fs.PathError
		if errors.As(err, &path) {
			err = path.Err
		}
		return nil, fmt.Errorf("can't read %s: %w", name, err)
	}
	defer f.Close()
	raw, err := readAll(f)
	if err != nil {
		return nil, fmt.Errorf("can't read %s: %w", name, err)
	}
	set, err := parse(raw)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return set, nil
}

func readAll(r io.Reader) ([]byte, error) {
	raw, err := io.ReadAll(io.LimitReader(r, maxSource+1))
	if err == nil && len(raw) > maxSource {
		err = fmt.Errorf("it is larger than %d bytes", maxSource)
	}
	return raw, err
}
