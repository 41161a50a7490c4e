package stomp

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"runtime"
	"strings"
	"testing"
)

var testLimits = Limits{Headers: 64, HeaderBytes: 8 << 10, BodyBytes: 64 << 10}

// decodeAll decodes the pieces of a stream.
func decodeAll(v Version, pieces ...[]byte) (frames []*Frame, err error) {
	d := Decoder{Limits: testLimits, Version: v}
	for _, data := range pieces {
		for len(data) > 0 {
			var f *Frame
			if f, data, err = d.Decode(data); err != nil {
				return frames, err
			}
			if f == nil && len(data) > 0 {
				return frames, fmt.Errorf("no frame, but a rest of %d bytes", len(data))
			}
			if f != nil {
				frames = append(frames, f)
			}
		}
	}
	return frames, nil
}

// text writes frames for comparison. Repeated headers are shown as they are.
func text(frames []*Frame) string {
	var b strings.Builder
	for _, f := range frames {
		fmt.Fprintf(&b, "%s %q %q\n", f.Command, f.Headers, f.Body)
	}
	return strings.TrimSuffix(b.String(), "\n")
}

const allVersions = "1.0 1.1 1.2"

// The sections are of the specification of STOMP 1.2, or of the named version.
var decoding = []struct {
	section, versions string
	stream            string
	want              string // of text
	wantErr           string // a part of the message
}{
	// What a frame is.
	{"STOMP Frames", allVersions, "SEND\ndestination:/topic/a\n\nhello\x00", `SEND [{"destination" "/topic/a"}] "hello"`, ""},
	{"STOMP Frames", allVersions, "DISCONNECT\n\n\x00", `DISCONNECT [] ""`, ""},
	{"STOMP Frames: NULL is followed by any number of EOLs", allVersions, "\n\r\n\nA\n\n\x00\n\n\r\nB\n\n\x00\n", "A [] \"\"\nB [] \"\"", ""},
	{"STOMP Frames: EOL is LF or CR LF", allVersions, "SEND\r\na:b\r\n\r\nx\r\n\x00", `SEND [{"a" "b"}] "x\r\n"`, ""},
	{"Augmented BNF: a value may be empty", allVersions, "SEND\na:\n\n\x00", `SEND [{"a" ""}] ""`, ""},
	{"Augmented BNF: a name has at least one octet", allVersions, "SEND\n:b\n\n\x00", "", `":b" is not name:value`},
	{"Augmented BNF: a header has a colon", allVersions, "SEND\nab\n\n\x00", "", `"ab" is not name:value`},
	{"Augmented BNF: nothing but EOL stands between frames", allVersions, "A\n\n\x00\x00", "", "NUL stands in the command"},
	{"Augmented BNF: headers end with an empty line", allVersions, "SEND\na:b\n\x00", "", "NUL stands in the headers"},
	{"Augmented BNF: later colons belong to the value", allVersions, "SEND\na:b:c\n\n\x00", `SEND [{"a" "b:c"}] ""`, ""},
	{"Augmented BNF: commands are short", allVersions, strings.Repeat("A", 33) + "\n\n\x00", "", "more than 32 bytes"},
	{"Augmented BNF: commands are short", allVersions, strings.Repeat("A", 32) + "\r\n\n\x00", strings.Repeat("A", 32) + ` [] ""`, ""},

	// Escapes.
	{"Value Encoding", "1.2", "SEND\n\\ca\\n:\\r\\n\\c\\\\\n\n\x00", `SEND [{":a\n" "\r\n:\\"}] ""`, ""},
	{"Value Encoding: each escape is decoded once", "1.1 1.2", "SEND\na:\\\\n\\\\\\\\c\n\n\x00", `SEND [{"a" "\\n\\\\c"}] ""`, ""},
	{"Value Encoding: undefined escapes are fatal", "1.2", "SEND\na:\\t\n\n\x00", "", `"a:\\t" has an undefined escape: STOMP 1.2 has \r, \n, \c and \\`},
	{"Value Encoding: undefined escapes are fatal", "1.1 1.2", "SEND\n\\ta:b\n\n\x00", "", "undefined escape"},
	{"Value Encoding: undefined escapes are fatal", "1.1 1.2", "SEND\na:b\\\n\n\x00", "", "undefined escape"},
	{"1.1, Value Encoding: \\r is undefined", "1.1", "SEND\na:\\r\n\n\x00", "", `STOMP 1.1 has \n, \c and \\`},
	{"1.1, Value Encoding", "1.1", "SEND\na:\\n\\c\\\\\n\n\x00", `SEND [{"a" "\n:\\"}] ""`, ""},
	{"1.0 has no escapes", "1.0", "SEND\na:\\n\\t\\\n\n\x00", `SEND [{"a" "\\n\\t\\"}] ""`, ""},
	{"Value Encoding: CONNECT has no escapes", allVersions, "CONNECT\na:\\t:\\n\n\n\x00", `CONNECT [{"a" "\\t:\\n"}] ""`, ""},
	{"CONNECT or STOMP Frame: STOMP is handled as CONNECT", allVersions, "STOMP\na:\\t:\\n\n\n\x00", `STOMP [{"a" "\\t:\\n"}] ""`, ""},
	{"Value Encoding: UTF-8", allVersions, "SEND\nä:ö\n\n\x00", `SEND [{"ä" "ö"}] ""`, ""},
	{"Value Encoding: UTF-8", allVersions, "SEND\na:\xff\n\n\x00", "", "is not UTF-8"},
	{"Value Encoding: UTF-8", allVersions, "\xff\n\n\x00", "", "is not UTF-8"},
	{"Value Encoding: never trim", "1.1 1.2", "SEND\n a : b \n\n\x00", `SEND [{" a " " b "}] ""`, ""},
	{"1.0: values are padded with spaces", "1.0", "SEND\na:  b c \n\n\x00", `SEND [{"a" "b c"}] ""`, ""},

	// The body.
	{"Body: the first NULL ends it", allVersions, "SEND\n\na\nb\x00A\n\n\x00", "SEND [] \"a\\nb\"\nA [] \"\"", ""},
	{"Header content-length: a count of octets", allVersions, "SEND\ncontent-length:2\n\nä\x00", `SEND [{"content-length" "2"}] "ä"`, ""},
	{"Header content-length: the body may contain NULL", allVersions, "SEND\ncontent-length:3\n\na\x00b\x00", `SEND [{"content-length" "3"}] "a\x00b"`, ""},
	{"Header content-length: 0", allVersions, "SEND\ncontent-length:0\n\n\x00", `SEND [{"content-length" "0"}] ""`, ""},
	{"Header content-length: NULL must follow", allVersions, "SEND\ncontent-length:1\n\nab\x00", "", "no NUL follows the 1 bytes"},
	{"Header content-length: not a number", allVersions, "SEND\ncontent-length:1x\n\na\x00", "", `content-length is "1x"`},
	{"Header content-length: not a number", allVersions, "SEND\ncontent-length:\n\na\x00", "", `content-length is ""`},
	{"Header content-length: negative", allVersions, "SEND\ncontent-length:-1\n\na\x00", "", `content-length is "-1"`},
	{"Header content-length: padded", "1.1 1.2", "SEND\ncontent-length: 1\n\na\x00", "", `content-length is " 1"`},
	{"1.0: content-length is padded", "1.0", "SEND\ncontent-length: 1 \n\na\x00", `SEND [{"content-length" "1"}] "a"`, ""},
	{"Repeated Header Entries: the first counts", allVersions, "SEND\ncontent-length:1\ncontent-length:5\n\na\x00", `SEND [{"content-length" "1"} {"content-length" "5"}] "a"`, ""},
	{"All header names are case sensitive", allVersions, "SEND\nContent-Length:9\n\na\x00", `SEND [{"Content-Length" "9"}] "a"`, ""},
}

