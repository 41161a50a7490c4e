package engine

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/proto/command"
)

// digest returns the hash that is stored with a key, of the client, the command
// and its data. The log keeps it permanently, so its definition must never change: the first 128 bits of SHA-256 over the three, each preceded by
// its length as 8 bytes, big-endian.
//
// data is the canonical form of the command, so that white space, escapes and
// the order of members make no difference.
func digest(client, name string, data []byte) eventstore.Hash {
	framed := make([]byte, 0, 3*8+len(client)+len(name)+len(data))
	for _, field := range [...][]byte{[]byte(client), []byte(name), data} {
		framed = binary.BigEndian.AppendUint64(framed, uint64(len(field)))
		framed = append(framed, field...)
	}
	sum := sha256.Sum256(framed)
	return eventstore.Hash(sum[:16])
}

// answer is the stored form of an outcome without events. The zero value means
// that the command was granted and changed nothing. Answers are kept for a
// day, so the member names must not change.
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
		panic(err) // strings and a number always encode
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
