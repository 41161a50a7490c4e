package cluster

import (
	"context"
	"log"
	"log/slog"
	"strings"
	"sync"
	"time"
)

// logEvery is the shortest time between two warnings of memberlist of one kind.
// Any program that reaches the port can cause a warning with each packet.
const logEvery = time.Minute

// logBridge passes memberlist's log lines to slog.
//
// Lines about memberlist's normal work get the debug level, since the Cluster
// itself logs which members join and leave. Failed probes, which precede a
// member's death, get it too. Other warnings and errors, such as packets that
// cannot be decrypted, keep their level, but each kind is logged at most once in
// logEvery.
type logBridge struct {
	to *slog.Logger

	mu    sync.Mutex
	kinds map[string]*logKind
}

type logKind struct {
	last    time.Time
	skipped int
}

func newLogger(to *slog.Logger) *log.Logger {
	return log.New(&logBridge{to: to, kinds: make(map[string]*logKind)}, "", 0)
}

// ordinary has the prefixes of lines that a dying or slow member causes.
var ordinary = []string{
	// A connection that was closed before it carried a byte, for instance because the
	// probe of its member had ended in the meantime.
	`discarding stream with unacceptable label ""`,
	"Failed to send UDP ping",
	"Failed to send UDP compound ping",
	"Failed to send indirect UDP ping",
	"Failed fallback TCP ping",
	"Failed to send gossip",
	"Failed to send ack",
	"Failed to send nack",
	"Failed to forward ack",
	"Push/Pull with",
	"Got ping for unexpected node",
}

// Write receives one line, such as "[WARN] memberlist: Refuting …".
func (b *logBridge) Write(p []byte) (int, error) {
	level, text := parseLogLine(string(p))
	ctx := context.Background()
	if !b.to.Enabled(ctx, level) {
		return len(p), nil
	}
	if level < slog.LevelWarn {
		b.to.Log(ctx, level, text)
		return len(p), nil
	}
	skipped, ok := b.admit(text)
	if !ok {
		return len(p), nil
	}
	if skipped > 0 {
		b.to.Log(ctx, level, text, "suppressed", skipped)
	} else {
		b.to.Log(ctx, level, text)
	}
	return len(p), nil
}

func parseLogLine(line string) (slog.Level, string) {
	line = strings.TrimSpace(line)
	level := slog.LevelWarn // memberlist's lines without a level report failures
	if tag, rest, ok := strings.Cut(line, "] "); ok && strings.HasPrefix(tag, "[") {
		line = rest
		switch tag {
		case "[DEBUG", "[INFO":
			level = slog.LevelDebug
		case "[ERR", "[ERROR":
			level = slog.LevelError
		}
	}
	text := strings.TrimPrefix(line, "memberlist: ")
	if otherKeys(text) {
		text += ": the sender has other gossip keys than this node, compare gossip_keys of ganglion members --json on each node"
	}
	for _, o := range ordinary {
		if strings.HasPrefix(text, o) {
			return slog.LevelDebug, "gossip: " + text
		}
	}
	return level, "gossip: " + text
}

// otherKeys reports whether memberlist says that a message was encrypted with a
// key that this node does not have.
func otherKeys(text string) bool { return strings.Contains(strings.ToLower(text), "no installed keys") }

// admit reports whether to log a line, and how many lines of its kind were
// suppressed since the last one.
func (b *logBridge) admit(text string) (skipped int, ok bool) {
	// The first words are memberlist's own. Later ones may be a stranger's data.
	kind := strings.Join(strings.SplitN(text, " ", 5)[:min(4, strings.Count(text, " ")+1)], " ")
	b.mu.Lock()
	defer b.mu.Unlock()
	k := b.kinds[kind]
	if k == nil {
		if len(b.kinds) >= 64 {
			clear(b.kinds)
		}
		k = &logKind{}
		b.kinds[kind] = k
	}
	now := time.Now()
	if !k.last.IsZero() && now.Sub(k.last) < logEvery {
		k.skipped++
		return 0, false
	}
	skipped = k.skipped
	*k = logKind{last: now}
	return skipped, true
}
