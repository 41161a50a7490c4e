package engine

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/engine/internal/waker"
	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/proto/command"
)

// Alarm rings at a time, unless it is refused or panics.
type Alarm struct {
	Rings time.Time
	Mood  string
	Rung  int
}

type (
	setAlarm struct {
		Rings time.Time `json:"rings"`
		Mood  string    `json:"mood"`
	}
	ring     struct{}
	alarmSet struct {
		Rings time.Time `json:"rings"`
		Mood  string    `json:"mood"`
	}
	alarmRung struct{}
)

var errQuiet = aggregate.Reject("quiet", "the alarm must not ring")

func (c setAlarm) Decide(aggregate.Call, Alarm) (aggregate.Decision[Alarm], error) {
	return aggregate.Emit[Alarm](alarmSet(c))
}

func (ring) Decide(_ aggregate.Call, a Alarm) (aggregate.Decision[Alarm], error) {
	switch a.Mood {
	case "quiet":
		return nil, errQuiet
	case "lazy":
		return aggregate.Emit[Alarm]()
	case "broken":
		panic("boom in ring")
	}
	return aggregate.Emit[Alarm](alarmRung{})
}

func (e alarmSet) Apply(a *Alarm)  { a.Rings, a.Mood = e.Rings, e.Mood }
func (e alarmRung) Apply(a *Alarm) { a.Rings, a.Rung = time.Time{}, a.Rung+1 }

func alarms(t testing.TB) *aggregate.Catalog {
	t.Helper()
	var c aggregate.Catalog
	aggregate.Define(&c, aggregate.Type[Alarm]{
		Name: "alarm", Revision: 3,
		Access:     aggregate.Access{Send: aggregate.Anyone, Read: aggregate.Anyone, Commands: map[string]aggregate.Rule{"ring": aggregate.System}},
		Commands:   aggregate.Commands[Alarm]{"set": setAlarm{}, "ring": ring{}},
		Events:     aggregate.Events[Alarm]{"set": alarmSet{}, "rung": alarmRung{}},
		Rejections: aggregate.Rejections{errQuiet},
		Wake: func(a Alarm) (time.Time, aggregate.Command[Alarm]) {
			if a.Mood == "unsure" {
				panic("boom in Wake")
			}
			return a.Rings, ring{}
		},
	})
	if err := c.Err(); err != nil {
		t.Fatal(err)
	}
	return &c
}

var six = time.Date(2026, 5, 1, 6, 0, 0, 0, time.UTC)

func setting(key string, rings time.Time, mood string) command.Command {
	c := cmd("a", key, "set", setAlarm{rings, mood})
	c.Stream.Type = "alarm"
	return c
}

// asking returns the built-in command, as the node of the row sends it.
func asking(now time.Time, version eventstore.Version) command.Command {
	data, _ := json.Marshal(waker.Question{Now: now.UnixMicro(), Version: version})
	return command.Command{
		Stream: eventstore.StreamID{Type: "alarm", ID: "a"}, Name: waker.Name, Data: data, Key: waker.Name, Client: wakeClient, System: true, ClientKey: true, Attempt: 1,
	}
}

func answered(t testing.TB, o command.Outcome, version eventstore.Version, want waker.Answer) {
	t.Helper()
	var got waker.Answer
	if err := json.Unmarshal(granted(t, o, version).Data, &got); err != nil || got != want {
		t.Errorf("the answer is %+v, %v; want %+v", got, err, want)
	}
}

func TestStateDecidesWhetherAWakeUpIsDue(t *testing.T) {
	t.Parallel()
	log := newMemlog()
	h := start(t, Config{Store: log, Catalog: alarms(t), Now: fixedClock(six.Add(-30 * time.Second))})
	answered(t, do(t, h, asking(six, 0)), 0, waker.Answer{})
	granted(t, do(t, h, setting("1", six, "")), 1)
	answered(t, do(t, h, asking(six.Add(-time.Microsecond), 1)), 1, waker.Answer{Due: six.UnixMicro()})
	granted(t, do(t, h, setting("2", six.Add(time.Minute), "")), 2)
	answered(t, do(t, h, asking(six, 1)), 2, waker.Answer{Due: six.Add(time.Minute).UnixMicro()}) // extended
	answered(t, do(t, h, asking(six.Add(time.Hour), 2)), 3, waker.Answer{Woken: true})
	answered(t, do(t, h, asking(six.Add(time.Hour), 2)), 3, waker.Answer{})

	commits, err := log.Read(t.Context(), 0, 10)
	if err != nil || len(commits) != 3 {
		t.Fatalf("the log has %d commits, %v; want 3", len(commits), err)
	}
	woken := commits[2]
	if woken.Key != "~wake:2" || woken.Meta.Client != "~wake" || woken.Events[0].Type != "rung" || woken.Meta.Depth != 0 {
		t.Errorf("the wake-up is %+v", woken)
	}
	// This host's clock is 90 s behind, and no time is before the one that was due.
	if want := six.Add(time.Minute); !woken.At.Equal(want) {
		t.Errorf("the wake-up is dated %s, want %s", woken.At, want)
	}
	for i, want := range []eventstore.Wake{
		{Known: true, Micros: six.UnixMicro(), Revision: 3}, {Known: true, Micros: six.Add(time.Minute).UnixMicro(), Revision: 3}, {Known: true, Revision: 3},
	} {
		if got := commits[i].Meta.Wake; got != want {
			t.Errorf("commit %d asks for %+v, want %+v", i, got, want)
		}
	}
}

