package console

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/ganglion-es/ganglion/test/leaks"
)

func TestMain(m *testing.M) { leaks.Main(m) }

// patience bounds every wait, also on a busy machine.
const patience = time.Minute

// fake is a cluster of two gateways, of which n1 serves the console.
type fake struct {
	mu    sync.Mutex
	state State
	own   map[string]Vitals
	seen  map[string]Vitals // own when the console last asked for the state, so that the members change together
	grows map[string]uint64 // commands that a member gets each time
	fails map[string]error
	asked int
	users map[string]User // by token
	views map[string]View
}

func newFake() *fake {
	member := func(id string) Member {
		return Member{ID: id, State: "ready", Roles: []string{"domain", "gateway"}, Version: "v1", Partitions: 512, Ring: "r"}
	}
	return &fake{
		state: State{State: "ready", Log: "log", Head: 7, Ring: "r", Partitions: 1024, Owners: 2, Members: []Member{member("n1"), member("n2")}, Lost: []Lost{}},
		own:   map[string]Vitals{"n1": {StoreUp: true, Position: 7}, "n2": {StoreUp: true, Position: 7}},
		fails: map[string]error{},
		users: map[string]User{"viewer": {Name: "vera", Role: Viewer}, "reader": {Name: "rita", Role: Reader}, "operator": {Name: "otto", Role: Operator}},
	}
}

func (f *fake) change(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

func (f *fake) identify(r *http.Request) (User, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if token == "guest" {
		return User{}, fmt.Errorf("%w: guest has no role", ErrForbidden)
	}
	if _, wasUsed := f.users[token]; token == "short" && !wasUsed { // expires a second after its first use
		f.users[token] = User{Name: "sam", Role: Viewer, Expires: time.Now().Add(time.Second)}
	}
	user, ok := f.users[token]
	if !ok || !user.Expires.IsZero() && user.Expires.Before(time.Now()) {
		return User{}, errors.New("the token is not known")
	}
	return user, nil
}

func (f *fake) config() Config {
	return Config{
		Node: "n1", Cluster: "test", Identify: f.identify,
		State: func() State {
			f.mu.Lock()
			defer f.mu.Unlock()
			for id, n := range f.grows {
				v := f.own[id]
				v.Commands += n
				f.own[id] = v
			}
			f.seen = maps.Clone(f.own)
			return f.state
		},
		Ring: func() Ring {
			return Ring{
				Members: []string{"n1", "n2"}, Owners: []string{"n1", "n2", "n1"}, Moves: []Move{{At: time.Unix(1, 0).UTC(), From: "n3", To: "n1", Partitions: 1}},
				Partition: func(aggregate string) (int, error) {
					if aggregate == "nonsense" {
						return 0, errors.New("write type/id")
					}
					return 1, nil
				},
			}
		},
		Vitals: func(_ context.Context, m Member) (Vitals, error) {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.asked++
			return f.seen[m.ID], f.fails[m.ID]
		},
		Views:  f.views,
		Pages:  fstest.MapFS{"index.html.gz": {Data: zipped("<!doctype html>")}, "console.js.gz": {Data: zipped(strings.Repeat("// code\n", 100))}},
		Logger: slog.New(slog.DiscardHandler),
	}
}

func zipped(text string) []byte {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, _ = w.Write([]byte(text)) // a write into memory does not fail
	_ = w.Close()
	return b.Bytes()
}

// serve serves a console until the test ends.
func (f *fake) serve(t *testing.T) string {
	t.Helper()
	c := New(f.config())
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := c.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	server := httptest.NewServer(c.Handler())
	t.Cleanup(func() {
		cancel()
		running.Wait()
		server.Close()
		http.DefaultClient.CloseIdleConnections()
	})
	return server.URL
}

// ask returns the answer to a request with a token.
func ask(t *testing.T, url, token string) *http.Response {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { response.Body.Close() })
	return response
}

