package ganglion

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestInvalidOptionsAreReportedTogether(t *testing.T) {
	t.Parallel()
	for want, o := range map[string]Options{
		"URLs is empty":                        {},
		"does not begin with https":            {URLs: []string{"example.com"}},
		"URLs: parse":                          {URLs: []string{"http://[::1"}},
		"Token and ClientID are both set":      {URLs: []string{"http://x"}, ClientID: "ada", Token: func(context.Context) (string, error) { return "", nil }},
		"Queue is -1: it must not be negative": {URLs: []string{"http://x"}, Queue: -1},
		"\nganglion: Queue is":                 {Queue: -1}, // all problems together
	} {
		if _, err := Connect(t.Context(), o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: got %v, want %q", o, err, want)
		}
	}
}

func TestURLsAreCompletedToWebSocketAddresses(t *testing.T) {
	t.Parallel()
	o, err := Options{URLs: []string{"http://gw", "https://gw/", "wss://gw/proxied/v1/ws#there"}}.withDefaults()
	if want := []string{"ws://gw/v1/ws", "wss://gw/v1/ws", "wss://gw/proxied/v1/ws"}; err != nil || !slices.Equal(o.URLs, want) {
		t.Errorf("%q %v", o.URLs, err)
	}
}

func TestEachAttemptUsesTheNextGateway(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		g := dial(t, Options{URLs: []string{"ws://a", "ws://b", "ws://c"}})
		seen := []string{g.socket.url}
		for range 3 {
			g.cut()
			seen = append(seen, g.socket.url)
		}
		if want := []string{"ws://b/v1/ws", "ws://c/v1/ws", "ws://a/v1/ws", "ws://b/v1/ws"}; !slices.Equal(seen, want) {
			t.Errorf("%q", seen)
		}
	})
}

