package engine

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/proto/command"
)

// job is a command on its way through the host.
type job struct {
	command.Command
	reply func(command.Outcome)

	keep bool // the outcome is final even when it has no events
	body any  // the decoded command
	hash eventstore.Hash

	deciding activity

	// again are the commands of the same drain that carry the same key.
	again []*job
}

// size is what the job counts for against the bounds on bytes.
func (j *job) size() int {
	return len(j.Data) + len(j.Name) + len(j.Key) + len(j.Client) + len(j.Session) + len(j.Trace)
}

func (j *job) expired(now time.Time) bool {
	return !j.Deadline.IsZero() && now.After(j.Deadline)
}

// settle answers a command that the log has not confirmed anything about. The
// failure speaks of this attempt only: what became of former ones, on other
// nodes, is known to whoever made them.
func (j *job) settle(f *command.Failure) {
	own := *f
	own.Key = j.Key
	j.reply(command.Failed(&own))
	for _, again := range j.again {
		again.settle(f)
	}
}

// confirm answers a command with what the log has confirmed.
func (j *job) confirm(o command.Outcome) {
	j.reply(o)
	for _, again := range j.again {
		if again.hash != j.hash {
			again.reply(command.Failed(keyReused(again.Key)))
			continue
		}
		again.reply(replayed(o))
	}
}

// reused answers a command whose key the log knows from another one. It
// returns the next command of the drain that carries the key, if that one
// differs, or nil: it may be the one that was first.
func (j *job) reused() *job {
	j.reply(command.Failed(keyReused(j.Key)))
	var next *job
	for _, again := range j.again {
		switch {
		case again.hash == j.hash:
			again.reply(command.Failed(keyReused(again.Key)))
		case next == nil:
			next = again
			next.keep = j.keep
		default:
			next.again = append(next.again, again)
		}
	}
	return next
}

func replayed(o command.Outcome) command.Outcome {
	if o.Failure != nil {
		f := *o.Failure
		f.Replayed = true
		return command.Failed(&f)
	}
	o.Result.Replayed = true
	return o
}

// digest is what a key stands for: the client, the command and its data. It is
// stored with the key for as long as the log lives, so its definition must
// never change: the first 128 bits of SHA-256 over the three, each preceded by
// its length as 8 bytes, big-endian.
//
// The data is the command decoded and encoded again, so that white space, the
// order of members and escapes make no difference.
func digest(client, name string, data []byte) eventstore.Hash {
	framed := make([]byte, 0, 3*8+len(client)+len(name)+len(data))
	for _, part := range [...][]byte{[]byte(client), []byte(name), data} {
		framed = binary.BigEndian.AppendUint64(framed, uint64(len(part)))
		framed = append(framed, part...)
	}
	sum := sha256.Sum256(framed)
	return eventstore.Hash(sum[:16])
}

// answer is the stored form of an outcome without events. The zero value says
// that the command changed nothing. Stored answers are read for a day: keep
// the names.
type answer struct {
	Code    command.Code        `json:"code,omitempty"`
	Reason  string              `json:"reason,omitempty"`
	Message string              `json:"message,omitempty"`
	Version *eventstore.Version `json:"version,omitempty"`
}

func encodeAnswer(f *command.Failure) json.RawMessage {
	if f == nil {
		return json.RawMessage("{}")
	}
	raw, err := json.Marshal(answer{Code: f.Code, Reason: f.Reason, Message: f.Message, Version: f.Version})
	if err != nil {
		panic(err) // strings and a number: there is nothing to refuse
	}
	return raw
}

// decodeAnswer returns nil for a command that changed nothing.
func decodeAnswer(raw json.RawMessage) (*command.Failure, error) {
	var a answer
	if err := json.Unmarshal(raw, &a); err != nil {
		return nil, err
	}
	if a.Code == "" {
		return nil, nil
	}
	return &command.Failure{
		Code: a.Code, Reason: a.Reason, Message: a.Message, Version: a.Version, Retry: command.RetryNo,
	}, nil
}