func TestRequestsNeedTheirRole(t *testing.T) {
	t.Parallel()
	url := newFake().serve(t)
	for _, c := range []struct {
		path, token string
		code        int
		body        string
	}{
		{"/api/me", "", 401, `"error":"the token is not known"`},
		{"/api/me", "nonsense", 401, `"error"`},
		{"/api/me", "guest", 403, "guest has no role"},
		{"/api/me", "viewer", 200, `"role":"viewer"`},
		{"/api/status", "", 401, `"error"`},
		{"/api/status", "guest", 403, `"error"`},
		{"/api/nothing", "operator", 404, "the console has no GET /api/nothing"},
		{"/api/ring", "viewer", 200, `{"members":["n1","n2"],"owners":[0,1,0],"moves":[{"at":"1970-01-01T00:00:01Z","from":"n3","to":"n1","partitions":1}]}`},
		{"/api/ring?aggregate=seat/1", "viewer", 200, `"sought":{"aggregate":"seat/1","owner":"n2","partition":1}`},
		{"/api/ring?aggregate=nonsense", "viewer", 400, "write type/id"},
		{"/api/ring", "guest", 403, `"error"`},
		{"/", "", 200, "<!doctype html>"}, // the page asks for the token
		{"/nothing.js", "", 404, "not found"},
		{"/..%2fsecret", "", 404, "not found"},
	} {
		response := ask(t, url+c.path, c.token)
		body, err := io.ReadAll(response.Body)
		if err != nil {
			t.Fatal(err)
		}
		if response.StatusCode != c.code || !strings.Contains(string(body), c.body) {
			t.Errorf("%s with the token %q: %d %s, want %d and %s", c.path, c.token, response.StatusCode, body, c.code, c.body)
		}
		if csp := response.Header.Get("Content-Security-Policy"); !strings.HasPrefix(csp, "default-src 'none'") || strings.Contains(csp, "unsafe") {
			t.Errorf("%s: the policy is %q", c.path, csp)
		}
	}
	if !Operator.includes(Reader) || !Reader.includes(Viewer) || Viewer.includes(Reader) || Reader.includes(Operator) || Role("root").includes(Viewer) {
		t.Error("the roles do not include each other as viewer, reader, operator")
	}
}

func TestPagesAreCompressedAndRevalidated(t *testing.T) {
	t.Parallel()
	url := newFake().serve(t)
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url+"/console.js", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Accept-Encoding", "gzip")
	var tag string
	for range 2 {
		if tag != "" {
			r.Header.Set("If-None-Match", tag)
		}
		response, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(response.Body)
		response.Body.Close()
		switch {
		case tag == "" && (response.Header.Get("Content-Encoding") != "gzip" || len(body) > 100 || !strings.Contains(response.Header.Get("Content-Type"), "javascript")):
			t.Errorf("%d bytes with the header %v", len(body), response.Header)
		case tag != "" && response.StatusCode != http.StatusNotModified:
			t.Errorf("the second answer is %d", response.StatusCode)
		}
		tag = response.Header.Get("ETag")
	}
}

// messages reads Server-Sent Events.
type messages struct {
	t    *testing.T
	text *bufio.Scanner
}

func follow(t *testing.T, url, token string) *messages {
	t.Helper()
	response := ask(t, url+"/api/status", token)
	if response.StatusCode != http.StatusOK {
		t.Fatalf("the answer is %s", response.Status)
	}
	text := bufio.NewScanner(response.Body)
	text.Buffer(nil, 1<<20)
	return &messages{t, text}
}

// next returns the next message, and false at the end.
func (m *messages) next() (kind, data string, ok bool) {
	for m.text.Scan() {
		line := m.text.Text()
		switch {
		case strings.HasPrefix(line, "event: "):
			kind = strings.TrimPrefix(line, "event: ")
		case strings.HasPrefix(line, "data: "):
			data = strings.TrimPrefix(line, "data: ")
		case line == "":
			return kind, data, true
		}
	}
	return "", "", false
}

// until returns the first picture that satisfies a condition.
func (m *messages) until(what string, holds func(picture) bool) picture {
	m.t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		kind, data, ok := m.next()
		if !ok {
			break
		}
		if kind != "picture" {
			continue
		}
		var p picture
		if err := json.Unmarshal([]byte(data), &p); err != nil {
			m.t.Fatal(err)
		}
		if holds(p) {
			return p
		}
	}
	m.t.Fatalf("no picture shows that %s", what)
	return picture{}
}

