package router

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/proto/command"
	"github.com/ganglion-es/ganglion/router/internal/lane"
)

// history is a lane's commands as its client saw them.
type history struct {
	mu      sync.Mutex
	sent    int // commands
	answers map[int][]command.Outcome
	// barred maps a command to the earlier ones that must be executed first,
	// because it was sent before the client knew that they were refused.
	barred map[int][]int
}

// TestOrderAndOneAnswerUnderRandomFaults pipelines commands on many lanes from
// every node while links are cut and frozen, views differ, executors refuse,
// and nodes leave views and return. GANGLION_SEED repeats a run.
func TestOrderAndOneAnswerUnderRandomFaults(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	if s := os.Getenv("GANGLION_SEED"); s != "" {
		seed, _ = strconv.ParseUint(s, 10, 64)
	}
	t.Logf("GANGLION_SEED=%d", seed)
	domains := []string{"a", "b", "c"}
	w := newWorld(t, []string{"a", "b", "c", "g", "gg"}, suspicious, func(c *Config) { c.BusyPause = 100 * time.Millisecond })
	for _, id := range domains {
		w.nodes[id].executor.set(func(e *executor) { e.refuse, e.instead = moody(seed+1), moody(seed+2) })
	}

	const perLane, streams = 100, 5
	var senders, faults sync.WaitGroup
	lanes := make(map[string]map[eventstore.StreamID]*history)
	for i, from := range []string{"g", "gg", "a", "b", "c"} {
		for j := range 3 {
			session := fmt.Sprintf("%s-%d", from, j)
			lanes[session] = make(map[eventstore.StreamID]*history)
			for k := range streams {
				s := eventstore.StreamID{Type: "counter", ID: fmt.Sprint(k)}
				h := &history{answers: make(map[int][]command.Outcome), barred: make(map[int][]int)}
				lanes[session][s] = h
				senders.Go(func() {
					h.pipeline(w.nodes[from], session, s, perLane, rand.New(rand.NewPCG(seed, uint64(i*1000+j*100+k))))
				})
			}
		}
	}
	stop := make(chan struct{})
	faults.Go(func() { w.injectFaults(rand.New(rand.NewPCG(seed, 0)), domains, stop) })
	senders.Wait()
	close(stop)
	faults.Wait()
	check(t, w, lanes, perLane)
}

// moody refuses one command in 100, in four ways.
func moody(seed uint64) func(command.Command) *command.Failure {
	var mu sync.Mutex
	random := rand.New(rand.NewPCG(seed, 1))
	return func(command.Command) *command.Failure {
		mu.Lock()
		defer mu.Unlock()
		switch random.IntN(400) {
		case 0:
			return command.Busy("moody")
		case 1:
			return command.Unavailable("moody").OnOtherNodes()
		case 2:
			return &command.Failure{Code: command.CodeTimeout, Retry: command.RetryLater, Message: "moody"}
		case 3:
			return &command.Failure{Code: command.CodeUnavailable, Retry: command.RetrySameKey, Message: "moody"}
		}
		return nil
	}
}

// pipeline sends commands with at most 16 unanswered.
func (h *history) pipeline(n *node, session string, s eventstore.StreamID, count int, random *rand.Rand) {
	open, busyFor := make(chan struct{}, 16), make(chan time.Duration, count)
	var answers sync.WaitGroup
	for i := range count {
		open <- struct{}{}
		answers.Add(1)
		for pause := time.Duration(0); ; { // wait as long as the refusals say
			select {
			case d := <-busyFor:
				pause = max(pause, d)
				continue
			default:
			}
			time.Sleep(pause)
			break
		}
		n.router.Send(command.Command{
			Stream: s, Session: session, Name: "add", Data: json.RawMessage(strconv.Itoa(i)), Key: fmt.Sprintf("%s-%d", session, i),
			Deadline: time.Now().Add(time.Second),
		}, func(out command.Outcome) {
			h.mu.Lock()
			h.answers[i] = append(h.answers[i], out)
			first := len(h.answers[i]) == 1
			if f := out.Failure; lane.WillRetry(f) {
				for j := i + 1; j < h.sent; j++ {
					h.barred[j] = append(h.barred[j], i)
				}
				busyFor <- f.After
			}
			h.mu.Unlock()
			if first {
				<-open
				answers.Done()
			}
		})
		h.mu.Lock()
		h.sent = i + 1
		h.mu.Unlock()
		if random.IntN(30) == 0 {
			time.Sleep(time.Duration(random.IntN(10)) * time.Millisecond) // like a client that computes
		}
	}
	answers.Wait()
}

