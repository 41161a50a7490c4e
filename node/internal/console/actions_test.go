package console

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
)

// newActionSite returns a site with an action that counts its calls.
func newActionSite(t *testing.T) (s *site, calls *atomic.Int64) {
	s, calls = newSite(t, sums{}), new(atomic.Int64)
	s.cfg.Actions["count"] = Action{Do: func(_ context.Context, user User, args json.RawMessage) (string, error) {
		return fmt.Sprintf("%s: call %d with %s", user.Name, calls.Add(1), args), nil
	}}
	return s, calls
}

// post sends a request to act, and returns the status and the body of the answer.
func (s *site) post(ctx context.Context, action string, role Role, body string) (int, string) {
	s.t.Helper()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url+"/api/actions/"+action, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	r.Header.Set("role", string(role))
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		return 0, err.Error()
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return 0, err.Error()
	}
	return response.StatusCode, string(text)
}

// do acts as an operator, and returns the outcome.
func (s *site) do(action, body string) outcome {
	s.t.Helper()
	code, text := s.post(s.t.Context(), action, Operator, body)
	var o outcome
	if err := json.Unmarshal([]byte(text), &o); err != nil || code != http.StatusOK {
		s.t.Fatalf("%s %s is answered %d %s", action, body, code, text)
	}
	return o
}

// audit returns the newest entries for a role.
func (s *site) audit(role Role) (entries []auditEntry, text string) {
	s.t.Helper()
	page, text := get[struct{ Entries []auditEntry }](s, role, "/api/audit", nil)
	return page.Entries, text
}

func TestActionsAreRecordedWithWhoWhyAndOutcome(t *testing.T) {
	t.Parallel()
	s, _ := newActionSite(t)
	s.cfg.Actions["fail"] = Action{Do: func(context.Context, User, json.RawMessage) (string, error) {
		return "", errors.New("no such thing")
	}}
	s.cfg.Actions["panic"] = Action{Do: func(context.Context, User, json.RawMessage) (string, error) { panic("boom") }}
	if o := s.do("count", `{"key": "k1", "reason": "because", "args": {"client":"secret-client"}}`); o.Failed || o.Text != `u: call 1 with {"client":"secret-client"}` || o.Request != 1 {
		t.Errorf("the outcome is %+v", o)
	}
	if o := s.do("fail", `{"key": "k2"}`); !o.Failed || o.Text != "no such thing" {
		t.Errorf("the outcome is %+v", o)
	}
	if o := s.do("panic", `{"key": "k3"}`); !o.Failed || !strings.Contains(o.Text, "boom") {
		t.Errorf("the outcome is %+v", o)
	}
	entries, _ := s.audit(Operator)
	if len(entries) != 6 {
		t.Fatalf("the audit is %+v", entries)
	}
	first, end := entries[5], entries[4] // the newest are the first
	if first.Action != "count" || first.Client != "u" || first.Key != "k1" || first.Reason != "because" || first.Args != `{"client":"secret-client"}` || first.Version != 1 || first.Of != 0 {
		t.Errorf("the request is %+v", first)
	}
	if end.Of != first.Position || end.Failed || !strings.HasPrefix(end.Text, "u: call 1") || end.Client != "u" {
		t.Errorf("the outcome is %+v", end)
	}
	if failed := entries[2]; !failed.Failed || failed.Text != "no such thing" || failed.Of != entries[3].Position {
		t.Errorf("the outcome of the failed action is %+v", failed)
	}
	if _, text := s.audit(Viewer); strings.Contains(text, "secret") || strings.Contains(text, "because") || strings.Contains(text, "call 1") || !strings.Contains(text, `"action":"count"`) {
		t.Errorf("a viewer sees %s", text)
	}
	if _, text := s.audit(Reader); !strings.Contains(text, "secret-client") {
		t.Errorf("a reader sees %s", text)
	}
	if _, text := get[eventsPage](s, Viewer, "/api/events", url.Values{"type": {"ops"}}); strings.Contains(text, "secret") || !strings.Contains(text, "requested") {
		t.Errorf("a viewer sees in the log %s", text)
	}
	if _, text := get[any](s, Operator, "/api/audit", url.Values{"before": {"3"}}); !strings.Contains(text, `"version":2`) || strings.Contains(text, `"version":3`) {
		t.Errorf("before version 3, the audit has %s", text)
	}
}

