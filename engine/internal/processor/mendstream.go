package processor

import (
	"context"

	"github.com/ganglion-es/ganglion/eventstore"
)

// MendLog is what a Mender reads of an eventstore.Store.
type MendLog interface {
	Log
	ReadStream(ctx context.Context, s eventstore.StreamID, after eventstore.Version, limit int) ([]eventstore.Commit, error)
}

// sole returns the only stream that concerns the target. There is one if every
// row's key is its stream's id.
func (w *mend) sole() (eventstore.StreamID, bool) {
	typ, ok := w.model.StreamType()
	if stream, isStream := w.stream(); isStream {
		return stream, ok
	}
	return eventstore.StreamID{Type: typ, ID: w.target.Key}, ok
}

// eachPage reads the commits after a position up to the checkpoint: those of the
// sole stream, or all.
func (w *mend) eachPage(ctx context.Context, after eventstore.Position, do func([]eventstore.Commit) error) error {
	if stream, ok := w.sole(); ok {
		return w.eachStreamPage(ctx, stream, after, do)
	}
	for after < w.checkpoint.Position {
		commits, err := w.Log.Read(ctx, after, mendPage)
		if err != nil {
			return err
		}
		commits = upTo(commits, w.checkpoint.Position)
		if len(commits) == 0 {
			return errOtherLog
		}
		if err := do(commits); err != nil {
			return err
		}
		after = commits[len(commits)-1].Position
	}
	return nil
}

func (w *mend) eachStreamPage(ctx context.Context, stream eventstore.StreamID, after eventstore.Position, do func([]eventstore.Commit) error) error {
	version, err := w.versionAt(ctx, stream, after)
	for err == nil {
		var page, commits []eventstore.Commit
		if page, err = w.Log.ReadStream(ctx, stream, version, mendPage); err != nil {
			return err
		}
		if commits = upTo(page, w.checkpoint.Position); len(commits) > 0 {
			err = do(commits)
			version = commits[len(commits)-1].Version
		}
		if len(commits) < mendPage {
			w.version = version
			return err
		}
	}
	return err
}

// versionAt returns the stream's version at a position: 0, the one before the
// event at which the target waits, or the end of the last attempt.
func (w *mend) versionAt(ctx context.Context, stream eventstore.StreamID, p eventstore.Position) (eventstore.Version, error) {
	switch {
	case p == 0:
		return 0, nil
	case p >= w.target.Position:
		return w.version, nil
	}
	commits, err := w.Log.Read(ctx, p, 1)
	switch {
	case err != nil:
		return 0, err
	case len(commits) == 0 || commits[0].Stream != stream:
		return 0, errOtherLog
	}
	c := &commits[0]
	return c.FirstVersion() + eventstore.Version(w.target.Position-c.First()) - 1, nil
}
