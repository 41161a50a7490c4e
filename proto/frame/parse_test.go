package frame_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/ganglion-es/ganglion/proto/command"
	"github.com/ganglion-es/ganglion/proto/frame"
)

// protocol: rule Numbers
func TestBadRequestFramesAreRefusedByMember(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 65)
	for _, c := range []struct {
		line, id, field string
		code            command.Code
	}{
		{`{"op":"ping","id":"1","unknown":{"a":[]}}`, "1", "", ""},
		{`{"\u006fp":"ping","id":"\u0031"}`, "1", "", ""},
		{`{"op":"command","id":"1","aggregate":"counter/a","command":"add","data":{"a":"\\u0000"}}`, "1", "", ""},
		{`{"op":"command","id":"1","aggregate":"counter/a","command":"add","data":{"a\\\u0000":1}}`, "1", "data", command.CodeBadRequest},
		{`{"op":"command","id":"1","aggregate":"counter/a","command":"add","data":{"a":"\u0000"}}`, "1", "data", command.CodeBadRequest},
		{`{"op":"command","id":"1","aggregate":"counter/a","command":"add","data":{},"key":null,"expect":null}`, "1", "", ""},
		{`{"op":"command","id":"1","aggregate":"counter/a","command":"add","data":{},"key":""}`, "1", "key", command.CodeBadRequest},
		{`{"op":"command","id":"1","aggregate":"counter/a","command":"add","data":{},"key":"` + long + `"}`, "1", "key", command.CodeBadRequest},
		{`{"op":"command","id":"1","aggregate":"counter/a","command":"add","data":{},"expect":1.5}`, "1", "expect", command.CodeBadRequest},
		{`{"op":"command","id":"1","aggregate":"counter/a","command":"add","data":{},"expect":18446744073709551616}`, "1", "expect", command.CodeBadRequest},
		{`{"op":"command","id":"1","aggregate":"counter/a","command":"add","data":{},"expect":9007199254740991}`, "1", "", ""},
		{`{"op":"command","id":"1","aggregate":"counter/a","command":"add","data":{},"expect":9007199254740992}`, "1", "expect", command.CodeBadRequest},
		{`{"op":"get","id":"1","aggregate":"counter/a","at_least":9007199254740993}`, "1", "at_least", command.CodeBadRequest},
		{`{"op":"subscribe","id":"1","stream":"counter/a","after":9007199254740993}`, "1", "after", command.CodeBadRequest},
		{`{"op":"subscribe","id":"1","stream":"counter/a","cursor":"9007199254740993"}`, "1", "", ""},
		{`{"op":"command","id":"1","aggregate":"counter/a","command":"add","data":null}`, "1", "data", command.CodeBadRequest},
		{`{"op":"command","id":"1","aggregate":"Counter/a","command":"add","data":{}}`, "1", "aggregate", command.CodeBadRequest},
		{`{"op":"command","id":"1","aggregate":"counter/a/b","command":"add","data":{}}`, "1", "aggregate", command.CodeBadRequest},
		{`{"op":"command","id":"1","aggregate":"counter/a","command":"add","data":{},"timeout_ms":30000}`, "1", "", ""},
		{`{"op":"command","id":"1","aggregate":"counter/a","command":"add","data":{},"timeout_ms":30001}`, "1", "timeout_ms", command.CodeBadRequest},
		{`{"op":"command","id":"1","aggregate":"counter/a","command":"add","data":{},"timeout_ms":1}`, "1", "", ""},
		{`{"op":"command","id":"1","aggregate":"counter/a","command":"add","data":{},"timeout_ms":0}`, "1", "timeout_ms", command.CodeBadRequest},
		{`{"op":"command","id":"1","aggregate":"counter/a","command":"add","data":{},"data":{}}`, "1", "data", command.CodeBadRequest},
		{`{"op":"query","id":"1","query":"q","data":"` + strings.Repeat("x", 64<<10) + `"}`, "1", "data", command.CodeTooLarge},
		{`{"op":"query","id":"1","query":"q","data":{},"timeout_ms":30000,"after":"a","at_least":1}`, "1", "", ""},
		{`{"op":"query","id":"1","query":"q"}`, "1", "data", command.CodeBadRequest},
		{`{"op":"query","id":"1","query":"q","data":{},"timeout_ms":0}`, "1", "timeout_ms", command.CodeBadRequest},
		{`{"op":"query","id":"1","query":"q","data":{},"timeout_ms":30001}`, "1", "timeout_ms", command.CodeBadRequest},
		{`{"op":"query","id":"1","query":"q","data":{},"after":17}`, "1", "after", command.CodeBadRequest},
		{`{"op":"query","id":"1","query":"q","data":{},"after":""}`, "1", "after", command.CodeBadRequest},
		{`{"op":"query","id":"1","query":"q","data":{},"after":"` + strings.Repeat("x", 1025) + `"}`, "1", "after", command.CodeBadRequest},
		{`{"op":"query","id":"1","query":"q","data":{},"at_least":9007199254740992}`, "1", "at_least", command.CodeBadRequest},
		{`{"op":"query","id":"1","query":"q","data":{"a":"\u0000"}}`, "1", "data", command.CodeBadRequest},
		{`{"op":"subscribe","id":"1","query":"q","data":{},"cursor":"` + strings.Repeat("x", 1024) + `","at_least":1}`, "1", "", ""},
		{`{"op":"subscribe","id":"1","query":"q","data":{},"cursor":"` + strings.Repeat("x", 1025) + `"}`, "1", "cursor", command.CodeBadRequest},
		{`{"op":"subscribe","id":"1","query":"q","data":{},"cursor":"a\nb"}`, "1", "cursor", command.CodeBadRequest},
		{`{"op":"subscribe","id":"1","query":"q","data":{},"cursor":"ä"}`, "1", "cursor", command.CodeBadRequest},
		{`{"op":"subscribe","id":"1","query":"q"}`, "1", "data", command.CodeBadRequest},
		{`{"op":"subscribe","id":"1","query":"","data":{}}`, "1", "query", command.CodeBadRequest},
		{`{"op":"subscribe","id":"1","query":"q","data":{},"after":1}`, "1", "after", command.CodeBadRequest},
		{`{"op":"subscribe","id":"1","query":"q","data":{},"last":1}`, "1", "last", command.CodeBadRequest},
		{`{"op":"subscribe","id":"1","query":"q","data":{},"state":true}`, "1", "state", command.CodeBadRequest},
		{`{"op":"subscribe","id":"1","query":"q","data":{},"state":"each"}`, "1", "state", command.CodeBadRequest},
		{`{"op":"subscribe","id":"1","query":"q","data":{},"stream":"counter/a"}`, "1", "stream", command.CodeBadRequest},
		{`{"op":"subscribe","id":"1","stream":"counter/a","data":{}}`, "1", "data", command.CodeBadRequest},
		{`{"op":"subscribe","id":"1","category":"counter","at_least":1}`, "1", "at_least", command.CodeBadRequest},
		{`{"op":"subscribe","id":"1","stream":"counter/a","cursor":"` + long + `"}`, "1", "cursor", command.CodeBadRequest},
		{`{"op":"hello","id":"1","token":"t","client":"c"}`, "1", "client", command.CodeBadRequest},
		{`{"op":"hello","id":"1","client":"a/b"}`, "1", "client", command.CodeBadRequest},
		{`{"op":"hello","id":"1","client":"~wake"}`, "1", "client", command.CodeBadRequest},
		{`{"op":"hello","id":"1","subscriptions":{}}`, "1", "subscriptions", command.CodeBadRequest},
		{`{"op":"subscribe","id":"1","stream":"counter/a","last":1,"state":true}`, "1", "cursor", command.CodeBadRequest},
		{`{"op":"subscribe","id":"1","stream":"counter/a","after":1,"cursor":"1"}`, "1", "cursor", command.CodeBadRequest},
		{`{"op":"subscribe","id":"1","stream":"counter/a","last":1}`, "1", "", ""},
		{`{"op":"subscribe","id":"1","stream":"counter/a","last":0}`, "1", "last", command.CodeBadRequest},
		{`{"op":"subscribe","id":"1","stream":"counter/a","state":1}`, "1", "state", command.CodeBadRequest},
		{`{"op":"subscribe","id":"1","stream":"counter/a","state":"all"}`, "1", "state", command.CodeBadRequest},
		{`{"op":"subscribe","id":"1","stream":"counter/a","state":"each","last":1}`, "1", "", ""},
		{`{"op":"subscribe","id":"1","stream":"counter/a","state":"each","after":1,"last":1}`, "1", "cursor", command.CodeBadRequest},
		{`{"op":"subscribe","id":"1","stream":"counter/a","state":"only","cursor":"0"}`, "1", "", ""},
		{`{"op":"subscribe","id":"1","stream":"counter/a","state":"only","after":1}`, "1", "state", command.CodeBadRequest},
		{`{"op":"subscribe","id":"1","stream":"counter/a","state":"only","last":1}`, "1", "state", command.CodeBadRequest},
		{`{"op":"subscribe","id":"1","category":"counter","state":"each"}`, "1", "state", command.CodeBadRequest},
		{`{"op":"subscribe","id":"1"}`, "1", "stream", command.CodeBadRequest},
		{`{"op":"subscribe","id":"1","stream":"counter/a","category":"counter"}`, "1", "stream", command.CodeBadRequest},
		{`{"op":"subscribe","id":"1","category":"counter","query":"q"}`, "1", "stream", command.CodeBadRequest},
		{`{"op":"subscribe","id":"1","category":"Counter"}`, "1", "category", command.CodeBadRequest},
		{`{"op":"subscribe","id":"1","category":"counter","cursor":"0","state":false}`, "1", "", ""},
		{`{"op":"subscribe","id":"1","category":"counter","after":0}`, "1", "after", command.CodeBadRequest},
		{`{"op":"subscribe","id":"1","category":"counter","last":1}`, "1", "last", command.CodeBadRequest},
		{`{"op":"subscribe","id":"1","category":"counter","state":true}`, "1", "state", command.CodeBadRequest},
		{`{"op":"unsubscribe","id":"1"}`, "1", "sub", command.CodeBadRequest},
		{`{"op":"unsubscribe","id":"1","sub":""}`, "1", "sub", command.CodeBadRequest},
		{`{"op":"consume","id":"1","group":"g","member":"m","window":1000}`, "1", "", ""},
		{`{"op":"consume","id":"1","member":"m"}`, "1", "group", command.CodeBadRequest},
		{`{"op":"consume","id":"1","group":"","member":"m"}`, "1", "group", command.CodeBadRequest},
		{`{"op":"consume","id":"1","group":"g"}`, "1", "member", command.CodeBadRequest},
		{`{"op":"consume","id":"1","group":"g","member":""}`, "1", "member", command.CodeBadRequest},
		{`{"op":"consume","id":"1","group":"g","member":"ä"}`, "1", "member", command.CodeBadRequest},
		{`{"op":"consume","id":"1","group":"g","member":"` + long + `"}`, "1", "member", command.CodeBadRequest},
		{`{"op":"consume","id":"1","group":"g","member":"m","window":0}`, "1", "window", command.CodeBadRequest},
		{`{"op":"consume","id":"1","group":"g","member":"m","window":1001}`, "1", "window", command.CodeBadRequest},
		{`{"op":"consume","id":"1","group":"g","member":"m","window":"9"}`, "1", "window", command.CodeBadRequest},
		{`{"op":"consume","group":"g","member":"m"}`, "", "id", command.CodeBadRequest},
		{`{"op":"ack","sub":"1","segment":"0","epoch":1,"cursor":"9"}`, "", "", ""},
		{`{"op":"ack","id":"","sub":"1","segment":"0","epoch":1,"cursor":"9"}`, "", "id", command.CodeBadRequest},
		{`{"op":"ack","segment":"0","epoch":1,"cursor":"9"}`, "", "sub", command.CodeBadRequest},
		{`{"op":"ack","sub":"1","epoch":1,"cursor":"9"}`, "", "segment", command.CodeBadRequest},
		{`{"op":"ack","sub":"1","segment":0,"epoch":1,"cursor":"9"}`, "", "segment", command.CodeBadRequest},
		{`{"op":"ack","sub":"1","segment":"` + strings.Repeat("x", 321) + `","epoch":1,"cursor":"9"}`, "", "segment", command.CodeBadRequest},
		{`{"op":"ack","sub":"1","segment":"0","cursor":"9"}`, "", "epoch", command.CodeBadRequest},
		{`{"op":"ack","sub":"1","segment":"0","epoch":0,"cursor":"9"}`, "", "epoch", command.CodeBadRequest},
		{`{"op":"ack","sub":"1","segment":"0","epoch":1}`, "", "cursor", command.CodeBadRequest},
		{`{"op":"ack","sub":"1","segment":"0","epoch":1,"cursor":9}`, "", "cursor", command.CodeBadRequest},
		{`{"op":"park","id":"1","sub":"1","segment":"0","epoch":1,"position":9,"reason":"r"}`, "1", "", ""},
		{`{"op":"park","sub":"1","segment":"0","epoch":1,"position":9,"reason":"r"}`, "", "id", command.CodeBadRequest},
		{`{"op":"park","id":"1","sub":"1","segment":"0","epoch":1,"reason":"r"}`, "1", "position", command.CodeBadRequest},
		{`{"op":"park","id":"1","sub":"1","segment":"0","epoch":1,"position":"9","reason":"r"}`, "1", "position", command.CodeBadRequest},
		{`{"op":"park","id":"1","sub":"1","segment":"0","epoch":1,"position":9}`, "1", "reason", command.CodeBadRequest},
		{`{"op":"park","id":"1","sub":"1","segment":"0","epoch":1,"position":9,"reason":"` + strings.Repeat("x", 1025) + `"}`, "1", "reason", command.CodeBadRequest},
		{`{"op":"park","id":"1","sub":"1","segment":"0","epoch":1,"position":9,"reason":"a\u0000"}`, "1", "reason", command.CodeBadRequest},
		{`{"op":"auth","id":"1"}`, "1", "token", command.CodeBadRequest},
		{`{"op":"pong","id":"1"}`, "1", "op", command.CodeBadRequest},
		{`{"op":"ping","id":"1","id":"2"}`, "", "id", command.CodeBadRequest},
		{`{"op":"subscribe","id":"1","stream":"counter/a","cursor":""}`, "1", "cursor", command.CodeBadRequest},
		{`{"id":"1","op":""}`, "1", "op", command.CodeBadRequest},
		{`{"op":"ping","id":"` + long + `"}`, "", "id", command.CodeBadRequest},
		{`{"op":"ping","id":""}`, "", "id", command.CodeBadRequest},
		{`{"op":"ping","id":"a\tb"}`, "", "id", command.CodeBadRequest},
		{`{}`, "", "id", command.CodeBadRequest},
		{`7`, "", "", command.CodeBadRequest},
	} {
		f, err := frame.ParseRequest([]byte(c.line))
		var bad *frame.Error
		switch {
		case c.code == "" && (err != nil || f.RequestID() != c.id):
			t.Errorf("%.90s: got %v", c.line, err)
		case c.code == "":
		case !errors.As(err, &bad):
			t.Errorf("%.90s: got %v, want an Error", c.line, err)
		case bad.ID != c.id || bad.Field != c.field || bad.Code != c.code || bad.Message == "":
			t.Errorf("%.90s: got %+v", c.line, bad)
		}
	}
	for _, line := range []string{`{"op":"ping"`, "", `{"op":"ping","id":"` + "\xff" + `"}`, "{}{}", "\x00"} {
		if _, err := frame.ParseRequest([]byte(line)); !errors.Is(err, frame.ErrNotJSON) {
			t.Errorf("%q: got %v, want ErrNotJSON", line, err)
		}
	}
}