func TestActionsNeedTheRoleOperator(t *testing.T) {
	t.Parallel()
	s, calls := newActionSite(t)
	for _, role := range []Role{Viewer, Reader, "", "root"} {
		for _, action := range []string{"count", "nothing"} {
			if code, text := s.post(t.Context(), action, role, `{"key": "k1"}`); code != http.StatusForbidden || !strings.Contains(text, "needs the role operator") {
				t.Errorf("%q is answered %d %s", role, code, text)
			}
		}
	}
	for body, want := range map[string]string{
		`{}`:               "needs a key",
		`{"key": "~mine"}`: "does not begin with ~",
		`{"key": "` + strings.Repeat("k", 201) + `"}`:                  "1 to 200 bytes",
		`{"key": "k1", "reason": "` + strings.Repeat("k", 1001) + `"}`: "the reason has 1001 bytes",
		`nonsense`: "must be JSON",
		`{"key": "` + strings.Repeat("k", maxActionBytes) + `"}`: "more than 64 KiB",
	} {
		if code, text := s.post(t.Context(), "count", Operator, body); code != http.StatusBadRequest || !strings.Contains(text, want) {
			t.Errorf("%.40s is answered %d %s, want %q", body, code, text, want)
		}
	}
	if code, text := s.post(t.Context(), "nothing", Operator, `{"key": "k1"}`); code != http.StatusNotFound || !strings.Contains(text, "no action nothing") {
		t.Errorf("an unknown action is answered %d %s", code, text)
	}
	if entries, _ := s.audit(Viewer); calls.Load() != 0 || len(entries) != 0 {
		t.Errorf("%d calls, and the audit has %+v", calls.Load(), entries)
	}
	if _, text := get[any](s, Operator, "/api/me", nil); !strings.Contains(text, `"actions":["count"]`) {
		t.Errorf("an operator is told %s", text)
	}
	if _, text := get[any](s, Reader, "/api/me", nil); !strings.Contains(text, `"actions":[]`) {
		t.Errorf("a reader is told %s", text)
	}
}

func TestSameKeyActsOnce(t *testing.T) {
	t.Parallel()
	s, calls := newActionSite(t)
	var sending sync.WaitGroup
	outcomes := make([]outcome, 8)
	for i := range outcomes {
		sending.Go(func() { outcomes[i] = s.do("count", `{"key": "k1", "args": {"by":1}}`) })
	}
	sending.Wait()
	first := 0
	for _, o := range outcomes {
		if o.Text != `u: call 1 with {"by":1}` || o.Unknown || o.Request != 1 {
			t.Errorf("an outcome is %+v", o)
		}
		if !o.Replayed {
			first++
		}
	}
	if first != 1 || calls.Load() != 1 {
		t.Errorf("%d outcomes are first ones, of %d calls", first, calls.Load())
	}
	if code, text := s.post(t.Context(), "count", Operator, `{"key": "k1", "args": {"by":2}}`); code != http.StatusConflict || !strings.Contains(text, "used for another action") {
		t.Errorf("the key with other arguments is answered %d %s", code, text)
	}
	for i := range outcomes { // different ones, together: each is recorded
		sending.Go(func() { outcomes[i] = s.do("count", fmt.Sprintf(`{"key": "other%d"}`, i)) })
	}
	sending.Wait()
	if entries, _ := s.audit(Reader); len(entries) != 18 || calls.Load() != 9 {
		t.Errorf("%d entries for %d calls", len(entries), calls.Load())
	}
}

func TestActionsThatEndedWithTheirNodeAreUnknown(t *testing.T) {
	t.Parallel()
	s, calls := newActionSite(t)
	s.cfg.Now = func() time.Time { return time.Now().Add(-time.Hour) }
	if _, first, err := s.record(t.Context(), User{Name: "u", Role: Operator}, request{Key: "k1", Action: "count"}); err != nil || first != 0 {
		t.Fatal(first, err)
	}
	s.cfg.Now = time.Now
	if o := s.do("count", `{"key": "k1"}`); !o.Unknown || !o.Replayed || calls.Load() != 0 || !strings.Contains(o.Text, "the outcome is not known") {
		t.Errorf("the outcome is %+v after %d calls", o, calls.Load())
	}
	if entries, _ := s.audit(Reader); len(entries) != 1 {
		t.Errorf("the audit is %+v", entries)
	}
}

func TestActionsAreBoundedAndEndWithoutTheirPage(t *testing.T) {
	t.Parallel()
	s, _ := newActionSite(t)
	s.cfg.Actions["slow"] = Action{Within: 10 * time.Millisecond, Do: func(ctx context.Context, _ User, _ json.RawMessage) (string, error) {
		<-ctx.Done()
		return "", errors.New("n2: no answer in time")
	}}
	if o := s.do("slow", `{"key": "k1"}`); !o.Failed || o.Text != "n2: no answer in time" {
		t.Errorf("the outcome is %+v", o)
	}
	began, end := make(chan struct{}), make(chan struct{})
	s.cfg.Actions["wait"] = Action{Within: patience, Do: func(ctx context.Context, _ User, _ json.RawMessage) (string, error) {
		close(began)
		<-end
		return "ended", ctx.Err()
	}}
	ctx, leave := context.WithCancel(t.Context())
	var sending sync.WaitGroup
	sending.Go(func() { s.post(ctx, "wait", Operator, `{"key": "k2"}`) })
	<-began
	leave()
	sending.Wait()
	close(end)
	if o := s.do("wait", `{"key": "k2"}`); o.Failed || o.Text != "ended" || !o.Replayed { // it waits for the outcome
		t.Errorf("the outcome is %+v", o)
	}
}

