package access

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/ganglion-es/ganglion/gateway/internal/history"
	"github.com/ganglion-es/ganglion/gateway/internal/limits"
	"github.com/ganglion-es/ganglion/proto/command"
	"github.com/ganglion-es/ganglion/proto/frame"
)

// Gate admits the commands and reads that the application's rules allow.
type Gate struct {
	Catalog  Catalog
	Guard    *Guard
	Counters *limits.Counters
	Logger   *slog.Logger
	Node     string // this node's name, for failures
	// PerSecond is the limit of commands per second, for failures.
	PerSecond int
	// NeedsClient is set if anonymous clients may do nothing.
	NeedsClient bool

	admitted atomic.Uint64
}

// Admitted returns how many commands were admitted.
func (g *Gate) Admitted() uint64 { return g.admitted.Load() }

// Admit checks a command and prepares it for the router. If the client's bucket
// refused the command, after is the time to wait, and otherwise 0. The caller
// must call End of the returned log; if Admit returns a failure, it has done so.
func (g *Gate) Admit(f frame.Command, id Identity, session string, after time.Duration) (command.Command, *CommandLog, *command.Failure) {
	log := g.newCommandLog(&f, id)
	if after > 0 {
		g.Counters.Reached(limits.CommandsPerSecond)
		failure := command.RateLimited(after, "at most %d commands a second are allowed: send no command until after_ms have passed", g.PerSecond)
		log.End(f.Key, command.Failed(failure))
		return command.Command{}, nil, failure
	}
	if failure := g.check(&f, id); failure != nil {
		log.End(f.Key, command.Failed(failure))
		return command.Command{}, nil, failure
	}
	c := command.Command{
		Stream: f.Aggregate, Name: f.Command, Data: f.Data, Checked: true,
		Key: f.Key, ClientKey: f.Key != "",
		Client: id.Client, Claims: id.Claims,
		Session: session, Expect: f.Expect,
		Deadline: time.Now().Add(f.Timeout()),
		Attempt:  1, Trace: f.Trace,
	}
	if c.Key == "" {
		c.Key = NewID()
	}
	g.admitted.Add(1)
	return c, log, nil
}

func (g *Gate) check(f *frame.Command, id Identity) *command.Failure {
	typ := f.Aggregate.Type
	if reserved := (&command.Command{Key: f.Key, Client: id.Client}).CheckReserved(); reserved != nil {
		return reserved
	}
	switch {
	case !g.Catalog.HasType(typ):
		return command.UnknownType(typ)
	case !g.Catalog.HasCommand(typ, f.Command):
		return command.UnknownCommand(typ, f.Command)
	case g.Catalog.IsSystem(typ, f.Command):
		return command.Forbidden("clients may not send \"%s\" to %s: the system alone sends it", f.Command, f.Aggregate)
	case !g.Catalog.MaySend(id.Client, id.Claims, typ, f.Aggregate.ID, f.Command):
		return denied(id, "send \""+f.Command+"\" to "+f.Aggregate.String())
	}
	if field, err := g.Catalog.CheckCommand(typ, f.Command, f.Data); err != nil {
		return command.BadRequest(field, "%v", err)
	}
	return nil
}

// MayRead returns nil if the client may read a topic.
func (g *Gate) MayRead(id Identity, t history.Topic) *command.Failure {
	switch {
	case !g.Catalog.HasType(t.Type()):
		return command.UnknownType(t.Type())
	case t.IsCategory() && !g.Catalog.MayReadAll(id.Client, id.Claims, t.Category):
		f := denied(id, "read every "+t.Category)
		if f.Code == command.CodeForbidden {
			f.Message += ": set Access.ReadAll of " + t.Category + " to a rule that allows it (a custom rule in Read opens no category)"
		}
		return f
	case !t.IsCategory() && !g.Catalog.MayRead(id.Client, id.Claims, t.Stream.Type, t.Stream.ID):
		return denied(id, "read "+t.Stream.String())
	}
	return nil
}

// denied returns the failure for an action that the rules deny. It asks an
// anonymous client to identify itself.
func denied(id Identity, what string) *command.Failure {
	if id.IsAnonymous() {
		return command.Unauthenticated("identify yourself (with a token, in development with a client id) to %s", what)
	}
	return command.Forbidden("%s may not %s", id.Client, what)
}

// Unshown logs that this node can't show an event, and returns the failure for
// the client. It logs at most one line a minute for each type, since every
// reader of the event would cause a line, and clients retry.
func (g *Gate) Unshown(e *history.Entry) *command.Failure {
	g.Guard.Sometimes("unshown "+e.Stream.Type, func() {
		g.Logger.Error("an event can't be shown", "stream", e.Stream, "version", e.Version, "position", e.Position, "err", e.Err)
	})
	return command.Unavailable("node %s can't show version %d of %s: subscribe again with this cursor at another node, or after an upgrade of this one",
		g.Node, e.Version, e.Stream)
}

// CommandLog writes one line at debug level for a command, with its outcome. It
// is nil while debug lines are off, so that it costs nothing then.
type CommandLog struct {
	log   *slog.Logger
	began time.Time
}

func (g *Gate) newCommandLog(f *frame.Command, id Identity) *CommandLog {
	if !g.Logger.Enabled(context.Background(), slog.LevelDebug) {
		return nil
	}
	return &CommandLog{
		log:   g.Logger.With("stream", f.Aggregate, "command", command.Clip(f.Command), "client", id.Client),
		began: time.Now(),
	}
}

// End writes the line, with the key that the reply has.
func (l *CommandLog) End(key string, o command.Outcome) {
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
