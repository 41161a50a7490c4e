package stomp

import (
	"reflect"
	"testing"
)

// The sections are of the specification of STOMP 1.2.
func TestFramesAreWrittenAsTheirVersionHasThem(t *testing.T) {
	t.Parallel()
	special := Header{"a:\r\n\\\x00z", "b:\r\n\\\x00z"}
	for _, c := range []struct {
		section string
		version Version
		command string
		body    string
		headers []Header
		want    string
	}{
		{"STOMP Frames", V12, "RECEIPT", "", []Header{{"receipt-id", "1"}}, "RECEIPT\nreceipt-id:1\n\n\x00"},
		{"Header content-length: octets", V12, "MESSAGE", "ä\x00", []Header{{"a", "b"}, {"c", ""}}, "MESSAGE\na:b\nc:\ncontent-length:3\n\nä\x00\x00"},
		{"Value Encoding", V12, "MESSAGE", "", []Header{special}, "MESSAGE\na\\c\\r\\n\\\\ z:b\\c\\r\\n\\\\ z\n\n\x00"},
		{"1.1, Value Encoding", V11, "MESSAGE", "", []Header{special}, "MESSAGE\na\\c \\n\\\\ z:b\\c \\n\\\\ z\n\n\x00"},
		{"1.0 has no escapes", V10, "MESSAGE", "", []Header{special}, "MESSAGE\na   \\ z:b:  \\ z\n\n\x00"},
		{"Value Encoding: CONNECTED has no escapes", V12, "CONNECTED", "", []Header{special}, "CONNECTED\na   \\ z:b:  \\ z\n\n\x00"},
	} {
		if got := string(AppendFrame(nil, c.version, c.command, []byte(c.body), c.headers...)); got != c.want {
			t.Errorf("%s, %s: got %q, want %q", c.version, c.section, got, c.want)
		}
	}
}

func TestWrittenFramesAreReadBack(t *testing.T) {
	t.Parallel()
	want := &Frame{Command: "MESSAGE", Headers: []Header{{"a:\n\\", "\r\n:\\\\n"}, {" ", " "}, {"content-length", "3"}}, Body: []byte("\x00\n\x00")}
	frames, err := decodeAll(V12, AppendFrame(nil, V12, want.Command, want.Body, want.Headers[:2]...))
	if err != nil || len(frames) != 1 || !reflect.DeepEqual(frames[0], want) {
		t.Errorf("got %s, %v, want %s", text(frames), err, text([]*Frame{want}))
	}
}

func TestWritingFramesAllocatesNothing(t *testing.T) {
	dst := make([]byte, 0, 1024)
	body := []byte(`{"amount":12}`)
	if n := testing.AllocsPerRun(100, func() {
		dst = AppendFrame(dst[:0], V12, "MESSAGE", body, Header{"destination", "/topic/a:b"}, Header{"subscription", "sub-0"})
	}); n > 0 {
		t.Errorf("a frame allocates %.0f times", n)
	}
}
