package token

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/gateway"
	"github.com/ganglion-es/ganglion/gateway/watched"
)

const (
	// maxRevocations bounds those that are in force.
	maxRevocations = 100_000
	// maxRevocationFile bounds the file, in bytes, with the lines in it that
	// are no longer in force.
	maxRevocationFile = 32 << 20
	// revocationCheck is how often the file is looked at.
	revocationCheck = time.Second
	// settledAfter is how old a file must be when it is read for its time and
	// size to tell that it is still the same.
	settledAfter = 2 * time.Second
)

// Revocation takes back tokens before they expire: one, those of a client, or
// everybody's. A file of revocations has one on each line, as JSON.
type Revocation struct {
	// TokenID is the jti of a token.
	TokenID string `json:"jti,omitempty"`
	// Client is the sub of tokens. Without it and TokenID the revocation is
	// for everybody.
	Client string `json:"sub,omitempty"`
	// Before is when a token was issued at the earliest (iat) to be still
	// good; one that does not say so is not. Required, but for a TokenID,
	// with which it has no meaning.
	Before time.Time `json:"before,omitzero"`
	// Until is how long the revocation is in force: until the last of the
	// tokens has expired by itself. Required.
	Until time.Time `json:"until"`
}

func (r Revocation) validate() error {
	switch {
	case r.TokenID != "" && r.Client != "":
		return errors.New("it has both jti and sub: revoke a token, or those of a client")
	case r.TokenID != "" && !r.Before.IsZero():
		return errors.New("it has both jti and before: a token is revoked by itself")
	case r.TokenID == "" && r.Before.IsZero():
		return errors.New("it has no before: tokens that were issued earlier are revoked")
	case r.Until.IsZero():
		return errors.New("it has no until: when the last of the tokens expires")
	case len(r.TokenID) > maxToken:
		return errors.New("its jti is longer than any token")
	}
	if r.Client != "" {
		return eventstore.ValidateID(r.Client)
	}
	return nil
}

// Revoke adds a revocation to a file, which is made if it is not there. It may
// be called by several processes at once.
func Revoke(file string, r Revocation) error {
	if err := r.validate(); err != nil {
		return fmt.Errorf("token: the revocation: %w", err)
	}
	line, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("token: the revocation: %w", err)
	}
	f, err := os.OpenFile(file, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return fmt.Errorf("token: %w", err)
	}
	// One write appends as a whole. Whoever edited the file may have left its
	// last line open.
	line = append(line, '\n')
	if end, err := f.Seek(0, io.SeekEnd); err == nil && end > 0 {
		last := make([]byte, 1)
		if _, err := f.ReadAt(last, end-1); err == nil && last[0] != '\n' {
			line = append([]byte{'\n'}, line...)
		}
	}
	_, err = f.Write(line)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("token: %w", err)
	}
	return nil
}

// revoked are the revocations of a file. It is immutable.
type revoked struct {
	tokens    map[string]time.Time // by jti, until when
	clients   map[string]span
	everybody span
}

// span is for tokens from before some time, until some other. Of several for
// one client the latest of both counts.
type span struct{ before, until time.Time }

func (s span) with(r Revocation) span {
	if r.Before.After(s.before) {
		s.before = r.Before
	}
	if r.Until.After(s.until) {
		s.until = r.Until
	}
	return s
}

func (s span) covers(issued, now time.Time) bool {
	return now.Before(s.until) && issued.Before(s.before)
}

var errRevoked = errors.New("the token was revoked: get a new one")

// check says whether an identity was revoked.
func (r *revoked) check(id gateway.Identity, now time.Time) error {
	jti, _ := id.Claims["jti"].(string)
	issued, _, _ := date(id.Claims, "iat") // the zero time if it is missing: before any other
	if now.Before(r.tokens[jti]) || r.clients[id.Client].covers(issued, now) || r.everybody.covers(issued, now) {
		return errRevoked
	}
	return nil
}

