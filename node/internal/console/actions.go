package console

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/ganglion-es/ganglion/eventstore"
)

const (
	// OpsType is the type of the stream with the actions of operators: its id is the
	// name of the cluster. No aggregate of an application may have it.
	OpsType = "ops"
	// requested, done and failed are the events of the stream.
	requested, done, failed = "requested", "done", "failed"

	// actionTime bounds an action that has no bound of its own, recordTime the append of
	// its request and of its outcome, each.
	actionTime, recordTime = 15 * time.Second, 10 * time.Second
	// maxActing bounds the actions in progress at a node.
	maxActing = 16
	// maxActionBytes bounds the body of a request, maxKeyBytes and maxReasonBytes its
	// members, and maxTextBytes the text of an outcome.
	maxActionBytes, maxKeyBytes, maxReasonBytes, maxTextBytes = 64 << 10, 200, 1000, 2000
	// recordTries is the number of appends, if other actions are recorded in the meantime.
	recordTries = 50
	// auditEvents is the number of events of one read of the stream.
	auditEvents = 200
)

// Action is something that operators can do on the console.
type Action struct {
	// Do acts. It returns a short text for the user and the audit, such as "closed 2
	// sessions". Its error is the text of an action that failed. The arguments are
	// from the user. Do must return when ctx ends.
	Do func(ctx context.Context, user User, args json.RawMessage) (outcome string, err error)
	// Within bounds Do, 0 for 15 s.
	Within time.Duration
	// NeedsReason makes the reason of a request required.
	NeedsReason bool
}

func (a Action) within() time.Duration {
	if a.Within > 0 {
		return a.Within
	}
	return actionTime
}

// Audit is the part of an [eventstore.Store] with which the console records actions.
type Audit interface {
	Append(ctx context.Context, u eventstore.Unit) (eventstore.Appended, error)
	ReadStream(ctx context.Context, s eventstore.StreamID, after eventstore.Version, limit int) ([]eventstore.Commit, error)
}

// request is the body of a request to act, and the data of the event requested.
type request struct {
	// Key identifies the request forever: the same key again does not act again.
	Key    string          `json:"key,omitempty"`
	Action string          `json:"action"`
	Reason string          `json:"reason,omitempty"`
	Args   json.RawMessage `json:"args,omitempty"`
}

// outcome is the answer to a request to act, and the data of the events done and failed.
type outcome struct {
	// Request is the position of the event requested.
	Request uint64 `json:"request"`
	Text    string `json:"text"`
	Failed  bool   `json:"failed,omitempty"`
	// Unknown means that the log has no outcome: the node ended while it acted.
	Unknown bool `json:"unknown,omitempty"`
	// Replayed means that the key was used before, and this is the first outcome.
	Replayed bool `json:"replayed,omitempty"`
}

// ops returns the stream of the actions.
func (c *Console) ops() eventstore.StreamID {
	return eventstore.StreamID{Type: OpsType, ID: c.cfg.Cluster}
}

// serveAction records a request of an operator, acts, records the outcome, and answers
// with it. An action in progress does not end with the request.
func (c *Console) serveAction(w http.ResponseWriter, r *http.Request, user User) {
	name := r.PathValue("name")
	action, ok := c.cfg.Actions[name]
	if !ok {
		refuse(w, http.StatusNotFound, "this node has no action "+name)
		return
	}
	req, err := readAction(w, r, name)
	if err == nil && action.NeedsReason && strings.TrimSpace(req.Reason) == "" {
		err = fmt.Errorf("the action %s needs a reason, for the audit", name)
	}
	if err != nil {
		refuse(w, http.StatusBadRequest, err.Error())
		return
	}
	if !c.beginAction(w) {
		return
	}
	defer c.endAction()
	ctx := context.WithoutCancel(r.Context()) // the outcome is recorded also if the page goes
	at, first, err := c.record(ctx, user, req)
	switch {
	case errors.Is(err, errReused):
		refuse(w, http.StatusConflict, "the key was used for another action: send this one with a new key")
		return
	case err != nil:
		c.cfg.Logger.Warn("an action of an operator was not recorded, and not executed", "action", name, "client", user.Name, "err", err)
		refuse(w, http.StatusServiceUnavailable, "the action cannot be recorded in the log, so nothing was done; try again: "+err.Error())
		return
	case first > 0:
		o, err := c.await(r.Context(), at, first, action.within()+recordTime)
		if err != nil {
			c.refuseRead(w, r, err)
			return
		}
		o.Replayed = true
		answer(w, o)
		return
	}
	o := c.act(ctx, user, action, req, at)
	for _, v := range c.views {
		v.changed.Store(true)
	}
	answer(w, o)
}