func TestWakeUpWithoutEventsIsRefusedAndMayBeAskedAgain(t *testing.T) {
	t.Parallel()
	for mood, reason := range map[string]string{
		"quiet": "quiet: the alarm must not ring", "lazy": "the command ring changed nothing",
	} {
		h := start(t, Config{Store: newMemlog(), Catalog: alarms(t)})
		granted(t, do(t, h, setting("1", six, mood)), 1)
		for range 2 {
			answered(t, do(t, h, asking(six, 1)), 1, waker.Answer{Refused: true, Reason: reason})
		}
	}
}

func TestFaultOfAWakeUpFailsOnlyTheWakeUp(t *testing.T) {
	t.Parallel()
	h := start(t, Config{Store: newMemlog(), Catalog: alarms(t)})
	granted(t, do(t, h, setting("1", six, "broken")), 1)
	failed(t, do(t, h, asking(six, 1)), command.CodeInternal, command.RetryNo)
	failed(t, do(t, h, setting("2", six, "unsure")), command.CodeInternal, command.RetryNo) // Wake panics
	granted(t, do(t, h, setting("3", six, "")), 2)
	answered(t, do(t, h, asking(six, 2)), 3, waker.Answer{Woken: true})
}

// Wake-ups and commands arrive together, at a host that is not the only one.
func TestConcurrentWakeUpsWakeOnce(t *testing.T) {
	t.Parallel()
	log := newMemlog()
	var hosts []*Host
	for range 2 {
		hosts = append(hosts, start(t, Config{Store: log, Catalog: alarms(t)}))
	}
	granted(t, do(t, hosts[0], setting("1", six, "")), 1)
	var outcomes []<-chan command.Outcome
	for range 20 {
		for _, h := range hosts {
			outcomes = append(outcomes, submit(t, h, asking(six, 1)))
		}
	}
	for _, o := range outcomes {
		if out := <-o; out.Failure != nil && out.Failure.Retry != command.RetryLater {
			t.Error(out.Failure)
		}
	}
	commits, _ := log.Read(t.Context(), 0, 100)
	if len(commits) != 2 {
		t.Errorf("the log has %d commits, want 2", len(commits))
	}
}

func TestWakeUpIsDecidedAtAVersionThatTheLogHas(t *testing.T) {
	t.Parallel()
	log := newMemlog()
	hold := holdFirst(t, log)
	h := start(t, Config{Store: log, Catalog: alarms(t)})
	first := submit(t, h, setting("1", six, ""))
	<-hold.arrived
	var all []<-chan command.Outcome // one unit, but for the wake-up
	for i := range 3 {
		all = append(all, submit(t, h, setting(fmt.Sprint("more", i), six.Add(time.Duration(i)*time.Hour), "")))
	}
	woken := submit(t, h, asking(six.Add(90*time.Minute), 1))
	hold.open()
	granted(t, <-first, 1)
	for i, o := range all {
		granted(t, <-o, eventstore.Version(i+2))
	}
	answered(t, <-woken, 4, waker.Answer{Due: six.Add(2 * time.Hour).UnixMicro()})
}

func TestOwnerWithoutWakeUpsLeavesThemToOthers(t *testing.T) {
	t.Parallel()
	h := start(t, Config{Store: newMemlog()})
	c := asking(six, 1)
	c.Stream.Type = "box"
	if f := failed(t, do(t, h, c), command.CodeNotFound, command.RetryNo); !f.Elsewhere {
		t.Error("another node is not asked")
	}
	c.System, c.Key, c.Client = false, "k", "ada" // a client's
	failed(t, do(t, h, c), command.CodeNotFound, command.RetryNo)
}

func TestBurstOfWakeUpsLeavesLoadSlotsToClients(t *testing.T) {
	t.Parallel()
	log := newMemlog()
	h := start(t, Config{Store: log, Catalog: alarms(t), Loads: 2})
	granted(t, do(t, h, setting("1", six, "")), 1)
	h.wakeSlots <- struct{}{} // an alarm is being loaded for a wake-up
	waiting := asking(six, 1)
	waiting.Stream.ID = "b"
	woken := submit(t, h, waiting)
	client := setting("1", six, "")
	client.Stream.ID = "c"
	granted(t, do(t, h, client), 1)
	select {
	case o := <-woken:
		t.Errorf("the wake-up did not wait: %+v", o)
	default:
	}
	<-h.wakeSlots
	answered(t, <-woken, 0, waker.Answer{})
}