func TestCommandKeyIsKnownBeforeItsResult(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		g := welcomed(t, Options{})
		sending := g.client.Aggregate("counter", "a").Start(t.Context(), "add", map[string]int{"by": 1})
		if !regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`).MatchString(sending.Key) {
			t.Errorf("%q is not a UUIDv7", sending.Key)
		}
		if at := fmt.Sprintf("%012x", time.Now().UnixMilli()); strings.ReplaceAll(sending.Key, "-", "")[:12] != at {
			t.Errorf("%q does not begin with the time %s", sending.Key, at)
		}
		said := g.last()
		if said["key"] != sending.Key {
			t.Errorf("the client sent %v", said)
		}
		g.send(object{"op": "error", "id": said["id"], "key": sending.Key, "code": "rejected", "reason": "zero", "message": "no", "retry": "no"})
		_, err := sending.Wait()
		if !errors.Is(err, ErrRejected) || !errors.Is(err, Rejection("zero")) || errors.Is(err, Rejection("one")) || errors.Is(err, ErrConflict) {
			t.Errorf("%v", err)
		}
		if err.Error() != "ganglion: rejected (zero): no" {
			t.Errorf("%v", err)
		}
	})
}

func TestFramesShareSmallMessages(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		g := welcomed(t, Options{})
		for range 200 {
			g.client.Aggregate("client", "bob").Start(t.Context(), "notify", map[string]string{"text": strings.Repeat("ä", 500)})
		}
		synctest.Wait()
		if len(g.socket.received) != 201 || len(g.socket.messages) > 100 {
			t.Errorf("%d frames in %d messages", len(g.socket.received), len(g.socket.messages))
		}
		for _, m := range g.socket.messages {
			if len(m) > 98304 {
				t.Errorf("a message of %d bytes", len(m))
			}
		}
	})
}

func TestThousandSubscriptionsResumeWithASmallHello(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		g := welcomed(t, Options{})
		for i := range 1000 {
			defer g.client.Aggregate("counter", strings.Repeat("x", 100)+fmt.Sprint(i)).Follow().Close()
		}
		synctest.Wait()
		for _, f := range slices.Clone(g.socket.received[1:]) {
			g.send(object{"op": "subscribed", "id": f["id"], "cursor": "100"})
		}
		g.cut()
		g.welcome()
		inHello := g.socket.received[0]["subscriptions"].([]any)
		if size := len(g.socket.messages[0]); size > 20_000 || len(inHello) < 50 {
			t.Errorf("%d subscriptions in a hello of %d bytes", len(inHello), size)
		}
		streams := map[any]bool{}
		for _, f := range append(inHello, anys(g.socket.received[1:])...) {
			f := f.(object)
			if f["op"] != "subscribe" || f["cursor"] != "100" {
				t.Errorf("the client sent %v", f)
			}
			streams[f["stream"]] = true
		}
		if len(streams) != 1000 {
			t.Errorf("%d streams", len(streams))
		}
	})
}

func anys(frames []object) (all []any) {
	for _, f := range frames {
		all = append(all, f)
	}
	return all
}

func TestBytesOfPendingRequestsAreBounded(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		g := dial(t, Options{}) // never welcomed
		notify := func() *Sending {
			return g.client.Aggregate("client", "bob").Start(t.Context(), "notify", map[string]string{"text": strings.Repeat("x", 60_000)})
		}
		for range 69 {
			notify()
		}
		_, err := notify().Wait()
		var e *Error
		if !errors.Is(err, ErrQueueFull) || !errors.As(err, &e) || e.Retry != RetryLater {
			t.Errorf("%v", err)
		}
	})
}

func TestDataThatIsNotJSONFailsAlone(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		g := welcomed(t, Options{})
		counter := g.client.Aggregate("counter", "a")
		var wrong *json.UnsupportedTypeError
		if _, err := counter.Send(t.Context(), "add", make(chan int)); !errors.As(err, &wrong) {
			t.Errorf("%v", err)
		}
		if _, err := g.client.Aggregate("counter", "\xff").Send(t.Context(), "add", nil); err == nil || !strings.Contains(err.Error(), "UTF-8") {
			t.Errorf("%v", err)
		}
		counter.Start(t.Context(), "add", nil)
		if said := g.last(); fmt.Sprint(said["data"]) != "map[]" {
			t.Errorf("the client sent %v", said)
		}
	})
}

func TestCanceledCommandReportsWhetherItWasSent(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		g := welcomed(t, Options{})
		counter := g.client.Aggregate("counter", "a")
		_, err := counter.Send(deadline(t, time.Second), "add", nil)
		var e *Error
		if !errors.Is(err, context.DeadlineExceeded) || !errors.As(err, &e) || e.Code != CodeCanceled || e.Retry != RetrySameKey || e.Key == "" {
			t.Errorf("sent: %v", err)
		}
		g.cut()
		_, err = counter.Send(deadline(t, time.Second), "add", nil)
		if !errors.Is(err, context.DeadlineExceeded) || !errors.As(err, &e) || e.Retry != RetryLater || !strings.Contains(err.Error(), "no connection: the connection broke") {
			t.Errorf("not sent: %v", err)
		}
		canceled, cancel := context.WithCancel(t.Context())
		cancel()
		for range 2000 { // canceled requests do not fill the queue
			if _, err = counter.Send(canceled, "add", nil); !errors.Is(err, context.Canceled) {
				t.Fatal(err)
			}
		}
		g.welcome()
		if n := len(g.socket.received); n != 1 {
			t.Errorf("%d canceled frames were sent: %v", n-1, g.socket.received)
		}
	})
}

func TestLeavingALoopUnsubscribes(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		g := welcomed(t, Options{})
		streams := make(chan string, 1)
		go func() {
			for e, err := range g.client.Category("counter").Subscribe(t.Context()) {
				if err != nil {
					t.Error(err)
				}
				streams <- e.Stream + " " + e.ID()
				return
			}
		}()
		id := g.last()["id"]
		g.send(object{"op": "subscribed", "id": id, "cursor": "100"}, event(id, 7, object{"position": 101, "stream": "counter/ä/b"}))
		if got := <-streams; got != "counter/ä/b ä/b" {
			t.Error(got)
		}
		if said := g.last(); said["op"] != "unsubscribe" || said["sub"] != id || g.client.Status() != Live {
			t.Errorf("the client sent %v, status %v", said, g.client.Status())
		}
	})
}

func TestLoopEndsWithItsContext(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		g := welcomed(t, Options{})
		for _, err := range g.client.Aggregate("counter", "a").Subscribe(deadline(t, time.Second), FromStart()) {
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Error(err)
			}
		}
		if said := g.last(); said["op"] != "unsubscribe" {
			t.Errorf("the client sent %v", said)
		}
		for _, err := range g.client.Aggregate("counter", "a").Subscribe(t.Context(), FromState()) {
			if err == nil || !strings.Contains(err.Error(), "Follow") {
				t.Error(err)
			}
		}
	})
}

func TestItemsBeforeTheEndAreDelivered(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		g := welcomed(t, Options{})
		sub := g.client.Aggregate("counter", "a").Follow(FromStart())
		id := g.last()["id"]
		g.send(event(id, 1), event(id, 2), object{"op": "unsubscribed", "sub": id, "code": "forbidden", "message": "no more", "cursor": "2"})
		var seen []any
		for item, err := range sub.Items(t.Context()) {
			seen = append(seen, item.Event.Version, errors.Is(err, ErrForbidden))
		}
		if want := []any{uint64(1), false, uint64(2), false, uint64(0), true}; !slices.Equal(seen, want) {
			t.Errorf("%v", seen)
		}
		if _, err := sub.Next(t.Context()); !errors.Is(err, ErrForbidden) {
			t.Errorf("the next call returns %v", err)
		}
	})
}

func TestCursorExcludesUndeliveredItems(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		g := welcomed(t, Options{})
		sub := g.client.Aggregate("counter", "a").Follow(FromStart())
		id := g.last()["id"]
		g.send(event(id, 1), event(id, 2), event(id, 3))
		for item, err := range sub.Items(t.Context()) {
			if err != nil || item.Event.Version == 2 {
				break
			}
		}
		sub.Close()
		if got := sub.Cursor(); got != "2" {
			t.Errorf("the cursor is %s, want 2", got)
		}
		for range sub.Items(t.Context()) {
			t.Error("a closed subscription yields an item")
		}
	})
}

func TestCursorFollowsDeliveredItems(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		g := welcomed(t, Options{})
		sub := g.client.Aggregate("counter", "a").Follow(FromStart())
		defer sub.Close()
		id := g.last()["id"]
		g.send(object{"op": "subscribed", "id": id, "cursor": "100"}, event(id, 1), event(id, 2), object{"op": "live", "sub": id, "cursor": "100", "version": 2})
		g.send(object{"op": "heartbeat", "cursor": "105"})
		for _, cursor := range []string{"", "1", "2", "105"} {
			if got := sub.Cursor(); got != cursor {
				t.Errorf("the cursor is %q, want %q", got, cursor)
			}
			if cursor == "105" {
				break
			}
			if _, err := sub.Next(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// commands returns the command frames of this connection.
func (g *gateway) commands() (all []object) {
	synctest.Wait()
	for _, f := range g.socket.received {
		if f["op"] == "command" {
			all = append(all, f)
		}
	}
	return all
}

// wantCommands compares the stream and the amount of each command frame.
func (g *gateway) wantCommands(want string) {
	g.t.Helper()
	var got []string
	for _, f := range g.commands() {
		got = append(got, fmt.Sprint(strings.TrimPrefix(fmt.Sprint(f["aggregate"]), "counter/"), f["data"].(object)["by"]))
	}
	if strings.Join(got, " ") != want {
		g.t.Errorf("the gateway got the commands %s, want %s", got, want)
	}
}

// add starts commands, each given as a stream and an amount.
func (g *gateway) add(commands ...string) {
	for _, c := range commands {
		g.client.Aggregate("counter", c[:1]).Start(g.t.Context(), "add", object{"by": json.Number(c[1:])})
	}
}

func result(command object) object {
	return object{"op": "result", "id": command["id"], "key": command["key"], "version": 1, "position": 1}
}

func later(command object) object {
	return object{"op": "error", "id": command["id"], "key": command["key"], "code": "unavailable", "message": "not now", "retry": "later", "after_ms": 100}
}

func TestLanesTakeTurnsForOpenRequests(t *testing.T) {
	for most, order := range map[int]string{1: "a1 b1 c1 c2 d1 d2", 2: "a1 b1 c1 d1 c2 d2"} {
		t.Run(fmt.Sprint(most), func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				g := dial(t, Options{})
				g.welcome(object{"open_requests": most})
				g.add("a1", "b1", "c1", "c2", "d1", "d2")
				for answered := range 6 {
					all := g.commands()
					if open := len(all) - answered; open < 1 || open > most {
						t.Fatalf("%d requests are open after %d answers", open, answered)
					}
					g.send(result(all[answered]))
				}
				g.wantCommands(order)
			})
		})
	}
}

func TestWaitingLanesAreServedOnTheNextConnection(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		g := dial(t, Options{})
		g.welcome(object{"open_requests": 1})
		g.add("a1", "b1", "c1")
		g.wantCommands("a1")
		g.cut()
		g.welcome(object{"open_requests": 1})
		for answered := range 3 {
			all := g.commands()
			if len(all) != answered+1 {
				t.Fatalf("%d commands were sent before %d were answered", len(all), answered+1)
			}
			g.send(result(all[answered]))
		}
		g.wantCommands("a1 b1 c1")
	})
}

func TestHeldLaneWaitsForOpenRequests(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		g := dial(t, Options{})
		g.welcome(object{"open_requests": 1})
		g.add("a1", "b1")
		g.send(result(g.commands()[0]))
		b1 := g.commands()[1]
		g.send(later(b1))
		g.add("c1")
		time.Sleep(time.Second) // b1 may be sent again, but there is no room
		g.wantCommands("a1 b1 c1")
		g.send(result(g.commands()[2]))
		g.wantCommands("a1 b1 c1 b1")
	})
}

func TestResentCommandKeepsItsPlace(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		g := welcomed(t, Options{})
		g.add("a1", "a2", "a3")
		first := g.commands()
		for i, in := range []int{2, 0, 1} { // answers may overtake each other
			g.send(later(first[in]))
			if i == 0 {
				g.add("a4") // waits for the commands that are sent again
			}
		}
		time.Sleep(time.Second)
		g.wantCommands("a1 a2 a3 a1 a2 a3 a4")
	})
}

func TestStatusesBeginWithThePresentAndEndWithClosed(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		g := welcomed(t, Options{})
		seen := make(chan []Status)
		go func() {
			var all []Status
			for s := range g.client.Statuses(t.Context()) {
				all = append(all, s)
			}
			seen <- all
		}()
		for range g.client.Statuses(deadline(t, time.Millisecond)) {
		}
		g.cut()
		if err := g.client.ConnErr(); err == nil {
			t.Error("ConnErr is nil without a connection")
		}
		g.welcome()
		if err := g.client.ConnErr(); err != nil {
			t.Errorf("ConnErr is %v while connected", err)
		}
		g.client.Close()
		if got := <-seen; !slices.Equal(got, []Status{Live, Offline, Connecting, Live, Closed}) {
			t.Errorf("%v", got)
		}
	})
}

func TestContextClosesTheClient(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		g := dial(t, Options{})
		ctx, cancel := context.WithCancel(t.Context())
		o := g.client.options
		o.URLs = []string{"ws://other"}
		client, err := Connect(ctx, o)
		if err != nil {
			t.Fatal(err)
		}
		g.accept()
		g.welcome()
		sending := client.Aggregate("counter", "a").Start(t.Context(), "add", nil)
		synctest.Wait()
		cancel()
		var e *Error
		if _, err := sending.Wait(); !errors.Is(err, ErrClosed) || !errors.As(err, &e) || e.Retry != RetrySameKey {
			t.Errorf("the command fails with %v", err)
		}
		<-client.Done()
		if err := client.Err(); !errors.Is(err, context.Canceled) || !errors.Is(err, ErrClosed) {
			t.Errorf("Err is %v", err)
		}
		if _, err := client.Aggregate("counter", "a").Get(t.Context()); !errors.Is(err, ErrClosed) {
			t.Errorf("the next call returns %v", err)
		}
	})
}

func TestCloseDoesNotWaitForAStuckGateway(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		g := welcomed(t, Options{})
		counter := g.client.Aggregate("counter", "a")
		g.socket.stuck = true // after one more message
		for range 3 {
			counter.Start(t.Context(), "add", nil)
			synctest.Wait()
		}
		begun := time.Now()
		g.client.Close()
		if took := time.Since(begun); took > closeTimeout {
			t.Errorf("Close took %v, want at most %v", took, closeTimeout)
		}
	})
}

func TestEarlierRenewalDoesNotBlockTheNextConnections(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var calls atomic.Int32
		g := welcomed(t, Options{Token: func(ctx context.Context) (string, error) {
			n := calls.Add(1)
			if n == 2 {
				<-ctx.Done()
				return "", ctx.Err()
			}
			return fmt.Sprint("t", n), nil
		}})
		halfTheTokensLife := func() {
			g.send(object{"op": "expiring", "in_ms": 60000})
			for range 3 { // each pause is shorter than a heartbeat
				g.send(object{"op": "heartbeat", "cursor": "100"})
				time.Sleep(12 * time.Second)
			}
			synctest.Wait()
		}
		halfTheTokensLife()
		if n := calls.Load(); n != 2 {
			t.Fatalf("%d calls before the connection breaks, want 2", n)
		}
		g.cut()
		g.welcome()
		halfTheTokensLife()
		if said := g.last(); said["op"] != "auth" || said["token"] != "t3" {
			t.Errorf("the client sent %v", said)
		}
	})
}

func TestErrorWithoutRequestIsReported(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		g := welcomed(t, Options{})
		g.send(object{"op": "error", "code": "bad_request", "field": "id", "message": "id is missing", "retry": "no"})
		if len(g.reported) != 1 || g.reported[0].Code != CodeBadRequest || g.reported[0].Field != "id" {
			t.Errorf("%v", g.reported)
		}
	})
}

func TestCategoryForgetsTheQuietestStreams(t *testing.T) {
	t.Parallel()
	v := versions{recent: map[string]uint64{}, isWhole: true}
	if version, known := v.of("new"); version != 0 || !known {
		t.Error("an unknown stream is not at version 0")
	}
	for i := range 3 * minWatchedStreams {
		v.set(fmt.Sprint(i), 1)
		v.set("busy", uint64(i+1))
	}
	if version, known := v.of("busy"); version != 3*minWatchedStreams || !known {
		t.Errorf("busy is at %d, %v", version, known)
	}
	if _, known := v.of("0"); known {
		t.Error("the quietest stream is still remembered")
	}
	if n := len(v.recent) + len(v.older); n > 2*minWatchedStreams+2 {
		t.Errorf("%d streams are remembered", n)
	}
}

func TestTokenFunctionIsCalledAHandfulOfTimesPerToken(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var calls atomic.Int32
		began := time.Now()
		// A cache returns the same token until 5 s before it expires.
		g := welcomed(t, Options{Token: func(context.Context) (string, error) {
			calls.Add(1)
			return fmt.Sprint("t", int((time.Since(began)+5*time.Second)/time.Minute)), nil
		}})
		for range 20 { // a gateway that warns at each renewal
			g.send(object{"op": "expiring", "in_ms": (time.Minute - time.Since(began)).Milliseconds()})
			time.Sleep(time.Second)
		}
		for range 3 { // until after the token changes; each pause is shorter than a heartbeat
			g.send(object{"op": "heartbeat", "cursor": "100"})
			time.Sleep(12 * time.Second)
		}
		if n := calls.Load(); n > 7 || g.last()["token"] != "t1" {
			t.Errorf("%d calls, the last frame is %v", n, g.last())
		}
	})
}

func TestDefaultErrorHandlerLogsABoundedNumberOfLines(t *testing.T) {
	var text bytes.Buffer
	usual := slog.Default()
	defer slog.SetDefault(usual)
	slog.SetDefault(slog.New(slog.NewTextHandler(&text, nil)))
	f := logBounded()
	for range 1000 {
		f(&Error{Code: CodeProtocol})
	}
	if n := strings.Count(text.String(), "\n"); n != warningsPerMinute {
		t.Errorf("%d lines, want %d", n, warningsPerMinute)
	}
}

func TestRefusalSaysWhetherTheSubscriptionWasAcceptedBefore(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		g := welcomed(t, Options{})
		sub := g.client.Aggregate("counter", "a").Follow(FromStart())
		defer sub.Close()
		refuse := func(id any) {
			g.send(object{"op": "error", "id": id, "code": "unavailable", "message": "not now", "retry": "later", "after_ms": 100})
			time.Sleep(time.Second) // it subscribes again
			synctest.Wait()
		}
		refuse(g.last()["id"])
		g.send(object{"op": "subscribed", "id": g.last()["id"], "cursor": "100"})
		g.cut()
		g.accept()
		hello := g.last()
		g.welcome()
		refuse(hello["subscriptions"].([]any)[0].(object)["id"])
		var resumed []bool
		for _, e := range g.reported {
			if e.Message == "not now" {
				resumed = append(resumed, e.Resumed)
			}
		}
		if !slices.Equal(resumed, []bool{false, true}) {
			t.Errorf("the refusals have Resumed %v in %v", resumed, g.reported)
		}
	})
}
