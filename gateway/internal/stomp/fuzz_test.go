package stomp

import (
	"errors"
	"io"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/go-stomp/stomp/v3/frame"
)

// FuzzDecode compares the decoder with the frame reader of go-stomp, which reads
// any number of headers and takes memory for any content-length, so it cannot be
// our server. The frames must be the same, wherever the stream is cut. Known
// differences:
//
//   - go-stomp refuses commands that it does not know.
//   - It has no versions: it decodes escapes in each frame, \r included, and
//     keeps undefined ones. Here, CONNECT and 1.0 have none, and undefined ones
//     are refused.
//   - It pads no values; in 1.0, spaces around a value do not belong to it, also
//     not to content-length.
//   - It accepts headers that contain NUL or are not UTF-8, and has no limits.
func FuzzDecode(f *testing.F) {
	for _, c := range decoding {
		for v := V10; v <= V12; v++ {
			f.Add(c.stream, uint8(v))
		}
	}
	f.Add("CONNECT\naccept-version:1.0,1.1,1.2\nheart-beat:10000,10000\n\n\x00\n\nSEND\ndestination:/a\ncontent-length:3\n\n\x00\n\x00\x00\n", uint8(V12))
	f.Fuzz(func(t *testing.T, stream string, version uint8) {
		v := Version(version % 3)
		compareWithGoStomp(t, v, stream)
		if len(stream) <= 200 { // the comparison is quadratic
			checkCuts(t, v, []byte(stream))
		}
	})
}

// muchContent matches a content-length for which go-stomp would take 1 MB or
// more.
var muchContent = regexp.MustCompile(`content-length:[0-9]{7}`)

func compareWithGoStomp(t *testing.T, v Version, stream string) {
	t.Helper()
	if muchContent.MatchString(stream) {
		return
	}
	frames, err := decodeAll(v, []byte(stream))
	theirs, theirErr := readAll(v, stream)
	for i := range min(len(frames), len(theirs)) {
		if got, want := text([]*Frame{asGoStomp(v, frames[i])}), text([]*Frame{theirs[i]}); got != want {
			t.Fatalf("%s: frame %d of %q is\n%s, go-stomp reads\n%s", v, i, stream, got, want)
		}
	}
	if theirErr == frame.ErrInvalidCommand && len(theirs) <= len(frames) { //nolint:errorlint // it is not wrapped
		return
	}
	var syntax *strconv.NumError
	switch {
	case v == V10 && errors.As(theirErr, &syntax) && len(theirs) <= len(frames): // padded
	case err == nil && theirErr != io.EOF: //nolint:errorlint // it is not wrapped
		t.Errorf("%s: %q is accepted as\n%s, go-stomp refuses it: %v", v, stream, text(frames), theirErr)
	case len(frames) > len(theirs), len(frames) < len(theirs) && !isStricter(err):
		t.Errorf("%s: %q gives\n%s, %v, go-stomp reads\n%s, %v", v, stream, text(frames), err, text(theirs), theirErr)
	}
}

// readAll reads the frames of a stream with go-stomp. The error is io.EOF at the
// end of the stream.
func readAll(v Version, stream string) (frames []*Frame, err error) {
	r := frame.NewReader(strings.NewReader(stream))
	for {
		in, err := r.Read()
		if err != nil {
			return frames, err
		}
		if in == nil { // a heart-beat
			continue
		}
		f := &Frame{Command: in.Command, Body: in.Body}
		for i := range in.Header.Len() {
			name, value := in.Header.GetAt(i)
			if v == V10 {
				value = strings.Trim(value, " ")
			}
			f.Headers = append(f.Headers, Header{name, value})
		}
		frames = append(frames, f)
	}
}

var goStompEscapes = strings.NewReplacer(`\r`, "\r", `\n`, "\n", `\c`, ":", `\\`, `\`)

// asGoStomp decodes the escapes of frames that have none here.
func asGoStomp(v Version, f *Frame) *Frame {
	if headerVersion(v, f.Command) != V10 {
		return f
	}
	out := &Frame{Command: f.Command, Body: f.Body}
	for _, h := range f.Headers {
		out.Headers = append(out.Headers, Header{goStompEscapes.Replace(h.Name), goStompEscapes.Replace(h.Value)})
	}
	return out
}

// isStricter reports whether go-stomp accepts a frame that was refused with err.
func isStricter(err error) bool {
	var e *Error
	if !errors.As(err, &e) {
		return false
	}
	for _, message := range []string{"has an undefined escape", "is not UTF-8", "NUL stands in the headers"} {
		if strings.Contains(e.Message, message) {
			return true
		}
	}
	return e.TooLarge
}