func TestDecoderFollowsTheSpecification(t *testing.T) {
	t.Parallel()
	for _, c := range decoding {
		for v := V10; v <= V12; v++ {
			if !strings.Contains(c.versions, v.String()) {
				continue
			}
			frames, err := decodeAll(v, []byte(c.stream))
			switch {
			case c.wantErr == "" && (err != nil || text(frames) != c.want):
				t.Errorf("%s, %s: %q gives\n%s, %v, want\n%s", v, c.section, c.stream, text(frames), err, c.want)
			case c.wantErr != "" && (err == nil || !strings.Contains(err.Error(), c.wantErr)):
				t.Errorf("%s, %s: %q gives %s, %v, want an error with %q", v, c.section, c.stream, text(frames), err, c.wantErr)
			}
		}
	}
}

// Section "Repeated Header Entries".
func TestGetReturnsTheFirstOfRepeatedHeaders(t *testing.T) {
	t.Parallel()
	frames, err := decodeAll(V12, []byte("SEND\nfoo:World\nfoo:Hello\n\n\x00"))
	if err != nil {
		t.Fatal(err)
	}
	if value, ok := frames[0].Get("foo"); value != "World" || !ok {
		t.Errorf("foo is %q, %v, want World", value, ok)
	}
	if value, ok := frames[0].Get("Foo"); value != "" || ok {
		t.Errorf("Foo is %q, %v, want none", value, ok)
	}
}

// A WebSocket message may hold any part of a frame, and any number of frames.
func TestFramesAreTheSameWhereverTheStreamIsCut(t *testing.T) {
	t.Parallel()
	for _, c := range decoding {
		for v := V10; v <= V12; v++ {
			for _, stream := range []string{c.stream, "SEND\ncontent-length:2\n\n\x00\x00\x00" + c.stream} {
				checkCuts(t, v, []byte(stream))
			}
		}
	}
}

