package process

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/ganglion-es/ganglion/domain/aggregate"
)

// The built-in commands of a process manager's own streams, and the events of the
// same names that they record.
const (
	wokenName    = "woken"
	rejectedName = "rejected"
	tickedName   = "ticked"
)

// A Rejection is a command that its aggregate has finally refused.
type Rejection struct {
	// Position is that of the event whose handler sent the command.
	Position uint64
	// Type and ID are the aggregate's.
	Type, ID string
	// Command is the command's stored name.
	Command string
	// Code is the kind of the failure: "rejected", "conflict", "bad_request",
	// "not_found" or "too_large".
	Code string
	// Reason is the aggregate's own code, such as "seat_taken", for "rejected".
	Reason string
	// Message is for people.
	Message string
}

// Stored forms: members may be added, and none may be removed or change its type.

type recordWoken struct {
	Due time.Time `json:"due"`
}

type woken struct {
	Due time.Time `json:"due"`
}

type recordRejected struct {
	Position uint64 `json:"position"`
	K        int    `json:"k"`
	N        int    `json:"n"`
	Target   string `json:"target"`
	Command  string `json:"command"`
	Code     string `json:"code"`
	Reason   string `json:"reason,omitzero"`
	Message  string `json:"message,omitzero"`
}

type rejected recordRejected

type recordTicked struct {
	Schedule string    `json:"schedule"`
	At       time.Time `json:"at"`
}

type ticked struct {
	Schedule string    `json:"schedule"`
	At       time.Time `json:"at"`
}

// A record is the state of a process manager's own stream. The stream only keeps
// events, and their keys keep them from being recorded twice.
type record struct{}

func (c recordWoken) Decide(aggregate.Call, record) (aggregate.Decision[record], error) {
	return aggregate.Emit(woken(c))
}

func (c recordRejected) Decide(aggregate.Call, record) (aggregate.Decision[record], error) {
	return aggregate.Emit(rejected(c))
}

func (c recordTicked) Decide(aggregate.Call, record) (aggregate.Decision[record], error) {
	return aggregate.Emit(ticked(c))
}

func (woken) Apply(*record)    {}
func (rejected) Apply(*record) {}
func (ticked) Apply(*record)   {}

func (e rejected) rejection() Rejection {
	typ, id, _ := strings.Cut(e.Target, "/")
	return Rejection{Position: e.Position, Type: typ, ID: id, Command: e.Command, Code: e.Code, Reason: e.Reason, Message: e.Message}
}

// streamType makes the aggregate type of a process manager's own streams. No client
// may send or read anything of it.
func streamType(name string) *aggregate.Definition {
	none := aggregate.RuleFunc(func(aggregate.Caller, string) bool { return false })
	return aggregate.Define(&aggregate.Catalog{}, aggregate.Type[record]{
		Name:     name,
		Doc:      "What the process manager " + name + " has to know and is no event.",
		Access:   aggregate.Access{Send: none, Read: none},
		Commands: aggregate.Commands[record]{wokenName: recordWoken{}, rejectedName: recordRejected{}, tickedName: recordTicked{}},
		Events:   aggregate.Events[record]{wokenName: woken{}, rejectedName: rejected{}, tickedName: ticked{}},
	})
}

// A Record is a built-in command to a process manager's own stream. Its event makes
// an input of what is not an event: a time that has come, a refusal, a planned run.
type Record struct {
	Key      string // the idempotency key: each input is recorded once
	Sequence string // the id of the stream, whose type is the process manager's name
	Command  string
	Data     json.RawMessage
}

// RecordWoken records that the time for which a sequence waits has passed. last is the
// position of the last event that concerned the sequence, also of a time that changed
// nothing: otherwise a time that another version of Wake returns for the same state
// would be recorded under a key that exists.
func (d *Definition) RecordWoken(sequence string, last uint64, due time.Time) (Record, error) {
	key := d.Client() + ":w:" + strconv.FormatUint(last, 10)
	return d.record(key, sequence, recordWoken{Due: micros(due)})
}