func TestNamesWithHalfASurrogatePairAreRefused(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ line, field string }{
		{`{"op":"command","id":"1","aggregate":"counter/\ud800","command":"add","data":{}}`, "aggregate"},
		{`{"op":"command","id":"1","aggregate":"counter/a\uDC00","command":"add","data":{}}`, "aggregate"},
		{`{"op":"command","id":"1","aggregate":"counter/\ud83d\ud83d\ude00","command":"add","data":{}}`, "aggregate"},
		{`{"op":"command","id":"1","aggregate":"counter/\\\ud800","command":"add","data":{}}`, "aggregate"},
		{`{"op":"command","id":"1","aggregate":"counter/a","command":"\ud800","data":{}}`, "command"},
		{`{"op":"command","id":"1","aggregate":"counter/a","command":"add","data":{},"key":"\ud800"}`, "key"},
		{`{"op":"get","id":"1","aggregate":"counter/\ud800x"}`, "aggregate"},
		{`{"op":"subscribe","id":"1","stream":"counter/\ud800"}`, "stream"},
		{`{"op":"subscribe","id":"1","category":"\ud800"}`, "category"},
		{`{"op":"query","id":"1","query":"\ud800","data":{}}`, "query"},
		{`{"op":"hello","id":"1","client":"\ud800"}`, "client"},
		{`{"op":"hello","id":"1","log":"\ud800"}`, "log"},
		{`{"op":"auth","id":"1","token":"dev:\ud800"}`, "token"},
		{`{"op":"unsubscribe","id":"1","sub":"\ud800"}`, "sub"},
		{`{"op":"\ud800","id":"1"}`, "op"},
	} {
		_, err := frame.ParseRequest([]byte(c.line))
		var bad *frame.Error
		if !errors.As(err, &bad) || bad.Field != c.field || bad.Code != command.CodeBadRequest {
			t.Errorf("%s: got %v, want a bad_request that names %s", c.line, err, c.field)
		}
	}
	for name, line := range map[string]string{
		"a pair":                   `{"op":"get","id":"1","aggregate":"counter/\ud83d\ude00"}`,
		"U+FFFD itself":            `{"op":"get","id":"1","aggregate":"counter/\ufffd"}`,
		"an escape of a backslash": `{"op":"get","id":"1","aggregate":"counter/\\ud800"}`,
	} {
		if _, err := frame.ParseRequest([]byte(line)); err != nil {
			t.Errorf("%s is refused: %v", name, err)
		}
	}
}

