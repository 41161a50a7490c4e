package cluster

import (
	"bytes"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// logs is a buffer for concurrent writers.
type logs struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (l *logs) logger(level slog.Level) *slog.Logger {
	return slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{
		Level: level,
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		},
	}))
}

func TestMemberlistLogLevelsAreKept(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]string{
		"[DEBUG] memberlist: Stream connection from=1.2.3.4:5":                                `level=DEBUG msg="gossip: Stream connection from=1.2.3.4:5"`,
		"[INFO] memberlist: Suspect a.1 has failed, no acks received":                         `level=DEBUG msg="gossip: Suspect a.1 has failed, no acks received"`,
		"[WARN] memberlist: Refuting a suspect message (from: b)":                             `level=WARN msg="gossip: Refuting a suspect message (from: b)"`,
		"[ERR] memberlist: Decrypt packet failed: no key from=1.2.3.4:5":                      `level=ERROR msg="gossip: Decrypt packet failed: no key from=1.2.3.4:5"`,
		"[ERROR] memberlist: Failed to compress payload: x":                                   `level=ERROR msg="gossip: Failed to compress payload: x"`,
		"[ERR] memberlist: Push/Pull with a.1 failed: connection refused":                     `level=DEBUG msg="gossip: Push/Pull with a.1 failed: connection refused"`,
		"Err: Could not set the deadline: closed":                                             `level=WARN msg="gossip: Err: Could not set the deadline: closed"`,
		"[ERR] memberlist: Failed fallback TCP ping: timeout 300ms: i/o":                      `level=DEBUG msg="gossip: Failed fallback TCP ping: timeout 300ms: i/o"`,
		"[WARN] memberlist: Got ping for unexpected node 'a.1' from=1.2.3":                    `level=DEBUG msg="gossip: Got ping for unexpected node 'a.1' from=1.2.3"`,
		`[ERR] memberlist: discarding stream with unacceptable label "": from=1.2.3.4:5`:      `level=DEBUG msg="gossip: discarding stream with unacceptable label \"\": from=1.2.3.4:5"`,
		`[ERR] memberlist: discarding stream with unacceptable label "other": from=1.2.3.4:5`: `level=ERROR msg="gossip: discarding stream with unacceptable label \"other\": from=1.2.3.4:5"`,
		"": `level=WARN msg="gossip: "`,
	} {
		var out logs
		newLogger(out.logger(slog.LevelDebug)).Print(line)
		if got := strings.TrimSpace(out.String()); got != want {
			t.Errorf("%q\nis logged as %s\nwant         %s", line, got, want)
		}
	}
}

// Any program that reaches the port can cause a line with every packet.
func TestStrangersCannotFloodTheLog(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var out logs
		l := newLogger(out.logger(slog.LevelInfo))
		for i := range 1000 {
			l.Printf("[ERR] memberlist: Decrypt packet failed: no installed keys from=1.2.3.4:%d", i)
		}
		time.Sleep(logEvery)
		l.Print("[ERR] memberlist: Decrypt packet failed: no installed keys from=1.2.3.4:1")
		l.Print("[WARN] memberlist: Got invalid checksum for UDP packet: 1, 2")
		want := `level=ERROR msg="gossip: Decrypt packet failed: no installed keys from=1.2.3.4:0: the sender has other gossip keys than this node, compare gossip_keys of ganglion members --json on each node"
level=ERROR msg="gossip: Decrypt packet failed: no installed keys from=1.2.3.4:1: the sender has other gossip keys than this node, compare gossip_keys of ganglion members --json on each node" suppressed=999
level=WARN msg="gossip: Got invalid checksum for UDP packet: 1, 2"
`
		if got := out.String(); got != want {
			t.Errorf("logged\n%s\nwant\n%s", got, want)
		}
		for i := range 1000 { // many kinds, which must not all be kept
			l.Printf("[ERR] %d %d %d %d", i, i, i, i)
		}
		if n := len(l.Writer().(*logBridge).kinds); n > 64 {
			t.Errorf("it remembers %d kinds", n)
		}
	})
}
