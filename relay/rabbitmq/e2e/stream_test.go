package e2e

import (
	"errors"
	"fmt"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// history is a relay to a stream, and the name of the stream.
const history = "history"

const historyTable = `
[[relay]]
name = "history"
url = "STREAMS"
stream = "history"
`

// streamOnce waits until the broker has confirmed the whole log, and reads the stream from
// its beginning. It checks that it has each event of the log once and in order, and that
// prev is the position of the message before or 0.
func (w *world) streamOnce() {
	w.Helper()
	var highest int64
	head := w.head() // a command that the load has left may still be executed
	w.eventually("the relay has caught up", func() bool { return int64(w.state().Position) >= head })
	w.channel(func(c *amqp.Channel) error {
		// The marker is the last message.
		marker := fmt.Sprint("marker ", time.Now().UnixNano())
		if err := errors.Join(c.Confirm(false), c.Qos(1000, 0, false)); err != nil {
			return err
		}
		sent, err := c.PublishWithDeferredConfirmWithContext(w.Context(), "", history, true, false, amqp.Publishing{MessageId: marker, AppId: "marker"})
		if err != nil {
			return err
		}
		sent.Wait()
		deliveries, err := c.Consume(history, "", false, false, false, false, amqp.Table{"x-stream-offset": "first"})
		if err != nil {
			return err
		}
		for d := range deliveries {
			if d.MessageId == marker {
				return nil
			}
			if d.AppId == "marker" { // of an earlier call
				continue
			}
			position, prev := d.Headers["position"].(int64), d.Headers["prev"].(int64)
			if position != highest+1 || prev != highest && prev != 0 {
				return fmt.Errorf("after position %d, the stream has %d with the prev %d", highest, position, prev)
			}
			highest = position
			if position%100 == 0 {
				if err := d.Ack(true); err != nil {
					return err
				}
			}
		}
		return errors.New("the connection was closed")
	})
	if highest < head {
		w.Errorf("the stream has the events up to %d of %d", highest, head)
	}
	w.Logf("%d events, each once", highest)
}

// TestStreamHasEachEventOnceUnderFaults kills the owner and freezes the next one, which
// wakes as a stale owner, while commands are sent. GANGLION_FAULTS=long also kills the
// broker, and continues with ten random faults.
func TestStreamHasEachEventOnceUnderFaults(t *testing.T) {
	t.Parallel()
	w := newWorld(t, historyTable)
	w.relay = history
	stop := w.load()
	w.harm()
	stop()
	w.streamOnce()
	_, err := w.ops.Rewind(t.Context(), history, 0)
	w.must(err)
	w.must(w.add(t.Context(), 1_000_000))
	w.streamOnce() // a rewind repeats nothing that the stream has
}
