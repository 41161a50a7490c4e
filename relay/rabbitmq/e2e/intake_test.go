package e2e

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strconv"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

const (
	commandQueue, answerQueue = "commands", "answers"
	// aggregates get commands in turn: the n-th command to one must give it the version n.
	aggregates = 20
)

// declareCommands declares the queues of commands and of answers.
func (w *world) declareCommands() {
	w.Helper()
	w.channel(func(c *amqp.Channel) error {
		if _, err := c.QueueDeclare(answerQueue, true, false, false, false, nil); err != nil {
			return err
		}
		_, err := c.QueueDeclare(commandQueue, true, false, false, false, amqp.Table{"x-single-active-consumer": true})
		return err
	})
}

// publish publishes commands and waits until the broker has confirmed them.
func (w *world) publish(from, to int) {
	w.Helper()
	w.channel(func(c *amqp.Channel) error {
		if err := c.Confirm(false); err != nil {
			return err
		}
		var confirmations []*amqp.DeferredConfirmation
		for n := from; n < to; n++ {
			one, err := c.PublishWithDeferredConfirmWithContext(w.Context(), "", commandQueue, false, false, amqp.Publishing{
				MessageId: fmt.Sprint("q", n), CorrelationId: strconv.Itoa(n), ReplyTo: answerQueue, UserId: "guest", DeliveryMode: amqp.Persistent,
				Headers: amqp.Table{"aggregate": fmt.Sprint("counter/i", n%aggregates), "command": "add"}, Body: []byte(`{"by":1}`),
			})
			if err != nil {
				return err
			}
			confirmations = append(confirmations, one)
		}
		for i, one := range confirmations {
			if !one.Wait() {
				return fmt.Errorf("command %d was not confirmed", from+i)
			}
		}
		return nil
	})
}

var executed = regexp.MustCompile(`ganglion_intake_commands_total\{intake="orders",outcome="result"\} (\d+)`)

// finished returns how many commands the intake of a node has finished.
func (w *world) finished(i int) int {
	found := executed.FindStringSubmatch(w.metrics(i))
	if found == nil {
		return 0
	}
	n, err := strconv.Atoi(found[1])
	w.must(err)
	return n
}

// consumer returns the index of the node that has finished commands since the given
// numbers were taken.
func (w *world) consumer(before [2]int) (consumer int) {
	w.Helper()
	w.eventually("a node finishes commands", func() bool {
		for i, b := range before {
			if now := w.finished(i); now > b {
				w.Logf("node %d has finished %d commands more", i, now-b)
				consumer = i
				return true
			}
		}
		return false
	})
	return consumer
}

// answered takes answers until each of the first n commands has one. It checks that the
// command was executed once, in its place, and that repeats of an answer say the same.
func (w *world) answered(n int) {
	w.Helper()
	versions, repeats := map[int]int{}, 0
	w.channel(func(c *amqp.Channel) error {
		answers, err := c.Consume(answerQueue, "", true, false, false, false, nil)
		if err != nil {
			return err
		}
		for late := time.After(3 * time.Minute); len(versions) < n; {
			select {
			case d := <-answers:
				i, err := strconv.Atoi(d.CorrelationId)
				w.must(err)
				var answer struct {
					Op, Key string
					Version int
				}
				w.must(json.Unmarshal(d.Body, &answer))
				if answer.Op != "result" || answer.Key != fmt.Sprint("q", i) || answer.Version != 1+i/aggregates {
					w.Fatalf("command %d has the answer %s, want version %d", i, d.Body, 1+i/aggregates)
				}
				if versions[i] > 0 {
					repeats++
				}
				versions[i] = answer.Version
			case <-late:
				return fmt.Errorf("%d of %d commands are answered", len(versions), n)
			}
		}
		return nil
	})
	if head := w.head(); head != int64(n) {
		w.Errorf("the log has %d events for %d commands", head, n)
	}
	w.Logf("%d commands, %d repeated answers", n, repeats)
}

// TestIntakeExecutesOnceInOrderUnderFaults sends 1,000 commands to 20 aggregates through a
// queue, and kills the node that executes them, then the broker, then both.
func TestIntakeExecutesOnceInOrderUnderFaults(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "[[intake]]\nname = \"orders\"\nurl = \"BROKER\"\nqueue = \""+commandQueue+"\"\n")
	w.declareCommands()
	restartBroker := func() {
		w.broker.Kill()
		w.must(w.broker.Restart(t.Context()))
	}
	const commands = 1000
	for i, fault := range []func(consumer int){
		func(consumer int) {
			w.nodes[consumer].Kill()
			w.start(consumer)
		},
		func(int) { restartBroker() },
		func(consumer int) {
			w.nodes[consumer].Kill()
			restartBroker()
			w.start(consumer)
		},
		func(int) {},
	} {
		before := [2]int{w.finished(0), w.finished(1)}
		w.publish(i*commands/4, (i+1)*commands/4)
		fault(w.consumer(before))
	}
	w.answered(commands)
}