func TestStatusCountsWhatAllMembersReport(t *testing.T) {
	t.Parallel()
	f := newFake()
	url := f.serve(t)
	m := follow(t, url, "viewer")
	m.until("both have answered", func(p picture) bool {
		return len(p.Members) == 2 && p.Members[1].Sessions != nil && len(p.Problems) == 0
	})
	f.change(func() {
		f.state.Head = 107
		f.own["n1"] = Vitals{StoreUp: true, Position: 107, Commands: 40, Delivered: 200, Sessions: 3, Full: 1, Answered: []uint64{40, 0, 0}, Bounds: []float64{.01, .1}}
		f.own["n2"] = Vitals{StoreUp: true, Position: 100, Commands: 60, Delivered: 100, Sessions: 4, Blocked: 2, LagEvents: 9}
		f.grows = map[string]uint64{"n1": 40, "n2": 60} // a page may miss the picture of one second
	})
	p := m.until("commands arrive", func(p picture) bool { return p.Sample.Commands > 0 })
	if p.Sample.Sessions["n1"] != 3 || p.Sample.Sessions["n2"] != 4 || p.Full != 1 || p.Blocked != 2 || p.Sample.LagEvents != 9 || p.Members[1].Behind != 7 || p.Head != 107 {
		t.Errorf("the picture is %+v", p)
	}
	if p.Members[0].Commands == 0 || p.Members[1].Commands == 0 {
		t.Errorf("n1 has %v commands a second, n2 %v", p.Members[0].Commands, p.Members[1].Commands)
	}
	f.change(func() { f.fails["n2"] = errors.New("no answer in time") })
	p = m.until("n2 is silent", func(p picture) bool { return p.Members[1].Silent != "" })
	if p.Members[1].Sessions != nil || p.Sample.Sessions["n1"] != 3 {
		t.Errorf("while n2 is silent, the picture is %+v", p)
	}
	m.until("the silence is a problem", func(p picture) bool {
		return len(p.Problems) == 1 && strings.HasPrefix(p.Problems[0].Text, "n2 does not answer n1: no answer in time")
	})
}

func TestLaterPagesGetTheSamplesOfEarlierOnes(t *testing.T) {
	t.Parallel()
	f := newFake()
	url := f.serve(t)
	m := follow(t, url, "operator")
	first := m.until("the first page has a picture", func(picture) bool { return true })
	kind, data, _ := follow(t, url, "viewer").next()
	var samples []sample
	if err := json.Unmarshal([]byte(data), &samples); err != nil || kind != "samples" {
		t.Fatal(kind, data, err)
	}
	if !slices.ContainsFunc(samples, func(s sample) bool { return s.At == first.At }) { // a slow page misses earlier ones
		t.Errorf("the samples %v lack that of the first picture, %d", samples, first.At)
	}
}

func TestMembersAreAskedOnlyWhilePagesAreOpen(t *testing.T) {
	t.Parallel()
	f := newFake()
	c := New(f.config())
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = c.Run(ctx) })
	defer running.Wait()
	defer cancel()
	if f.change(func() {}); f.asked != 0 {
		t.Errorf("members were asked %d times before a page was open", f.asked)
	}
	news := make(chan struct{}, 1)
	c.watch.join(news)
	<-news
	c.watch.leave(news)
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		c.watch.mu.Lock()
		ended := c.watch.newest == nil
		c.watch.mu.Unlock()
		if ended {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the watch continues without a page")
		}
	}
	if len(c.watch.samples) != 0 {
		t.Error("samples are kept without a page")
	}
	c.watch.join(news) // a later page begins it again
	<-news
	c.watch.leave(news)
}

func TestStatusEndsWithTheToken(t *testing.T) {
	t.Parallel()
	url := newFake().serve(t)
	m := follow(t, url, "short")
	for {
		if _, _, ok := m.next(); !ok {
			break
		}
	}
	if response := ask(t, url+"/api/status", "short"); response.StatusCode != http.StatusUnauthorized {
		t.Errorf("the next request is answered %s", response.Status)
	}
}