// checkCuts compares the frames and the error of a stream with those of its
// pieces: single bytes, two parts, and random ones.
func checkCuts(t *testing.T, v Version, stream []byte) {
	t.Helper()
	want, wantErr := decodeAll(v, stream)
	check := func(pieces ...[]byte) {
		t.Helper()
		got, err := decodeAll(v, pieces...)
		if text(got) != text(want) || !reflect.DeepEqual(err, wantErr) {
			t.Fatalf("%s: the pieces %q give\n%s, %v, want\n%s, %v", v, pieces, text(got), err, text(want), wantErr)
		}
	}
	var bytewise, random [][]byte
	for i := range stream {
		check(stream[:i], stream[i:])
		bytewise = append(bytewise, stream[i:i+1])
	}
	check(bytewise...)
	for rest := stream; len(rest) > 0; {
		n := 1 + rand.IntN(len(rest))
		random, rest = append(random, rest[:n]), rest[n:]
	}
	check(random...)
}

// The caller sets the version when it sends CONNECTED, although the data may
// contain the next frames.
func TestVersionAppliesToTheFramesAfterItWasSet(t *testing.T) {
	t.Parallel()
	d := Decoder{Limits: testLimits}
	f, rest, err := d.Decode([]byte("CONNECT\naccept-version: 1.2\nlogin:a\\tb\n\n\x00SEND\na:\\c \n\n\x00"))
	if err != nil || text([]*Frame{f}) != `CONNECT [{"accept-version" "1.2"} {"login" "a\\tb"}] ""` {
		t.Fatalf("got %v, %v", f, err)
	}
	d.Version = V12
	f, rest, err = d.Decode(rest)
	if err != nil || text([]*Frame{f}) != `SEND [{"a" ": "}] ""` || len(rest) > 0 {
		t.Fatalf("got %v, rest %q, %v", f, rest, err)
	}
}

func TestErrorNamesTheReceiptOfItsFrameAndRemains(t *testing.T) {
	t.Parallel()
	d := Decoder{Limits: testLimits, Version: V12}
	_, _, err := d.Decode([]byte("SEND\nreceipt:r-1\ncontent-length:x\n\n"))
	var e *Error
	if !errors.As(err, &e) || e.Receipt != "r-1" || e.TooLarge {
		t.Fatalf("got %#v, want an error with the receipt r-1", err)
	}
	f, rest, again := d.Decode([]byte("A\n\n\x00"))
	if f != nil || rest != nil || again != err { //nolint:errorlint // the same error
		t.Errorf("a later call returned %v, %q, %v, want the error again", f, rest, again)
	}
}

// refused has streams that a hostile client may send without end: begin, and then
// repeat.
var refused = []struct {
	name, begin, repeat string
	tooLarge            bool
	want                string
}{
	{"a body of 2 GB", "SEND\ncontent-length:2000000000\n\n", "x", true, "more than 65536 bytes: send smaller bodies"},
	{"a length of 30 digits", "SEND\ncontent-length:999999999999999999999999999999\n\n", "x", true, "more than 65536 bytes"},
	{"a body of one byte more", "SEND\ncontent-length:65537\n\n", "x", true, "more than 65536 bytes"},
	{"a body without end", "SEND\n\n", "x", true, "more than 65536 bytes"},
	{"a command without end", "", "x", false, "more than 32 bytes"},
	{"a header without end", "SEND\n", "x", true, "more than 8192 bytes"},
	{"a value without end", "SEND\na:", "\\n", true, "more than 8192 bytes"},
	{"long headers", "SEND\n", strings.Repeat("a", 500) + ":\n", true, "more than 8192 bytes"},
	{"short headers", "SEND\n", "a:b\n", true, "more than 64 headers"},
	{"NULs", "", "\x00", false, "NUL stands in the command"},
	{"NULs as headers", "SEND\n", "\x00", false, "NUL stands in the headers"},
	{"NULs as a value", "SEND\na:", "\x00", false, "NUL stands in the headers"},
	{"undefined escapes", "SEND\n", "a:\\x\n", false, "undefined escape"},
	{"JSON", `{"op":"hello","id":"1","subscribe":[`, `{},`, false, "more than 32 bytes"},
}