func TestBadSubscriptionInHelloIsRefusedAlone(t *testing.T) {
	t.Parallel()
	f, err := frame.ParseRequest([]byte(`{"op":"hello","id":"1","subscriptions":[{"id":"2","stream":"counter/a"},{"id":"3"},7,{"stream":"counter/a"}]}`))
	if err != nil {
		t.Fatal(err)
	}
	hello := f.(frame.Hello)
	if len(hello.Subscriptions) != 1 || hello.Subscriptions[0].ID != "2" || len(hello.Refused) != 3 || hello.Refused[0].ID != "3" {
		t.Errorf("got %+v", hello)
	}
}

func TestTooManySubscriptionsRefuseTheWholeHello(t *testing.T) {
	t.Parallel()
	line := []byte(`{"op":"hello","id":"1","subscriptions":[{"id":"2","stream":"counter/a"},7]}`)
	if _, err := frame.ParseRequestWithin(line, 2); err != nil {
		t.Errorf("two of two: %v", err)
	}
	_, err := frame.ParseRequestWithin(line, 1)
	var bad *frame.Error
	if !errors.As(err, &bad) || bad.ID != "1" || bad.Field != "subscriptions" || bad.Code != command.CodeRateLimited {
		t.Errorf("two of one: %v", err)
	}
}

