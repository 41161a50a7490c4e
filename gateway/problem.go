package gateway

import (
	"math"
	"net/http"
	"strconv"

	"github.com/ganglion-es/ganglion/proto/command"
	"github.com/ganglion-es/ganglion/proto/frame"
)

// statuses are those of the protocol; what is not listed is 500.
var statuses = map[command.Code]int{
	command.BadRequest: 400, command.Unsupported: 400, command.Unauthenticated: 401, command.Forbidden: 403, command.NotFound: 404,
	command.Conflict: 409, command.KeyReused: 409, command.CursorAhead: 409, command.TooLarge: 413, command.Rejected: 422,
	command.RateLimited: 429, command.Busy: 429, command.Unavailable: 503, command.Timeout: 504,
}

// writeFailure answers a request with why it was not granted.
func writeFailure(w http.ResponseWriter, id, key string, f *command.Failure) {
	status, ok := statuses[f.Code]
	if !ok {
		status = http.StatusInternalServerError
	}
	writeProblem(w, status, fault(id, key, f))
}

// writeProblem writes an error frame as a problem document (RFC 9457), which
// has members of its own besides those of the frame. Its type is about:blank:
// what sort of problem it is, code and reason say.
func writeProblem(w http.ResponseWriter, status int, f frame.Fault) {
	if status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", "Bearer")
	}
	if f.AfterMS > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(float64(f.AfterMS)/1000))))
	}
	body := f.Append(nil)
	body = append(body[:len(body)-1], `,"type":"about:blank","title":`...)
	body = frame.AppendString(body, http.StatusText(status))
	body = append(body, `,"status":`...)
	body = strconv.AppendInt(body, int64(status), 10)
	body = append(body, `,"detail":`...)
	body = frame.AppendString(body, f.Message)
	writeJSON(w, status, "application/problem+json", append(body, '}'))
}

func writeJSON(w http.ResponseWriter, status int, contentType string, body []byte) {
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(append(body, '\n')) // the client may have gone
}