func TestProblemsAreNamedWithTheirRunbook(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for what, test := range map[string]struct {
		change        func(*State, map[string]*Vitals)
		text, runbook string // "" for no problem
	}{
		"a healthy cluster": {func(*State, map[string]*Vitals) {}, "", ""},
		"no owners":         {func(s *State, _ map[string]*Vitals) { s.Owners = 0 }, "No domain node is ready", "GanglionNoOwner"},
		"a lost member":     {func(s *State, _ map[string]*Vitals) { s.Lost = []Lost{{"n3", 12}} }, "n3 disappeared 12 s ago", "GanglionMemberLost"},
		"a member that does not serve": {
			func(s *State, _ map[string]*Vitals) {
				s.Members[1].State, s.Members[1].Problem = "not-ready", "events arrive late"
			},
			"n2 runs and does not serve: events arrive late", "GanglionNotReady",
		},
		"another ring":      {func(s *State, _ map[string]*Vitals) { s.Members[1].Ring = "q" }, "n2 and n1 disagree", "GanglionRingsDiffer"},
		"a wrong clock":     {func(s *State, _ map[string]*Vitals) { s.Members[0].ClockMS = -7200 }, "The clock of n1 is -7.2s off", "GanglionClockWrong"},
		"no database":       {func(_ *State, v map[string]*Vitals) { v["n2"].StoreUp = false }, "n2 has no database", "GanglionStoreDown"},
		"blocked rows":      {func(_ *State, v map[string]*Vitals) { v["n1"].Blocked = 1 }, "n1 waits for an operator with 1 row ", "GanglionProjectionBlocked"},
		"stopped segments":  {func(_ *State, v map[string]*Vitals) { v["n1"].Stopped = 2 }, "2 segments of projections on n1", "GanglionProjectionStopped"},
		"a slow projection": {func(_ *State, v map[string]*Vitals) { v["n1"].Lag, v["n1"].LagEvents = time.Minute, 5 }, "A projection on n1 is 5 events and 60 s behind", "GanglionProjectionLags"},
		"slow sessions":     {func(_ *State, v map[string]*Vitals) { v["n1"].Full, v["n1"].Sessions = 11, 100 }, "11 of 100 sessions on n1", "GanglionSlowClients"},
		"few slow sessions": {func(_ *State, v map[string]*Vitals) { v["n1"].Full, v["n1"].Sessions = 10, 20 }, "", ""},
		"a relay that has stopped": {
			func(_ *State, v map[string]*Vitals) {
				v["n1"].Relays = []WaitingRelay{{"orders", "blocked", time.Second}}
				v["n2"].Relays = []WaitingRelay{{"orders", "blocked", time.Second}} // for moments, after a change of owners
			},
			"The relay orders has stopped at an event", "GanglionRelayStopped",
		},
		"a relay of another log": {
			func(_ *State, v map[string]*Vitals) { v["n2"].Relays = []WaitingRelay{{"orders", "other_log", 0}} },
			"The relay orders has stopped, since the log", "GanglionRelayStopped",
		},
		"a relay without its broker": {
			func(_ *State, v map[string]*Vitals) {
				v["n2"].Relays = []WaitingRelay{{"orders", "broker", time.Minute}}
			},
			"The relay orders publishes nothing, and its broker lacks events of 60 s", "GanglionRelayBehind",
		},
		"a relay without its broker for moments": {
			func(_ *State, v map[string]*Vitals) {
				v["n2"].Relays = []WaitingRelay{{"orders", "broker", time.Second}}
			}, "", "",
		},
		"a paused relay": {
			func(_ *State, v map[string]*Vitals) { v["n2"].Relays = []WaitingRelay{{"orders", "paused", time.Hour}} }, "", "",
		},
		"an intake without its broker": {
			func(_ *State, v map[string]*Vitals) {
				v["n1"].Intakes, v["n2"].Intakes = []Intake{{"orders", time.Hour}, {"till", 0}}, []Intake{{"orders", time.Minute}, {"till", 0}}
			},
			"No member takes commands from the queue of the intake orders: for 60 s", "GanglionIntakeAway",
		},
		"an intake that one member lacks": {
			func(_ *State, v map[string]*Vitals) {
				v["n1"].Intakes, v["n2"].Intakes = []Intake{{"orders", time.Hour}}, []Intake{{"orders", 0}}
			},
			"1 of 2 members have no connection to the queue of the intake orders", "GanglionIntakeAway",
		},
		"an intake without its broker for moments": {
			func(_ *State, v map[string]*Vitals) { v["n1"].Intakes = []Intake{{"orders", time.Second}} }, "", "",
		},
		"an old certificate": {
			func(_ *State, v map[string]*Vitals) { v["n2"].CertificateExpires = now.Add(time.Hour) },
			"The certificate of n2 for links between nodes ends at", "GanglionCertificateExpires",
		},
		"versions": {func(s *State, _ map[string]*Vitals) { s.Members[1].Version = "v2" }, "Members run different versions: v1 on n1; v2 on n2.", "GanglionRingsDiffer"},
	} {
		f := newFake()
		own := map[string]*Vitals{"n1": {StoreUp: true, Position: 7}, "n2": {StoreUp: true, Position: 7}}
		test.change(&f.state, own)
		w := newWatch(f.config())
		var p picture
		for range settleAfter { // slow problems are shown after that
			var answers []reading
			for _, m := range f.state.Members {
				answers = append(answers, reading{Vitals: *own[m.ID], at: now})
			}
			p = w.picture(f.state, answers)
		}
		switch {
		case test.text == "" && len(p.Problems) > 0:
			t.Errorf("%s: the problems are %+v", what, p.Problems)
		case test.text != "" && (len(p.Problems) != 1 || !strings.HasPrefix(p.Problems[0].Text, test.text) || p.Problems[0].Runbook != test.runbook || p.Problems[0].Do == ""):
			t.Errorf("%s: the problems are %+v, want %q with %s", what, p.Problems, test.text, test.runbook)
		}
	}
}