func TestCommandBodyOverHTTPNeedsNoOp(t *testing.T) {
	t.Parallel()
	c, err := frame.ParseCommand([]byte("{\n\"aggregate\":\"counter/a\",\"command\":\"add\",\"data\":{}}"))
	if err != nil || c.Command != "add" {
		t.Errorf("got %+v, %v", c, err)
	}
	for _, body := range []string{`{"op":"get","aggregate":"counter/a","command":"add","data":{}}`, `{}`, `[]`, `{"aggregate":"counter/a","command":"add","data":{}`} {
		if _, err := frame.ParseCommand([]byte(body)); err == nil {
			t.Errorf("%s was accepted", body)
		}
	}
}

func TestUnknownGatewayFrameIsUnsupported(t *testing.T) {
	t.Parallel()
	_, err := frame.ParseAnswer([]byte(`{"op":"future"}`))
	var bad *frame.Error
	if !errors.As(err, &bad) || bad.Code != command.CodeUnsupported {
		t.Errorf("got %v", err)
	}
}

func TestBadGatewayFramesAreRefusedByMember(t *testing.T) {
	t.Parallel()
	const event = `{"op":"event","sub":"s","stream":"counter/a","version":1,"position":1,"event":"added","data":{},"time":"2026-11-22T12:00:00Z","cause":"k"}`
	for line, field := range map[string]string{
		event: "",
		strings.Replace(event, "counter/a", "counter", 1):        "stream",
		strings.Replace(event, "2026-11-22T12", "noon", 1):       "time",
		strings.Replace(event, `"event":"added"`, `"x":0`, 1):    "event",
		strings.Replace(event, `"version":1`, `"version":-1`, 1): "version",
		`{"id":"1"}`: "op",
		`{"op":"result","id":"1","version":1,"position":1,"replayed":"true"}`: "replayed",
		`{"op":"error","id":"1"}`: "code",

		`{"op":"heartbeat","cursor":"7","behind":[]}`:                                                      "",
		`{"op":"heartbeat","cursor":"7","behind":[ {"sub":"s","cursor":"5"} , {"sub":"t","cursor":"6"} ]}`: "",
		`{"op":"heartbeat","cursor":"7","behind":{}}`:                                                      "behind",
		`{"op":"heartbeat","cursor":"7","behind":["s"]}`:                                                   "behind",
		`{"op":"heartbeat","cursor":"7","behind":[{"cursor":"5"}]}`:                                        "behind",
		`{"op":"heartbeat","cursor":"7","behind":[{"sub":"s"}]}`:                                           "behind",
		`{"op":"heartbeat","cursor":"7","behind":[{"sub":"s"},{"sub":"t","cursor":"6"}]}`:                  "behind",

		`{"op":"welcome","id":"1","limits":{"frame_bytes":1,"open_requests":2,"subscriptions":3,"commands_per_second":4,"more":"x"}}`: "",
		`{"op":"welcome","id":"1","limits":[1]}`:                   "limits",
		`{"op":"welcome","id":"1","limits":{"open_requests":"2"}}`: "limits",
		`{"op":"welcome","id":"1","limits":{"open_requests":-2}}`:  "limits",
	} {
		_, err := frame.ParseAnswer([]byte(line))
		var bad *frame.Error
		switch {
		case field == "" && err != nil:
			t.Errorf("%s: got %v", line, err)
		case field != "" && (!errors.As(err, &bad) || bad.Field != field || bad.Message == ""):
			t.Errorf("%s: got %v, want an Error that names %s", line, err, field)
		}
	}
	if _, err := frame.ParseAnswer([]byte(`{"op":"pong"`)); !errors.Is(err, frame.ErrNotJSON) {
		t.Errorf("a truncated line: got %v, want ErrNotJSON", err)
	}
}

