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
	// maxRevocations bounds the revocations in force.
	maxRevocations = 100_000
	// maxRevocationFile bounds the file, in bytes, including lines that are no
	// longer in force.
	maxRevocationFile = 32 << 20
	// revocationCheck is the interval between checks of the file.
	revocationCheck = time.Second
)

// Revocation revokes tokens before they expire: one token, the tokens of one
// client, or all. A file of revocations has one per line, as JSON.
type Revocation struct {
	// TokenID is the jti of a token.
	TokenID string `json:"jti,omitempty"`
	// Client is the sub of the tokens. If Client and TokenID are both empty,
	// the tokens of all clients are revoked.
	Client string `json:"sub,omitempty"`
	// Before revokes the tokens that were issued before this time (iat), and
	// tokens without iat. Required, except with TokenID, which excludes it.
	Before time.Time `json:"before,omitzero"`
	// Until is the end of the revocation. Choose a time when the last of the
	// tokens has expired. Required.
	Until time.Time `json:"until"`
}

func (r Revocation) validate() error {
	switch {
	case r.TokenID != "" && r.Client != "":
		return errors.New("it has both jti and sub: give jti to revoke one token, or sub to revoke the tokens of a client")
	case r.TokenID != "" && !r.Before.IsZero():
		return errors.New("it has both jti and before: before does not apply to a single token")
	case r.TokenID == "" && r.Before.IsZero():
		return errors.New("it has no before: give the time before which the revoked tokens were issued")
	case r.Until.IsZero():
		return errors.New("it has no until: give the time when the last of the tokens expires")
	case len(r.TokenID) > maxToken:
		return errors.New("its jti is longer than the longest token allowed")
	}
	if r.Client != "" {
		return eventstore.ValidateID(r.Client)
	}
	return nil
}

// Revoke appends a revocation to a file, and creates the file if it does not
// exist. Several processes may call it concurrently.
func Revoke(file string, r Revocation) error {
	if err := r.validate(); err != nil {
		return fmt.Errorf("token: the revocation is invalid: %w", err)
	}
	line, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("token: the revocation is invalid: %w", err)
	}
	f, err := os.OpenFile(file, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return fmt.Errorf("token: %w", err)
	}
	// A single write appends the line in one piece. The last line may lack its
	// newline if the file was edited by hand.
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

// revoked holds the revocations of a file that are in force. It is immutable.
type revoked struct {
	tokens    map[string]time.Time // jti to the end of the revocation
	clients   map[string]span
	everybody span
}

// span revokes tokens that were issued before a time, until another time. Several
// revocations of one client become one span with the latest of both times.
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

// check returns errRevoked if the token of an identity is revoked.
func (r *revoked) check(id gateway.Identity, now time.Time) error {
	jti, _ := id.Claims["jti"].(string)
	issued, _, _ := date(id.Claims, "iat") // if missing, the zero time, which is before any other
	if now.Before(r.tokens[jti]) || r.clients[id.Client].covers(issued, now) || r.everybody.covers(issued, now) {
		return errRevoked
	}
	return nil
}

// parseRevocations returns the revocations that are in force at now.
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
			err = errors.New("the line continues after the JSON object")
		}
		if err == nil {
			err = r.validate()
		}
		if err != nil {
			return nil, fmt.Errorf("line %d is not a revocation: %w", n, err)
		}
		if !now.Before(r.Until) {
			continue
		}
		if count++; count > maxRevocations {
			return nil, fmt.Errorf("more than %d revocations are in force: revoke clients instead of tokens, or remove the key that signed the tokens", maxRevocations)
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

// revocations holds the newest valid revocations of a file, or none if there is
// no file.
type revocations struct {
	file string
	log  *slog.Logger

	mu      sync.Mutex
	current *revoked
	changed chan struct{} // closed when current is replaced

	// After New, only the goroutine in run writes these.
	seen    watched.Stamp // of the file at its last successful read
	watched watched.Files
}

func newRevocations(cfg Config) *revocations {
	return &revocations{file: cfg.Revocations, log: cfg.Logger, current: &revoked{}, changed: make(chan struct{})}
}

// now returns the current revocations, and a channel that is closed when they are
// replaced.
func (r *revocations) now() (*revoked, <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.current, r.changed
}

// read reads the file, unless the last read succeeded and the file is known to be
// unchanged.
func (r *revocations) read() error {
	f, err := os.Open(r.file)
	if err != nil {
		r.seen = watched.Stamp{}
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
	same := r.seen.IsSame(info)
	if same && !r.watched.Bad() && r.seen.IsSettled() {
		return nil
	}
	raw, err := io.ReadAll(io.LimitReader(f, maxRevocationFile+1))
	if err == nil && len(raw) > maxRevocationFile {
		err = errors.New("it is larger than " + strconv.Itoa(maxRevocationFile) + " bytes: delete the lines whose until has passed")
	}
	if err != nil {
		return fmt.Errorf("can't read %s: %w", r.file, err)
	}
	set, err := parseRevocations(raw, now)
	if err != nil {
		return fmt.Errorf("%s: %w", r.file, err)
	}
	r.seen = watched.NewStamp(now, info)
	r.mu.Lock()
	r.current = set
	close(r.changed)
	r.changed = make(chan struct{})
	r.mu.Unlock()
	if !same {
		r.log.Info("read the revocations of tokens", "tokens", len(set.tokens), "clients", len(set.clients), "everybody", !set.everybody.until.IsZero())
	}
	return nil
}

// run checks the file every second, and reads it again when it has changed, until
// ctx ends.
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
		warn, mended := r.watched.Record(err, time.Now())
		switch {
		case warn:
			r.log.Error("the revocations of tokens can't be read: the earlier ones stay in force, newer ones are ignored, and a restart would fail", "err", err)
		case mended:
			r.log.Info("the revocations of tokens can be read again and are in force")
		}
	}
}