// beginAction takes one of the places for actions in progress, or refuses the request.
func (c *Console) beginAction(w http.ResponseWriter) bool {
	select {
	case c.acting <- struct{}{}:
		return true
	default:
		refuse(w, http.StatusServiceUnavailable, fmt.Sprintf("%d actions are in progress at this node: try again when one has ended", maxActing))
		return false
	}
}

func (c *Console) endAction() { <-c.acting }

// readAction reads a request to act.
func readAction(w http.ResponseWriter, r *http.Request, name string) (req request, err error) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxActionBytes))
	if err != nil {
		return req, fmt.Errorf("the request cannot be read, or has more than %d KiB", maxActionBytes>>10)
	}
	if err := json.Unmarshal(body, &req); err != nil {
		return req, errors.New(`the request must be JSON: {"key": "…", "reason": "…", "args": {…}}`)
	}
	req.Action = name
	switch {
	case req.Key == "" || len(req.Key) > maxKeyBytes || strings.HasPrefix(req.Key, eventstore.Reserved):
		return req, fmt.Errorf("the request needs a key of 1 to %d bytes that does not begin with %s; the same key again does not act again", maxKeyBytes, eventstore.Reserved)
	case len(req.Reason) > maxReasonBytes:
		return req, fmt.Errorf("the reason has %d bytes, at most %d are allowed", len(req.Reason), maxReasonBytes)
	}
	return req, nil
}

var errReused = errors.New("console: the key was used for another action")

// record appends a request, and returns its position. If the key is known, these are
// the position and the version of its first use; otherwise first is 0.
func (c *Console) record(ctx context.Context, user User, req request) (position, first uint64, err error) {
	hash := sha256.New()
	for _, part := range []string{user.Name, req.Action, req.Reason, string(req.Args)} {
		fmt.Fprintf(hash, "%d:%s", len(part), part)
	}
	key := req.Key
	req.Key = "" // it is that of the commit
	data, err := json.Marshal(req)
	if err != nil {
		return 0, 0, errors.New("the request cannot be written as JSON")
	}
	command := eventstore.Command{
		Key: key, Hash: eventstore.Hash(hash.Sum(nil)), At: c.cfg.Now(), Meta: eventstore.Meta{Client: user.Name},
		Events: []eventstore.Event{{Type: requested, Data: data}},
	}
	place, isFirst, err := c.append(ctx, command)
	if err != nil || isFirst {
		return uint64(place.Position), 0, err
	}
	return uint64(place.Position), uint64(place.Version), nil
}

// append appends a command to the stream of the actions. If its key is known, it
// returns the place of its first use, and false.
func (c *Console) append(ctx context.Context, command eventstore.Command) (place eventstore.Place, isFirst bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, recordTime)
	defer cancel()
	head, err := c.cfg.Log.StreamHead(ctx, c.ops())
	version := head.Version
	for range recordTries {
		if err != nil {
			break
		}
		var appended eventstore.Appended
		appended, err = c.cfg.Audit.Append(ctx, eventstore.Unit{Stream: c.ops(), Expected: version, Commands: []eventstore.Command{command}})
		var known *eventstore.KnownKeysError
		var conflict *eventstore.ConflictError
		switch {
		case err == nil:
			return appended.Commands[0], true, nil
		case errors.As(err, &known) && known.Known[0].Reused:
			return place, false, errReused
		case errors.As(err, &known):
			return known.Known[0].Place, false, nil
		case errors.As(err, &conflict):
			version = conflict.Actual
			err = nil
		case errors.Is(err, eventstore.ErrUnknown):
			return place, false, err
		}
	}
	if err == nil {
		err = errors.New("too many actions are recorded at the same time")
	}
	return place, false, err
}

// act acts, and records the outcome.
func (c *Console) act(ctx context.Context, user User, action Action, req request, at uint64) outcome {
	c.cfg.Logger.Info("an operator acts on the console", "action", req.Action, "client", user.Name, "position", at)
	acting, cancel := context.WithTimeout(ctx, action.within())
	defer cancel()
	o := outcome{Request: at}
	err := guard(func() (err error) { o.Text, err = action.Do(acting, user, req.Args); return err })
	event := done
	if err != nil {
		event, o.Failed, o.Text = failed, true, err.Error()
	}
	o.Text = clip(o.Text, maxTextBytes)
	data, _ := json.Marshal(o) // it has no value that cannot be written
	_, _, err = c.append(ctx, eventstore.Command{
		Key: outcomeKey(at), At: c.cfg.Now(), Meta: eventstore.Meta{Client: user.Name}, Events: []eventstore.Event{{Type: event, Data: data}},
	})
	if err != nil {
		c.cfg.Logger.Warn("the outcome of an action was not recorded", "action", req.Action, "client", user.Name, "position", at, "err", err)
		o.Text += " (the log did not take this outcome, so the audit shows it as unknown)"
	}
	return o
}

