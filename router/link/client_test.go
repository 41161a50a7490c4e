package link

import "testing"

// A stream is given up in silence, and only then the peer's first word comes
// out of it. Requests that were taken on the strength of that would lie in the
// queue until some later stream, and overtake those that came back.
func TestAWordOnAStreamThatWasGivenUpDoesNotBringTheLinkUp(t *testing.T) {
	t.Parallel()
	l := New(Config{Node: "a", Addr: "127.0.0.1:1"})
	l.open = true // as stream does
	if !l.note(true, false) || l.Trust() != Trusted {
		t.Fatal("the first word on a stream does not bring the link up")
	}
	l.down()
	if l.note(true, false) || l.Trust() != Unusable {
		t.Error("a word on a stream that was given up brought the link up")
	}
}
