package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	ganglion "github.com/ganglion-es/ganglion/client/go"
	"github.com/ganglion-es/ganglion/node"
	"github.com/ganglion-es/ganglion/test/harness"
)

// consumerProgram is the name of the program that is a member of the group "readers".
const consumerProgram = "notes-reader"

// consumeForever is the program: a member that prints each event, waits for a line that
// says that the event is handled, and acknowledges it. It uses its gateways one after
// another, and ends with its input.
func consumeForever(member string, urls []string) {
	handled := bufio.NewScanner(os.Stdin)
	for i := 0; ; i++ {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		s, err := harness.Dial(ctx, urls[i%len(urls)], "ada", nil)
		cancel()
		if err != nil {
			time.Sleep(50 * time.Millisecond) // another gateway may be up
			continue
		}
		consumeOnce(s, member, handled)
		s.Close()
	}
}

// goConsumerProgram is the name of the same program with client/go, which does not tell
// the segment and its epoch.
const goConsumerProgram = "notes-reader-go"

func consumeWithLibrary(member string, urls []string) {
	handled := bufio.NewScanner(os.Stdin)
	client, err := ganglion.Connect(context.Background(), ganglion.Options{
		URLs: urls, ClientID: "ada", OnError: func(e *ganglion.Error) { fmt.Fprintln(os.Stderr, member, e) },
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	for d, err := range client.Consume(context.Background(), "readers", ganglion.WithMember(member), ganglion.WithWindow(20)) {
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Println("event - 0", d.Stream, d.Version)
		if !handled.Scan() {
			os.Exit(0)
		}
		d.Ack()
	}
}

// consumeOnce consumes until the session or the membership ends.
func consumeOnce(s *harness.Session, member string, handled *bufio.Scanner) {
	frames := make(chan harness.Frame, 10_000) // more than all windows together
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if f, err := s.Consume(ctx, "g", "readers", member, 20, func(f harness.Frame) { frames <- f }); err != nil || f.Op != "consuming" {
		return
	}
	go closeIfSilent(s)
	epochs := map[string]uint64{}
	for {
		var f harness.Frame
		select {
		case f = <-frames:
		case <-s.Done():
			return
		}
		switch f.Op {
		case "assigned":
			epochs[f.Segment] = f.Epoch
		case "revoked":
			if epochs[f.Segment] == f.Epoch {
				delete(epochs, f.Segment)
			}
			fmt.Println("revoked", f.Segment, f.Epoch)
		case "unsubscribed":
			fmt.Println("unsubscribed", f.Code)
			return
		case "event":
			if epochs[f.Segment] == 0 {
				continue // revoked
			}
			fmt.Println("event", f.Segment, epochs[f.Segment], f.Stream, f.Version)
			if !handled.Scan() {
				os.Exit(0)
			}
			_ = s.Send(context.Background(), map[string]any{
				"op": "ack", "sub": "g", "segment": f.Segment, "epoch": epochs[f.Segment], "cursor": fmt.Sprint(f.Position),
			}) // after an error, the session has ended
		}
	}
}

// closeIfSilent closes a session whose gateway answers none of three pings in a row,
// since it is frozen. When this process was frozen itself, one ping is too late.
func closeIfSilent(s *harness.Session) {
	defer s.Close()
	for unanswered := 0; unanswered < 3; unanswered++ {
		pong, err := s.Start(context.Background(), map[string]any{"op": "ping"})
		if err != nil {
			return
		}
		next := time.After(time.Second)
		select {
		case <-pong:
			unanswered = -1
			<-next
		case <-next:
		case <-s.Done():
			return
		}
	}
}

// ledger has the effects of all members. It refuses an event whose version is not
// higher than the last one of its stream, as docs/protocol.md tells consumers to do.
type ledger struct {
	// crash, if set, is called for each event. If it returns true, the event kills the
	// member that got it, before it is handled, and another member begins.
	crash func(stream string) bool

	mu       sync.Mutex
	last     map[string]uint64 // version, by stream
	total    int
	refused  map[string]int    // by member
	holders  map[string]string // member, by segment and epoch
	sent     map[string]bool   // by segment, epoch, stream and version
	notices  map[string][]string
	problems []string
	crashed  chan string // members
}

func newLedger() *ledger {
	return &ledger{last: map[string]uint64{}, refused: map[string]int{}, holders: map[string]string{}, sent: map[string]bool{}, notices: map[string][]string{}, crashed: make(chan string, 100)}
}

// What a line of a member asks for.
type verdict int

const (
	nothing verdict = iota
	isHandled
	isFatal
)

// handle handles a line of a member.
func (l *ledger) handle(member, line string) verdict {
	l.mu.Lock()
	defer l.mu.Unlock()
	var segment, stream string
	var epoch, version uint64
	if n, _ := fmt.Sscanf(line, "event %s %d %s %d", &segment, &epoch, &stream, &version); n != 4 {
		l.notices[member] = append(l.notices[member], line)
		return nothing
	}
	if tenure := fmt.Sprint(segment, " ", epoch); epoch == 0 { // the program does not know it
		l.holders[member] = member
	} else {
		if holder := l.holders[tenure]; holder != "" && holder != member {
			l.problems = append(l.problems, fmt.Sprintf("%s and %s both have segment %s", holder, member, tenure))
		}
		if l.holders[tenure] = member; l.sent[line] {
			l.problems = append(l.problems, fmt.Sprintf("%s got %q twice", member, line))
		}
		l.sent[line] = true
	}
	if l.crash != nil && l.crash(stream) {
		return isFatal
	}
	switch last := l.last[stream]; {
	case version <= last:
		l.refused[member]++
	case version > last+1:
		l.problems = append(l.problems, fmt.Sprintf("%s got version %d of %s after %d", member, version, stream, last))
	default:
		l.last[stream] = version
		l.total++
	}
	return isHandled
}

func (l *ledger) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.total
}

// heard reports whether a member has printed a line with the prefix.
func (l *ledger) heard(member, prefix string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.ContainsFunc(l.notices[member], func(line string) bool { return strings.HasPrefix(line, prefix) })
}

// holds reports whether a member has segments at the moment, as far as events show.
func (l *ledger) holds(member string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Contains(slices.Collect(maps.Values(l.holders)), member)
}

// startMember runs a program as a member. It returns its process.
func (l *ledger) startMember(t *testing.T, program, member string, urls ...string) *os.Process {
	t.Helper()
	return l.startCommand(t, member, exec.Command(program, append([]string{member}, urls...)...))
}

func (l *ledger) startCommand(t *testing.T, member string, cmd *exec.Cmd) *os.Process {
	t.Helper()
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var reading sync.WaitGroup
	reading.Go(func() {
		for lines := bufio.NewScanner(out); lines.Scan(); {
			switch l.handle(member, lines.Text()) {
			case isHandled:
				_, _ = io.WriteString(in, "handled\n") // the program may be gone
			case isFatal:
				_ = cmd.Process.Kill()
				l.crashed <- member
			}
		}
		_ = cmd.Wait()
	})
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		reading.Wait()
	})
	return cmd.Process
}