// outcomeKey is the key of the outcome of a request. It has the form that names the
// event at that position as the cause.
func outcomeKey(request uint64) string { return fmt.Sprintf("~console:%d.0:0", request) }

// await returns the outcome of an earlier request with its position and its version. If
// the action may still be in progress, it waits.
func (c *Console) await(ctx context.Context, position, version uint64, within time.Duration) (outcome, error) {
	o := outcome{Request: position, Unknown: true, Text: "the outcome is not known: the node ended while it acted; look at the present state, and act again with a new key if that is necessary"}
	after := eventstore.Version(version - 1)
	for began := (time.Time{}); ; {
		reading, cancel := context.WithTimeout(ctx, recordTime)
		commits, err := c.cfg.Audit.ReadStream(reading, c.ops(), after, auditEvents)
		cancel()
		if err != nil {
			return o, err
		}
		for i := range commits {
			if began.IsZero() {
				began = commits[i].At
			}
			if causeOf(&commits[i]) == position {
				o.Unknown = false
				return o, json.Unmarshal(commits[i].Events[0].Data, &o)
			}
			after = commits[i].Version
		}
		if len(commits) == auditEvents {
			continue
		}
		if c.cfg.Now().After(began.Add(within)) {
			return o, nil
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return o, ctx.Err()
		}
	}
}

// clip returns at most n bytes of a text.
func clip(text string, n int) string {
	if len(text) <= n {
		return text
	}
	for n > 0 && !utf8.RuneStart(text[n]) {
		n--
	}
	return text[:n] + "…"
}

// auditEntry is an event of the stream of the actions: a request, or an outcome.
type auditEntry struct {
	Version  uint64 `json:"version"`
	Position uint64 `json:"position"`
	At       string `json:"at"` // RFC 3339
	Client   string `json:"client"`
	Key      string `json:"key,omitempty"`
	// Action is that of a request, Of the position of the request of an outcome.
	Action string `json:"action,omitempty"`
	Of     uint64 `json:"of,omitempty"`
	Failed bool   `json:"failed,omitempty"`
	// Users without the role reader do not get these.
	Reason string `json:"reason,omitempty"`
	Args   string `json:"args,omitempty"` // the text of JSON
	Text   string `json:"text,omitempty"`
}

// serveAudit answers with the events of the stream of the actions before a version, or
// the newest ones, the newest first.
func (c *Console) serveAudit(w http.ResponseWriter, r *http.Request, user User) {
	if c.cfg.NoActions != "" {
		refuse(w, http.StatusNotFound, c.cfg.NoActions)
		return
	}
	before, isGiven, err := number(r.URL.Query(), "before")
	if err != nil {
		refuse(w, http.StatusBadRequest, err.Error())
		return
	}
	page := struct {
		Stream  string       `json:"stream"`
		After   uint64       `json:"after"` // the version up to which there are older events
		Entries []auditEntry `json:"entries"`
	}{c.ops().String(), 0, []auditEntry{}}
	ctx, cancel := context.WithTimeout(r.Context(), recordTime)
	defer cancel()
	if !isGiven {
		head, err := c.cfg.Log.StreamHead(ctx, c.ops())
		if err != nil {
			c.refuseRead(w, r, err)
			return
		}
		before = uint64(head.Version) + 1
	}
	last := max(before, 1) - 1
	page.After = last - min(last, auditEvents)
	commits, err := c.cfg.Audit.ReadStream(ctx, c.ops(), eventstore.Version(page.After), auditEvents)
	if err != nil {
		c.refuseRead(w, r, err)
		return
	}
	for i := len(commits) - 1; i >= 0; i-- {
		if uint64(commits[i].Version) <= last && len(commits[i].Events) == 1 {
			page.Entries = append(page.Entries, entryOf(&commits[i], user.Role))
		}
	}
	answer(w, page)
}

// entryOf returns a commit for a user with a role.
func entryOf(commit *eventstore.Commit, role Role) auditEntry {
	e := auditEntry{
		Version: uint64(commit.Version), Position: uint64(commit.Position), At: commit.At.UTC().Format(time.RFC3339Nano), Client: commit.Meta.Client,
		Of: causeOf(commit), Failed: commit.Events[0].Type == failed,
	}
	var data struct {
		request
		Text string `json:"text"`
	}
	_ = json.Unmarshal(commit.Events[0].Data, &data) // without it, the entry has no action
	e.Action = data.Action
	if e.Of == 0 {
		e.Key = commit.Key
	}
	if role.includes(Reader) {
		e.Reason, e.Args, e.Text = data.Reason, string(data.Args), data.Text
	}
	return e
}