// parseRevocations reads what is still in force.
func parseRevocations(raw []byte, now time.Time) (*revoked, error) {
	set := &revoked{tokens: make(map[string]time.Time), clients: make(map[string]span)}
	n, count := 0, 0
	for line := range bytes.Lines(raw) {
		n++
		if line = bytes.TrimSpace(line); len(line) == 0 {
			continue
		}
		var r Revocation
		dec := json.NewDecoder(bytes.NewReader(line))
		dec.DisallowUnknownFields()
		err := dec.Decode(&r)
		if err == nil && dec.More() {
			err = errors.New("more follows on the line")
		}
		if err == nil {
			err = r.validate()
		}
		if err != nil {
			return nil, fmt.Errorf("line %d is no revocation: %w", n, err)
		}
		if !now.Before(r.Until) {
			continue
		}
		if count++; count > maxRevocations {
			return nil, fmt.Errorf("more than %d revocations are in force: revoke clients instead of tokens, or take the key away that signed them", maxRevocations)
		}
		switch {
		case r.TokenID != "":
			if r.Until.After(set.tokens[r.TokenID]) {
				set.tokens[r.TokenID] = r.Until
			}
		case r.Client != "":
			set.clients[r.Client] = set.clients[r.Client].with(r)
		default:
			set.everybody = set.everybody.with(r)
		}
	}
	return set, nil
}

// revocations keeps the newest good ones of a file. Without a file there are
// none.
type revocations struct {
	file string
	log  *slog.Logger

	mu      sync.Mutex
	current *revoked
	more    chan struct{} // closed when current is replaced

	// The file when it was last read, well or not. One goroutine uses these.
	seen    fs.FileInfo
	seenAt  time.Time
	watched watched.Files
}

func newRevocations(cfg Config) *revocations {
	return &revocations{file: cfg.Revocations, log: cfg.Logger, current: &revoked{}, more: make(chan struct{})}
}

func (r *revocations) now() (*revoked, <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.current, r.more
}

// read reads the file, unless it is the same as before.
func (r *revocations) read() error {
	f, err := os.Open(r.file)
	if err != nil {
		r.seen = nil
		var path *fs.PathError
		if errors.As(err, &path) {
			err = path.Err
		}
		return fmt.Errorf("can't read %s: %w", r.file, err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("can't read %s: %w", r.file, err)
	}
	now := time.Now()
	same := r.seen != nil && os.SameFile(r.seen, info) && r.seen.ModTime().Equal(info.ModTime()) && r.seen.Size() == info.Size()
	if same && !r.watched.Bad() && r.seenAt.Sub(info.ModTime()) > settledAfter {
		return nil
	}
	raw, err := io.ReadAll(io.LimitReader(f, maxRevocationFile+1))
	if err == nil && len(raw) > maxRevocationFile {
		err = errors.New("it is larger than " + strconv.Itoa(maxRevocationFile) + " bytes: lines whose until has passed may be deleted")
	}
	if err != nil {
		return fmt.Errorf("can't read %s: %w", r.file, err)
	}
	set, err := parseRevocations(raw, now)
	if err != nil {
		return fmt.Errorf("%s: %w", r.file, err)
	}
	r.seen, r.seenAt = info, now
	r.mu.Lock()
	r.current = set
	close(r.more)
	r.more = make(chan struct{})
	r.mu.Unlock()
	if !same {
		r.log.Info("read the revocations of tokens", "tokens", len(set.tokens), "clients", len(set.clients), "everybody", !set.everybody.until.IsZero())
	}
	return nil
}

// run reads the file again when it changes, until ctx ends.
func (r *revocations) run(ctx context.Context) {
	if r.file == "" {
		return
	}
	tick := time.NewTicker(revocationCheck)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		err := r.read()
		warn, mended := r.watched.Read(err, time.Now())
		switch {
		case warn:
			r.log.Error("the revocations of tokens can't be read: the ones from before stay in force, new ones are not, and a restart would fail", "error", err)
		case mended:
			r.log.Info("the revocations of tokens can be read again and are in force")
		}
	}
}