func TestHostileStreamsAreRefusedWithinTheLimits(t *testing.T) {
	for _, c := range refused {
		for _, size := range []int{1, 100, 64 << 10} {
			piece := []byte(strings.Repeat(c.repeat, size/len(c.repeat)+1))
			d := Decoder{Limits: testLimits, Version: V12}
			before := allocated()
			_, _, err := d.Decode([]byte(c.begin))
			sent := 0
			for err == nil && sent < 64<<20 {
				_, _, err = d.Decode(piece)
				sent += len(piece)
			}
			used := allocated() - before
			var e *Error
			if !errors.As(err, &e) || !strings.Contains(e.Message, c.want) || e.TooLarge != c.tooLarge {
				t.Errorf("%s in pieces of %d bytes: got %#v after %d bytes, want %q", c.name, size, err, sent, c.want)
			}
			// A body doubles its memory until it has all of its limit: the sizes before
			// the last sum up to less than twice the limit.
			if most := uint64(3*testLimits.BodyBytes + 4*testLimits.HeaderBytes); used > most {
				t.Errorf("%s in pieces of %d bytes: %d bytes were allocated, want at most %d", c.name, size, used, most)
			}
		}
	}
}

// allocated returns the bytes that the process has allocated since it began.
func allocated() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.TotalAlloc
}

func TestHundredThousandHeadersInOneMessageAreRefused(t *testing.T) {
	message := []byte("SEND\n" + strings.Repeat("a:b\n", 100_000) + "\n\x00")
	before := allocated()
	_, err := decodeAll(V12, message)
	if used := allocated() - before; used > 32<<10 {
		t.Errorf("%d bytes were allocated, want at most 32 KiB", used)
	}
	var e *Error
	if !errors.As(err, &e) || !e.TooLarge {
		t.Errorf("got %v, want a refusal", err)
	}
}

func TestFramesAtTheLimitsAreAccepted(t *testing.T) {
	t.Parallel()
	var headers strings.Builder
	for i := range testLimits.Headers - 1 {
		fmt.Fprintf(&headers, "%02d:\n", i)
	}
	begin := "SEND\n" + headers.String() + "last:"
	begin += strings.Repeat("x", testLimits.HeaderBytes-len(begin)-1) + "\n"
	body := strings.Repeat("y", testLimits.BodyBytes)
	checkOne(t, begin+"\n"+body+"\x00", body)
	checkOne(t, begin+"\r\n"+body+"\x00", body)
	if _, err := decodeAll(V12, []byte("x"+begin+"\n\x00")); err == nil {
		t.Error("one byte more is accepted")
	}
	checkOne(t, fmt.Sprintf("SEND\ncontent-length:%d\n\n%s\x00", len(body), body), body)
}

func checkOne(t *testing.T, stream, body string) {
	t.Helper()
	for _, cut := range []int{0, 1, testLimits.HeaderBytes, len(stream) - 1} {
		frames, err := decodeAll(V12, []byte(stream[:cut]), []byte(stream[cut:]))
		if err != nil || len(frames) != 1 || string(frames[0].Body) != body {
			t.Errorf("cut at %d: got %d frames, %v, want one", cut, len(frames), err)
		}
	}
}

// Memory grows with the data that has arrived, not with what content-length
// announces: clients that announce bodies and send nothing cost little.
func TestAnnouncedBodyTakesNoMemory(t *testing.T) {
	d := Decoder{Limits: Limits{Headers: 64, HeaderBytes: 8 << 10, BodyBytes: 1 << 30}, Version: V12}
	before := allocated()
	if _, _, err := d.Decode([]byte("SEND\ncontent-length:1000000000\n\nabc")); err != nil {
		t.Fatal(err)
	}
	if used := allocated() - before; used > 16<<10 {
		t.Errorf("%d bytes were allocated for 3 bytes of a body", used)
	}
}

func TestHeartbeatsAllocateNothing(t *testing.T) {
	d := Decoder{Limits: testLimits}
	beat := []byte("\n")
	if n := testing.AllocsPerRun(100, func() {
		if f, _, err := d.Decode(beat); f != nil || err != nil {
			t.Fatalf("a heart-beat gives %v, %v", f, err)
		}
	}); n > 0 {
		t.Errorf("a heart-beat allocates %.0f times", n)
	}
}

func TestBodyDoesNotShareMemoryWithLaterFrames(t *testing.T) {
	t.Parallel()
	stream := []byte("SEND\n\nfirst\x00SEND\n\nsecond\x00")
	for cut := range stream {
		d := Decoder{Limits: testLimits}
		var bodies [][]byte
		for _, data := range [][]byte{bytes.Clone(stream[:cut]), bytes.Clone(stream[cut:])} {
			for len(data) > 0 {
				f, rest, err := d.Decode(data)
				if err != nil {
					t.Fatal(err)
				}
				if data = rest; f != nil {
					bodies = append(bodies, f.Body)
					_ = append(f.Body, "overwrites the next frame?"...)
				}
			}
		}
		if got := fmt.Sprintf("%q", bodies); got != `["first" "second"]` {
			t.Errorf("cut at %d: the bodies are %s", cut, got)
		}
	}
}
