package console

import (
	"bytes"
	"context"
	"net/http"
	"time"
)

// writeTimeout bounds the write of one message to a page. A page that reads nothing
// for so long is closed; it connects again when it is shown.
const writeTimeout = 10 * time.Second

// stream sends messages to a page as Server-Sent Events, until the page or the user's
// token ends.
type stream struct {
	w       http.ResponseWriter
	control *http.ResponseController
	ctx     context.Context
	cancel  context.CancelFunc
}

// openStream begins the response. The caller must call close.
func openStream(w http.ResponseWriter, r *http.Request, user User) *stream {
	s := &stream{w: w, control: http.NewResponseController(w)}
	if user.Expires.IsZero() {
		s.ctx, s.cancel = context.WithCancel(r.Context())
	} else {
		s.ctx, s.cancel = context.WithDeadline(r.Context(), user.Expires)
	}
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("X-Accel-Buffering", "no") // nginx
	return s
}

// send sends a message of one kind. data must not contain a line break. It returns
// false if the page has gone.
func (s *stream) send(kind string, data []byte) bool {
	var b bytes.Buffer
	b.Grow(len(kind) + len(data) + len("event: \ndata: \n\n"))
	b.WriteString("event: ")
	b.WriteString(kind)
	b.WriteString("\ndata: ")
	b.Write(data)
	b.WriteString("\n\n")
	_ = s.control.SetWriteDeadline(time.Now().Add(writeTimeout)) // a test's writer may have none
	if _, err := s.w.Write(b.Bytes()); err != nil {
		return false
	}
	return s.control.Flush() == nil
}

func (s *stream) close() { s.cancel() }