func TestQuantilesAreEstimatedWithinTheirBucket(t *testing.T) {
	t.Parallel()
	bounds := []float64{.01, .1}
	for _, test := range []struct {
		counts   []uint64
		p50, p99 float64
	}{
		{[]uint64{100, 0, 0}, .005, .0099},
		{[]uint64{0, 100, 0}, .055, .0991},
		{[]uint64{98, 2, 0}, .0051, .055},
	} {
		var l latencies
		l.add(Vitals{Answered: []uint64{0, 0, 0}, Bounds: bounds}, Vitals{Answered: test.counts, Bounds: bounds})
		p50, p99 := *l.quantile(.5), *l.quantile(.99)
		if diff := max(p50-test.p50, test.p50-p50, p99-test.p99, test.p99-p99); diff > .0001 {
			t.Errorf("%v: p50 is %v, p99 %v; want %v and %v", test.counts, p50, p99, test.p50, test.p99)
		}
	}
	var none latencies
	none.add(Vitals{}, Vitals{Answered: []uint64{5}, Bounds: bounds}) // of another version
	if none.quantile(.5) != nil {
		t.Error("a quantile without commands")
	}
}

func TestRateOfAMemberUsesTheTimesOfItsAnswers(t *testing.T) {
	t.Parallel()
	f := newFake()
	w := newWatch(f.config())
	at := time.Now()
	w.picture(f.state, []reading{{at: at}, {at: at}})
	p := w.picture(f.state, []reading{{Vitals: Vitals{Commands: 40}, at: at.Add(time.Second)}, {Vitals: Vitals{Commands: 90}, at: at.Add(1500 * time.Millisecond)}})
	if p.Members[0].Commands != 40 || p.Members[1].Commands != 60 || p.Sample.Commands != 100 {
		t.Errorf("n1 has %v commands a second, n2 %v, both %v; want 40, 60 and 100", p.Members[0].Commands, p.Members[1].Commands, p.Sample.Commands)
	}
}

func TestRatesBeginAgainWithTheProcess(t *testing.T) {
	t.Parallel()
	f := newFake()
	w := newWatch(f.config())
	at := time.Now()
	answer := func(commands uint64, age int64) picture {
		at = at.Add(time.Second)
		a := reading{Vitals: Vitals{Commands: commands, StoreUp: true}, at: at, age: age}
		return w.picture(State{Members: f.state.Members[:1], Owners: 1, Ring: "r"}, []reading{a})
	}
	if first := answer(1000, 60); first.Sample.Commands != 0 {
		t.Errorf("the first answer has a rate of %v", first.Sample.Commands)
	}
	if second := answer(1010, 61); second.Sample.Commands != 10 {
		t.Errorf("the rate is %v, want 10", second.Sample.Commands)
	}
	if restarted := answer(2000, 0); restarted.Sample.Commands != 0 {
		t.Errorf("the rate of a restarted member is %v", restarted.Sample.Commands)
	}
}