// valve forwards connections until it is shut: then it forwards nothing and closes
// nothing, as a network that drops packets.
type valve struct {
	url  string
	mu   sync.Mutex
	open sync.Cond
	shut bool
}

func newValve(t *testing.T, target string) *valve {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	v := &valve{url: "http://" + l.Addr().String()}
	v.open.L = &v.mu
	var serving sync.WaitGroup
	var mu sync.Mutex
	var all []net.Conn
	serving.Go(func() {
		for {
			from, err := l.Accept()
			if err != nil {
				return
			}
			to, err := net.Dial("tcp", strings.TrimPrefix(target, "http://"))
			if err != nil {
				_ = from.Close()
				continue
			}
			mu.Lock()
			all = append(all, from, to)
			mu.Unlock()
			serving.Go(func() { v.forward(from, to) })
			serving.Go(func() { v.forward(to, from) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		v.set(false)
		mu.Lock()
		for _, c := range all {
			_ = c.Close()
		}
		mu.Unlock()
		serving.Wait()
	})
	return v
}

func (v *valve) set(shut bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.shut = shut
	v.open.Broadcast()
}

func (v *valve) forward(from, to net.Conn) {
	b := make([]byte, 4096)
	for {
		n, err := from.Read(b)
		v.mu.Lock()
		for v.shut {
			v.open.Wait()
		}
		v.mu.Unlock()
		if err == nil {
			_, err = to.Write(b[:n])
		}
		if err != nil {
			_, _ = from.Close(), to.Close()
			return
		}
	}
}

// wantHandled waits until a number of events are handled.
func (l *ledger) wantHandled(t *testing.T, written int, what string) {
	t.Helper()
	harness.Eventually(t, "all events are handled "+what, func() error {
		if n := l.count(); n != written {
			return fmt.Errorf("%d of %d events are handled", n, written)
		}
		return nil
	})
}

// notes writes notes.
type notes struct {
	t       *testing.T
	client  harness.Client
	written int
}

func newNotes(t *testing.T, urls []string) *notes {
	w := &notes{t: t, client: harness.Client{ID: "bob", URLs: urls}}
	t.Cleanup(w.client.Leave)
	return w
}

func (w *notes) write(ctx context.Context, id string) {
	w.t.Helper()
	w.written++
	data := map[string]any{"text": "x", "team": "t", "rank": w.written}
	if _, err := w.client.Do(ctx, "note/"+id, "write", fmt.Sprint("w", w.written), data); err != nil {
		w.t.Fatal(err)
	}
}

// TestConsumersHandleEveryEventInOrderThroughFailures has three members of a group on
// three gateways, in two languages: with client/go, with client/js, and with nothing but
// the protocol. One is killed in the middle of its window, two are frozen and resumed,
// one is cut off, and then a node is killed. Every event is handled, in order in its
// stream, although each failure leaves events that were sent and not acknowledged. No
// two members ever have the same segment under the same epoch, and what a frozen member
// handles late is refused by the version alone.
//
// protocol: rule Delivery is at least once
func TestConsumersHandleEveryEventInOrderThroughFailures(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	program := programAt(t, "notes-read")
	c := startTrioOf(t, database(t), program)
	reader, goReader := programAt(t, consumerProgram), programAt(t, goConsumerProgram)
	l := newLedger()
	urls := c.wsURLs()
	wire := newValve(t, c.members[2].URLs[0])
	first := l.startMember(t, goReader, "m1", urls[0], urls[1])
	frozen := l.startCommand(t, "m2", clientJS(ctx, t, "member.js", "m2", urls[1], urls[0]))
	cut := l.startMember(t, reader, "m3", harness.WS(wire.url))

	w := newNotes(t, urls)
	write := func(n int) {
		t.Helper()
		for range n {
			w.write(ctx, fmt.Sprint(w.written%40))
		}
	}
	handled := func(what string) { t.Helper(); l.wantHandled(t, w.written, what) }
	shares := func(members ...string) {
		t.Helper()
		harness.Eventually(t, fmt.Sprintf("the members %v have segments", members), func() error {
			write(40)
			for _, m := range members {
				if !l.holds(m) {
					return errors.New(m + " has none")
				}
			}
			return nil
		})
	}
	shares("m1", "m2", "m3")
	handled("at first")

	write(100)
	_ = first.Kill()
	write(100)
	handled("after a member was killed")
	l.startMember(t, goReader, "m4", urls[0], urls[1])
	shares("m4")

	for _, p := range []*os.Process{frozen, cut} {
		_ = p.Signal(syscall.SIGSTOP)
	}
	write(200)
	handled("while two members are frozen")
	for _, p := range []*os.Process{frozen, cut} {
		_ = p.Signal(syscall.SIGCONT)
	}
	harness.Eventually(t, "the frozen members have noticed", func() error {
		for _, m := range []string{"m2", "m3"} {
			if !l.heard(m, "unsubscribed timeout") && !l.heard(m, "revoked") {
				return errors.New(m + " has not")
			}
		}
		return nil
	})

	wire.set(true)
	write(200)
	handled("while a member is cut off")
	wire.set(false)
	write(100)
	handled("after it came back")

	c.members[0].Kill()
	write(200)
	handled("after a node was killed")
	c.start(0)
	c.settled()
	write(100)
	handled("after it came back")

	l.mu.Lock()
	defer l.mu.Unlock()
	for _, p := range l.problems {
		t.Error(p)
	}
	t.Logf("%d events of %d streams were handled; refused as repeated: %v", l.total, len(l.last), l.refused)
}

// TestEventThatCrashesItsConsumersIsParked has one event at which each member dies. The
// others handle everything else. Once the members can handle it, an operator retries
// its stream, whose events are then handled in order.
func TestEventThatCrashesItsConsumersIsParked(t *testing.T) {
	t.Parallel()
	store := database(t)
	c := startTrioOf(t, store, programAt(t, "notes-read"))
	reader := programAt(t, consumerProgram)
	urls := c.wsURLs()
	l := newLedger()
	isFixed := false // guarded by l.mu, with which crash is called
	l.crash = func(stream string) bool { return stream == "note/poison" && !isFixed }
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	members := 0
	begin := func() {
		members++
		l.startMember(t, reader, fmt.Sprint("m", members), urls[members%3], urls[(members+1)%3])
	}
	begin()
	begin()
	w := newNotes(t, urls)
	poison := 0
	write := func() {
		for i := range 40 {
			w.write(ctx, fmt.Sprint(i))
		}
		w.write(ctx, "poison")
		poison++
	}
	write()

	log, err := node.OpenStore(ctx, node.StoreConfig{URL: store})
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	operator := node.OperateGroups(log)
	harness.Eventually(t, "the stream is parked", func() error {
		for {
			select {
			case <-l.crashed:
				begin()
				continue
			default:
			}
			break
		}
		parked, err := operator.Parked(ctx, 10_000, "readers")
		if err == nil && (len(parked) != 1 || parked[0].Sequence != "note/poison") {
			err = fmt.Errorf("parked: %+v, after %d members", parked, members)
		}
		return err
	})
	write()
	write()
	l.wantHandled(t, w.written-poison, "except those of the poisoned stream")
	if members < 6 {
		t.Errorf("it was parked after %d members, want at least 3 attempts with the window and 3 with the event alone", members)
	}
	l.mu.Lock()
	isFixed = true
	l.mu.Unlock()
	if err := operator.Retry(ctx, "readers", "note/poison"); err != nil {
		t.Fatal(err)
	}
	l.wantHandled(t, w.written, "after the retry")
	write()
	l.wantHandled(t, w.written, "after the stream has rejoined")
	harness.Eventually(t, "the stream is no longer parked", func() error { // its acknowledgement is stored a moment after the event was handled
		parked, err := operator.Parked(ctx, 10_000, "readers")
		if err == nil && len(parked) != 0 {
			err = fmt.Errorf("parked: %+v", parked)
		}
		return err
	})
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, p := range l.problems {
		t.Error(p)
	}
	t.Logf("%d members; refused as repeated: %v", members, l.refused)
}

// TestMembersOverHTTPShareAGroup has two members that know nothing but HTTP, each with
// its own gateway, and a third with a WebSocket. One of the two gateways is killed.
//
// protocol: http POST /v1/groups/{group}/next
func TestMembersOverHTTPShareAGroup(t *testing.T) {
	t.Parallel()
	c := startTrioOf(t, database(t), programAt(t, "notes-read"))
	l := newLedger()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	var polling sync.WaitGroup
	stop := make(chan struct{})
	for i := range 2 {
		polling.Go(func() { l.poll(ctx, fmt.Sprint("h", i+1), stop, c.members[i].URLs[0], c.members[2].URLs[0]) })
	}
	defer polling.Wait()
	defer close(stop)
	l.startMember(t, programAt(t, consumerProgram), "m1", harness.WS(c.members[2].URLs[0]))
	w := newNotes(t, c.wsURLs())
	harness.Eventually(t, "each member has segments", func() error {
		for i := range 40 {
			w.write(ctx, fmt.Sprint(i))
		}
		for _, m := range []string{"h1", "h2", "m1"} {
			if !l.holds(m) {
				return errors.New(m + " has none")
			}
		}
		return nil
	})
	l.wantHandled(t, w.written, "at first")
	c.members[0].Kill()
	for i := range 200 {
		w.write(ctx, fmt.Sprint(i%40))
	}
	l.wantHandled(t, w.written, "after a gateway was killed")
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, p := range l.problems {
		t.Error(p)
	}
	t.Logf("%d events; refused as repeated: %v", l.total, l.refused)
}

// poll is a member over HTTP. It uses its gateways one after another.
func (l *ledger) poll(ctx context.Context, member string, stop chan struct{}, urls ...string) {
	acks := []map[string]any{}
	for at := 0; ; {
		select {
		case <-stop:
			return
		default:
		}
		b, err := next(ctx, urls[at%len(urls)], map[string]any{"member": member, "acks": acks, "max": 20, "wait_ms": 200})
		acks = []map[string]any{}
		if err != nil {
			at++
			time.Sleep(50 * time.Millisecond) // another gateway may be up
			continue
		}
		epochs := map[string]uint64{}
		for _, s := range b.Segments {
			epochs[s.Segment] = s.Epoch
		}
		for _, e := range b.Events {
			l.handle(member, fmt.Sprintf("event %s %d %s %d", e.Segment, epochs[e.Segment], e.Stream, e.Version))
			acks = append(acks, map[string]any{"segment": e.Segment, "epoch": epochs[e.Segment], "cursor": fmt.Sprint(e.Position)})
		}
	}
}

// polled is an answer of the group's path.
type polled struct {
	Segments []struct {
		Segment string
		Epoch   uint64
	}
	Events []harness.Frame
}

func next(ctx context.Context, url string, body map[string]any) (b polled, err error) {
	text, err := json.Marshal(body)
	if err != nil {
		return b, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/v1/groups/readers/next", bytes.NewReader(text))
	if err != nil {
		return b, err
	}
	req.Header.Set("Authorization", "Bearer dev:ada")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return b, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("status %d: %s", resp.StatusCode, answer)
	}
	if err == nil {
		err = json.Unmarshal(answer, &b)
	}
	return b, err
}