func FuzzParseRequest(f *testing.F) {
	for _, g := range frames {
		if _, ok := g.frame.(frame.Request); ok {
			f.Add(g.frame.Append(nil))
		}
	}
	f.Add([]byte(`{"op":"hello","id":"1","subscriptions":[{"id":"\ud800"},[],null]}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		before := bytes.Clone(line)
		got, err := frame.ParseRequest(line)
		if !bytes.Equal(line, before) {
			t.Fatal("reading changed the line")
		}
		if notJSON := errors.Is(err, frame.ErrNotJSON); notJSON != !(json.Valid(line) && utf8.Valid(line)) {
			t.Fatalf("got %v", err)
		}
		if err != nil {
			return
		}
		// Writing and reading the frame again must preserve it.
		if hello, ok := got.(frame.Hello); ok {
			hello.Refused = nil
			got = hello
		}
		written := got.Append(nil)
		again, err := frame.ParseRequest(written)
		if err != nil {
			t.Fatalf("%s: %v", written, err)
		}
		if rewritten := again.Append(nil); !bytes.Equal(written, rewritten) {
			t.Fatalf("\n   wrote %s\nthen %s", written, rewritten)
		}
	})
}

func FuzzParseAnswer(f *testing.F) {
	for _, g := range frames {
		if _, ok := g.frame.(frame.Request); !ok {
			f.Add(g.frame.Append(nil))
		}
	}
	f.Add([]byte("{\"op\":\"result\",\"id\":\"1\",\"data\":{\n\"a\":\r\n1}}"))
	f.Fuzz(func(t *testing.T, line []byte) {
		got, err := frame.ParseAnswer(line)
		if err != nil {
			return
		}
		written := got.Append(nil)
		if !json.Valid(written) || bytes.IndexByte(written, '\n') >= 0 {
			t.Fatalf("%q is not one line of JSON", written)
		}
	})
}

func FuzzAppendString(f *testing.F) {
	f.Add("plain")
	f.Add("\x00\x1f\r\t\"\\ä\u2028\xff\xed\xa0\x80")
	f.Fuzz(func(t *testing.T, s string) {
		var got string
		if err := json.Unmarshal(frame.AppendString(nil, s), &got); err != nil {
			t.Fatal(err)
		}
		if want := string([]rune(s)); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}

func BenchmarkParseCommand(b *testing.B) {
	line := frames["command"].frame.Append(nil)
	b.ReportAllocs()
	b.SetBytes(int64(len(line)))
	for b.Loop() {
		if _, err := frame.ParseRequest(line); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAppendEvent(b *testing.B) {
	f := frames["event"].frame.(frame.Event)
	var buf []byte
	b.ReportAllocs()
	for b.Loop() {
		buf = f.Append(buf[:0])
	}
}

func ExampleParseRequest() {
	f, err := frame.ParseRequest([]byte(`{"op":"get","id":"1","aggregate":"auction/42","strong":true}`))
	fmt.Println(f.(frame.Get).Aggregate, err)

	_, err = frame.ParseRequest([]byte(`{"op":"get","id":"1","aggregate":"auction/.."}`))
	fmt.Println(err)
	// Output:
	// auction/42 <nil>
	// frame: aggregate: the id must not be ".."
}

func ExampleResult_Append() {
	fmt.Println(string(frame.Result{ID: "1", Key: "k", Version: 18, Position: 1051}.Append(nil)))
	// Output: {"op":"result","id":"1","key":"k","version":18,"position":1051}
}

func TestMalformedFramesOfQueriesAreErrors(t *testing.T) {
	t.Parallel()
	for _, line := range []string{
		`{"op":"state","sub":"s","rows":{}}`,
		`{"op":"state","sub":"s","rows":[1]}`,
		`{"op":"state","sub":"s","rows":[{"rank":"r"}]}`,
		`{"op":"state","sub":"s","rows":[{"key":"k","rank":"r","position":-1}]}`,
		`{"op":"state","sub":"s","rows":[],"more":1}`,
		`{"op":"keys","sub":"s"}`,
		`{"op":"keys","sub":"s","keys":["a",1]}`,
		`{"op":"update","sub":"s"}`,
		`{"op":"synced","sub":"s","position":1}`,
	} {
		if f, err := frame.ParseAnswer([]byte(line)); err == nil {
			t.Errorf("%s: got %s", line, f.Append(nil))
		}
	}
	for _, data := range []string{``, `[]`, `{}`, `{"rows":1}`, `{"rows":[],"next":1}`, `{"rows":[{"key":"k"}]}`} {
		if p, err := frame.ParsePage([]byte(data)); err == nil {
			t.Errorf("%s: got %+v", data, p)
		}
	}
}

func TestDataOfAQueryOverHTTPIsChecked(t *testing.T) {
	t.Parallel()
	for body, code := range map[string]command.Code{
		`{"a":1}`: "", " {}\n": "", `"text"`: "", "{": "not JSON", "": "not JSON", "{}{}": "not JSON",
		`{"a":"\u0000"}`: command.CodeBadRequest, `"` + strings.Repeat("x", 64<<10) + `"`: command.CodeTooLarge,
	} {
		_, err := frame.ParseData([]byte(body))
		var bad *frame.Error
		switch {
		case code == "" && err != nil, code == "not JSON" && !errors.Is(err, frame.ErrNotJSON):
			t.Errorf("%.20q: got %v", body, err)
		case code != "" && code != "not JSON" && (!errors.As(err, &bad) || bad.Code != code || bad.Field != "data"):
			t.Errorf("%.20q: got %v, want %s", body, err, code)
		}
	}
}

func TestEveryFrameTypeHasAGoldenFrame(t *testing.T) {
	t.Parallel()
	ops := map[string]reflect.Type{}
	for _, g := range frames {
		ops[g.frame.Op()] = reflect.TypeOf(g.frame)
	}
	if len(ops) != 31 {
		t.Errorf("golden frames cover %d ops, want 31", len(ops))
	}
}
