package gateway

import (
	"math"
	"net/http"
	"strconv"

	"github.com/ganglion-es/ganglion/gateway/internal/wire"
	"github.com/ganglion-es/ganglion/proto/command"
	"github.com/ganglion-es/ganglion/proto/frame"
)

// statuses has the HTTP status of each code; that of other codes is 500.
var statuses = map[command.Code]int{
	command.CodeBadRequest: 400, command.CodeUnsupported: 400, command.CodeUnauthenticated: 401, command.CodeForbidden: 403, command.CodeNotFound: 404,
	command.CodeConflict: 409, command.CodeKeyReused: 409, command.CodeCursorAhead: 409, command.CodeReplaced: 409, command.CodeTooLarge: 413, command.CodeRejected: 422,
	command.CodeRateLimited: 429, command.CodeBusy: 429, command.CodeUnavailable: 503, command.CodeTimeout: 504,
}

// writeFailure responds with a failure.
func writeFailure(w http.ResponseWriter, id, key string, f *command.Failure) {
	writeProblem(w, statusOf(f.Code), wire.Fault(id, key, f))
}

func statusOf(code command.Code) int {
	if status, ok := statuses[code]; ok {
		return status
	}
	return http.StatusInternalServerError
}

// writeProblem writes an error frame as a problem document (RFC 9457): the
// members of the frame, and those of the RFC. The type is about:blank, since code
// and reason classify the problem.
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
