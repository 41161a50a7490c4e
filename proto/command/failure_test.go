package command_test

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/proto/command"
)

func TestConstructorsSetCodeRetryAndMessage(t *testing.T) {
	t.Parallel()
	stream := eventstore.StreamID{Type: "auction", ID: "a-1"}
	for name, test := range map[string]struct {
		failure *command.Failure
		code    command.Code
		retry   command.Retry
		says    string
	}{
		"bad request":     {command.BadRequest("data", "%d is odd", 3), command.CodeBadRequest, command.RetryNo, "3 is odd"},
		"unsupported":     {command.Unsupported("no queries"), command.CodeUnsupported, command.RetryNo, "no queries"},
		"unauthenticated": {command.Unauthenticated("100%"), command.CodeUnauthenticated, command.RetryNo, "100%"},
		"forbidden":       {command.Forbidden("ada may not"), command.CodeForbidden, command.RetryNo, "ada may not"},
		"unknown type":    {command.UnknownType("x\n"), command.CodeNotFound, command.RetryNo, `unknown aggregate type "x\n"`},
		"unknown command": {command.UnknownCommand("auction", "buy", "bid", "end"), command.CodeNotFound, command.RetryNo, "it has bid, end"},
		"rejected":        {command.Rejected("too_low", "bid more"), command.CodeRejected, command.RetryNo, "bid more"},
		"conflict":        {command.Conflict(stream, 3, 2), command.CodeConflict, command.RetryNo, "version 3, not 2"},
		"key reused":      {command.KeyReused("k"), command.CodeKeyReused, command.RetryNo, "new key"},
		"cursor ahead":    {command.CursorAhead("ahead"), command.CodeCursorAhead, command.RetryNo, "ahead"},
		"too large":       {command.TooLarge("%d bytes", 9), command.CodeTooLarge, command.RetryNo, "9 bytes"},
		"rate limited":    {command.RateLimited(5, "slower"), command.CodeRateLimited, command.RetryLater, "slower"},
		"busy":            {command.Busy("%d wait", 7), command.CodeBusy, command.RetryLater, "7 wait: send the command again"},
		"unavailable":     {command.Unavailable("away"), command.CodeUnavailable, command.RetryLater, "away"},
		"expired":         {command.Expired(), command.CodeTimeout, command.RetryLater, "ran out"},
		"timeout":         {command.Timeout(command.RetrySameKey, "late"), command.CodeTimeout, command.RetrySameKey, "late"},
		"internal":        {command.Internal(command.RetryNo), command.CodeInternal, command.RetryNo, "log"},
	} {
		f := test.failure
		if f.Code != test.code || f.Retry != test.retry || !strings.Contains(f.Message, test.says) {
			t.Errorf("%s: got %q, retry %q, %q; want %q, retry %q, a message with %q", name, f.Code, f.Retry, f.Message, test.code, test.retry, test.says)
		}
	}
	if v := command.Conflict(stream, 3, 2).Version; v == nil || *v != 3 {
		t.Errorf("conflict: got version %v, want 3", v)
	}
	if !command.Unavailable("draining").OnOtherNodes().Elsewhere {
		t.Error("OnOtherNodes does not set Elsewhere")
	}
}

func TestClipKeepsWholeCharacters(t *testing.T) {
	t.Parallel()
	got := command.Clip(strings.Repeat("é", 40) + "x")
	if !utf8.ValidString(got) || len(got) > 64+len("…") || !strings.HasSuffix(got, "…") {
		t.Errorf("got %q", got)
	}
	if got := command.Clip("short"); got != "short" {
		t.Errorf("got %q", got)
	}
}