// RecordDue records that the time which [Definition.Due] returned for a sequence has
// passed: one woken, or of a schedule the planned times up to now, at most
// [MaxMissed], in the order in which they must be recorded. last is as in RecordWoken.
func (d *Definition) RecordDue(sequence string, last uint64, due, now time.Time) (list []Record, err error) {
	if d.schedule == nil {
		r, err := d.RecordWoken(sequence, last, due)
		return []Record{r}, err
	}
	for _, planned := range d.schedule.Plan(due.Add(-time.Microsecond), now) {
		r, err := d.RecordTicked(planned)
		if err != nil {
			return nil, err
		}
		list = append(list, r)
	}
	return list, nil
}

// maxMessageBytes bounds the message of a recorded rejection.
const maxMessageBytes = 1 << 10

// RecordRejected records the refusal of a command, which [CommandKey] names. The
// record goes to the sequence whose event caused the command.
func (d *Definition) RecordRejected(sequence string, k, n int, r Rejection) (Record, error) {
	key := fmt.Sprintf("%s:r:%d.%d:%d", d.Client(), r.Position, k, n)
	if len(r.Message) > maxMessageBytes {
		r.Message = strings.ToValidUTF8(r.Message[:maxMessageBytes], "")
	}
	return d.record(key, sequence, recordRejected{
		Position: r.Position, K: k, N: n, Target: r.Type + "/" + r.ID, Command: r.Command,
		Code: r.Code, Reason: r.Reason, Message: r.Message,
	})
}

// RecordTicked records a planned run of a schedule.
func (d *Definition) RecordTicked(planned time.Time) (Record, error) {
	planned = micros(planned)
	key := d.Client() + ":t:" + planned.Format(time.RFC3339Nano)
	return d.record(key, TickSequence, recordTicked{Schedule: d.name, At: planned})
}

func (d *Definition) record(key, sequence string, command any) (Record, error) {
	name, _ := d.stream.CommandName(command)
	data, err := d.stream.EncodeCommand(command)
	return Record{Key: key, Sequence: sequence, Command: name, Data: data}, err
}

// micros returns a time as it is stored.
func micros(t time.Time) time.Time { return t.UTC().Truncate(time.Microsecond) }

// Client returns the client id under which the process manager sends. No client of
// a gateway has an id that begins with "~".
func (d *Definition) Client() string { return "~" + d.name }

// CommandKey returns the idempotency key of a command: of the nth that the event at
// a position caused in the kth sequence that [Definition.Effects] returned, both
// from 0. It has at most 64 bytes.
func (d *Definition) CommandKey(position uint64, k, n int) string {
	return fmt.Sprintf("%s:%d.%d:%d", d.Client(), position, k, n)
}

// A Cause is what a key says about a command: the inverse of
// [Definition.CommandKey].
type Cause struct {
	Process  string
	Position uint64
	K, N     int
}

// ParseCommandKey reads the key of a command. It reports false for any other key,
// also for those of records.
func ParseCommandKey(key string) (c Cause, ok bool) {
	rest, ok := strings.CutPrefix(key, "~")
	if !ok {
		return Cause{}, false
	}
	name, rest, ok := strings.Cut(rest, ":")
	if !ok {
		return Cause{}, false
	}
	cause, n, ok := strings.Cut(rest, ":")
	if !ok {
		return Cause{}, false
	}
	position, k, ok := strings.Cut(cause, ".")
	if !ok {
		return Cause{}, false
	}
	var errs [3]error
	c.Process = name
	c.Position, errs[0] = strconv.ParseUint(position, 10, 64)
	c.K, errs[1] = strconv.Atoi(k)
	c.N, errs[2] = strconv.Atoi(n)
	if errs != [3]error{} || c.K < 0 || c.N < 0 || (&Definition{name: name}).CommandKey(c.Position, c.K, c.N) != key {
		return Cause{}, false
	}
	return c, true
}
