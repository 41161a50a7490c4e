package gateway

import (
	"context"
	"log/slog"
	"time"

	"github.com/ganglion-es/ganglion/proto/command"
	"github.com/ganglion-es/ganglion/proto/frame"
)

// commandLog leaves one line at debug level for a command, with its outcome.
// It is nil while debug lines are off, so that a command costs no more for it.
type commandLog struct {
	log   *slog.Logger
	began time.Time
}

func (g *Gateway) logCommand(f *frame.Command, identity Identity) *commandLog {
	if !g.cfg.Logger.Enabled(context.Background(), slog.LevelDebug) {
		return nil
	}
	return &commandLog{
		log:   g.cfg.Logger.With("stream", f.Aggregate, "command", clip(f.Command), "client", identity.Client),
		began: time.Now(),
	}
}

// end writes the line. The key is the one that the answer carries.
func (l *commandLog) end(key string, o command.Outcome) {
	if l == nil {
		return
	}
	outcome, reason, version, replayed := "granted", "", o.Result.Version, o.Result.Replayed
	if f := o.Failure; f != nil {
		outcome, reason, replayed = string(f.Code), f.Reason, f.Replayed
		if f.Version != nil {
			version = *f.Version
		}
	}
	l.log.Debug("command", "key", key, "outcome", outcome, "reason", reason, "replayed", replayed,
		"version", version, "position", o.Result.Position, "duration", time.Since(l.began))
}
