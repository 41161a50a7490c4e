package link

import "testing"

// A silent stream is abandoned just before its first batch arrives. If that batch
// brought the link up, requests would wait in the queue for a later stream, and
// overtake requests that came back.
func TestMessageOnAbandonedStreamDoesNotBringLinkUp(t *testing.T) {
	t.Parallel()
	l := New(Config{Node: "a", Addr: "127.0.0.1:1"})
	l.open = true // as stream does
	if !l.noteBatch(true, false) || l.Trust() != Trusted {
		t.Fatal("the first batch on a stream does not bring the link up")
	}
	l.down()
	if l.noteBatch(true, false) || l.Trust() != Unusable {
		t.Error("a batch of an abandoned stream brought the link up")
	}
}