// injectFaults makes a random fault every 0 to 100 ms.
func (w *world) injectFaults(random *rand.Rand, domains []string, stop <-chan struct{}) {
	all := []string{"a", "b", "c", "g", "gg"}
	defer func() {
		for _, id := range domains {
			w.nodes[id].proxy.unfreeze()
		}
	}()
	for {
		select {
		case <-stop:
			return
		case <-time.After(time.Duration(random.IntN(100)) * time.Millisecond):
		}
		victim := w.nodes[domains[random.IntN(len(domains))]]
		switch random.IntN(5) {
		case 0, 1:
			victim.proxy.cut()
		case 2:
			victim.proxy.freeze()
		case 3:
			victim.proxy.unfreeze()
		case 4: // a node is missing in the view of one node, or of all
			out, seen := domains[random.IntN(len(domains))], all[random.IntN(len(all))]
			var members []string
			for _, id := range all {
				if id != out || random.IntN(2) == 0 {
					members = append(members, id)
				}
			}
			v := w.viewOf(members...)
			w.mu.Lock()
			if random.IntN(2) == 0 {
				w.view = v
			} else {
				w.views[seen] = v
			}
			w.mu.Unlock()
			w.news.send()
		}
	}
}

// lane returns where the commands of a lane were executed, in order, as
// command@node, and the attempt if it was not the first.
func (w *world) lane(session string, s eventstore.StreamID) []string {
	var all []string
	for _, e := range w.journal.of(s) {
		if e.session != session {
			continue
		}
		text := e.data + "@" + e.node
		if e.attempt > 1 {
			text += fmt.Sprintf(" (%d)", e.attempt)
		}
		all = append(all, text)
	}
	return all
}

func check(t *testing.T, w *world, lanes map[string]map[eventstore.StreamID]*history, perLane int) {
	count := make(map[string]int)
	for session, streams := range lanes {
		for s, h := range streams {
			executed := make(map[int]int)
			after := make(map[int]map[int]bool) // commands that were executed before it
			last := -1
			for _, e := range w.journal.of(s) {
				if e.session != session {
					continue
				}
				i, err := strconv.Atoi(e.data)
				if err != nil {
					t.Fatal(err)
				}
				after[i] = make(map[int]bool, len(executed))
				for j := range executed {
					after[i][j] = true
				}
				executed[i]++
				out := h.answers[i][0]
				if out.Failure != nil && out.Failure.Retry == command.RetrySameKey {
					continue // its client gave up: it may be executed at any time, once
				}
				if i < last {
					t.Errorf("session %s, %v: command %d was executed after %d: %v", session, s, i, last, w.lane(session, s))
				}
				last = i
			}
			for i := range perLane {
				if len(h.answers[i]) != 1 {
					t.Errorf("session %s, %v: command %d has %d answers", session, s, i, len(h.answers[i]))
					continue
				}
				out := h.answers[i][0]
				switch {
				case out.Failure == nil && executed[i] != 1, executed[i] > 1:
					t.Errorf("session %s, %v: command %d was executed %d times", session, s, i, executed[i])
				case out.Failure != nil && out.Failure.Retry == command.RetryLater && executed[i] != 0:
					t.Errorf("session %s, %v: command %d was answered with retry later and was executed: %v", session, s, i, out.Failure)
				case out.Failure == nil:
					for _, by := range h.barred[i] {
						if !after[i][by] {
							t.Errorf("session %s, %v: command %d was executed, although %d before it was answered %v", session, s, i, by, h.answers[by][0].Failure)
						}
					}
				}
				if out.Failure == nil {
					count["ok"]++
				} else {
					count[string(out.Failure.Code)+" "+string(out.Failure.Retry)]++
				}
			}
		}
	}
	t.Logf("answers: %v", count)
	for id, n := range w.nodes {
		t.Logf("%s: %+v", id, n.router.Stats())
	}
	if count["ok"] == 0 {
		t.Error("no command succeeded")
	}
}
