package gateway_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/gateway"
	"github.com/ganglion-es/ganglion/proto/command"
	"github.com/ganglion-es/ganglion/proto/frame"
)

// failingStore is a store in which reads of one stream fail with the error of
// fails, if it returns one.
type failingStore struct {
	eventstore.Store
	stream string
	fails  func() error // called concurrently
}

func (a *failingStore) ReadStream(ctx context.Context, s eventstore.StreamID, after eventstore.Version, limit int) ([]eventstore.Commit, error) {
	if s.String() == a.stream {
		if err := a.fails(); err != nil {
			return nil, err
		}
	}
	return a.Store.ReadStream(ctx, s, after, limit)
}

// nodeWithFailures returns a node whose reads of counter/a can fail. Its window
// has dropped the five events of counter/b, and half of the 20 of counter/a. It
// reads one page at a time.
func (w *world) nodeWithFailures(fails func() error) *node {
	w.t.Helper()
	n := w.node(func(c *gateway.Config) {
		c.Store = &failingStore{Store: c.Store, stream: "counter/a", fails: fails}
		c.WindowEvents, c.PageReads = 10, 1
	})
	w.add("counter/b", 5)
	w.add("counter/a", 20)
	n.catchUp()
	return n
}

func TestSubscriptionContinuesWhenTheLogCanBeReadAgain(t *testing.T) {
	t.Parallel()
	for _, err := range []error{eventstore.ErrUnavailable, errors.New("out of file descriptors")} {
		w := newWorld(t)
		var reads atomic.Int64
		n := w.nodeWithFailures(func() error {
			if reads.Add(1) == 1 {
				return fmt.Errorf("read: %w", err)
			}
			return nil
		})
		c := n.join("ada")
		c.send(`{"op":"subscribe","id":"s","stream":"counter/a","cursor":"0"}`)
		want[frame.Subscribed](c)
		for v := range 20 {
			c.wantEvents("s", v+1)
		}
		want[frame.Live](c)
		if reads.Load() < 2 {
			t.Errorf("the log was read %d times, want a failed read and another one", reads.Load())
		}
	}
}

func TestReadThatKeepsFailingEndsWithItsSubscription(t *testing.T) {
	t.Parallel()
	failed := make(chan struct{}, 1)
	n := newWorld(t).nodeWithFailures(func() error {
		select {
		case failed <- struct{}{}:
		default:
		}
		return eventstore.ErrUnavailable
	})
	c := n.join("ada")
	c.send(`{"op":"subscribe","id":"s","stream":"counter/a","cursor":"0"}`)
	want[frame.Subscribed](c)
	<-failed
	c.send(`{"op":"unsubscribe","id":"u","sub":"s"}`)
	want[frame.Unsubscribed](c)
	c.send(`{"op":"subscribe","id":"t","stream":"counter/b","cursor":"0"}`) // takes the only place for a read
	want[frame.Subscribed](c)
	c.wantEvents("t", 1, 2, 3, 4, 5)
}

func TestFailedReadsOfTheLogReachTheClient(t *testing.T) {
	t.Parallel()
	var failure atomic.Pointer[error]
	c := newWorld(t).nodeWithFailures(func() error { return *failure.Load() }).join("ada")
	for _, test := range []struct {
		failure error
		code    command.Code
		afterMS int64
	}{
		{eventstore.ErrUnavailable, command.CodeUnavailable, 500},
		{eventstore.ErrWentBack, command.CodeUnavailable, 500},
		{eventstore.ErrClosed, command.CodeUnavailable, 500},
		{context.Canceled, command.CodeUnavailable, 500},
		{context.DeadlineExceeded, command.CodeTimeout, 0},
		{errors.New("postgres://ganglion:hunter2@db"), command.CodeInternal, 0},
	} {
		err := fmt.Errorf("read: %w", test.failure)
		failure.Store(&err)
		c.send(`{"op":"subscribe","id":"s","stream":"counter/a","after":1}`)
		f := c.wantFault("s", test.code)
		if f.Retry != command.RetryLater || f.AfterMS != test.afterMS || strings.Contains(f.Message, "read:") {
			t.Errorf("%v is answered with %s", test.failure, f.Append(nil))
		}
	}
}