func TestActionsThatCannotBeRecordedAreNotExecuted(t *testing.T) {
	t.Parallel()
	s, calls := newActionSite(t)
	for range maxActing {
		s.acting <- struct{}{}
	}
	if code, text := s.post(t.Context(), "count", Operator, `{"key": "k1"}`); code != http.StatusServiceUnavailable || !strings.Contains(text, "16 actions are in progress") {
		t.Errorf("too many actions are answered %d %s", code, text)
	}
	for range maxActing {
		<-s.acting
	}
	s.store.Close()
	if code, text := s.post(t.Context(), "count", Operator, `{"key": "k1"}`); code != http.StatusServiceUnavailable || !strings.Contains(text, "nothing was done") || calls.Load() != 0 {
		t.Errorf("without a log, the answer is %d %s after %d calls", code, text, calls.Load())
	}
	if outcomeKey(7) != "~console:7.0:0" || causeOf(&eventstore.Commit{Key: outcomeKey(7)}) != 7 {
		t.Error("the key of an outcome does not name its request")
	}
}

func TestSessionsOfAllGatewaysAreCounted(t *testing.T) {
	t.Parallel()
	f := newFake()
	f.state.Members = append(f.state.Members, Member{ID: "n3", Roles: []string{"domain"}}, Member{ID: "n4", Roles: []string{"gateway"}})
	cfg := f.config()
	cfg.Sessions = func(ctx context.Context, m Member, text string, most int) (s Sessions, err error) {
		if m.ID == "n4" {
			<-ctx.Done()
			return s, errors.New("no answer in time")
		}
		s = Sessions{Open: 1500, Full: 1, Matching: 1500}
		for i := range most {
			s.List = append(s.List, Session{ID: fmt.Sprintf("%s-%03d", m.ID, i), Client: text, Full: i == 7, Topics: []Topic{}})
		}
		return s, nil
	}
	c := New(cfg)
	w := httptest.NewRecorder()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/api/sessions?q=ada", nil)
	r.Header.Set("Authorization", "Bearer viewer")
	c.Handler().ServeHTTP(w, r)
	var page struct {
		Open, Full, Matching int
		Gateways             []gatewayRow
		Sessions             []Session
	}
	if err := json.Unmarshal(w.Body.Bytes(), &page); err != nil {
		t.Fatal(w.Body, err)
	}
	if page.Open != 3000 || page.Full != 2 || page.Matching != 3000 || len(page.Gateways) != 3 || page.Gateways[2].Silent != "no answer in time" {
		t.Errorf("the answer counts %d %d %d %+v", page.Open, page.Full, page.Matching, page.Gateways)
	}
	if len(page.Sessions) != maxSessions || page.Sessions[0].ID != "n1-007" || page.Sessions[1].ID != "n2-007" || page.Sessions[2].ID != "n1-000" || page.Sessions[2].Node != "n1" {
		t.Errorf("the first of %d sessions are %+v", len(page.Sessions), page.Sessions[:3])
	}
}

func TestHealthShowsTheLastCheckOfTheLog(t *testing.T) {
	t.Parallel()
	s, _ := newActionSite(t)
	result := error(nil)
	s.cfg.Actions[VerifyAction] = Action{Do: func(context.Context, User, json.RawMessage) (string, error) { return "no faults found", result }}
	last := func() *verifyView {
		t.Helper()
		v, err := s.lastVerify(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	if v := last(); v != nil {
		t.Errorf("before the first check it is %+v", v)
	}
	s.do(VerifyAction, `{"key":"first"}`)
	if v := last(); v == nil || v.Failed || v.Text != "no faults found" || v.Ended == "" {
		t.Errorf("after a check it is %+v", v)
	}
	result = errors.New("the log is damaged")
	s.do(VerifyAction, `{"key":"second"}`)
	for i := range auditEvents / 2 { // it is in the second read of the stream
		s.do("count", fmt.Sprintf(`{"key":"count %d"}`, i))
	}
	if v := last(); v == nil || !v.Failed || v.Text != "the log is damaged" {
		t.Errorf("after a failed check it is %+v", v)
	}
	if _, _, err := s.Console.append(t.Context(), eventstore.Command{
		Key: "third", At: time.Now(), Events: []eventstore.Event{{Type: requested, Data: json.RawMessage(`{"action":"verify"}`)}},
	}); err != nil {
		t.Fatal(err)
	}
	if v := last(); v == nil || v.Failed || v.Ended != "" || v.At == "" {
		t.Errorf("while a check is in progress it is %+v", v)
	}
}
