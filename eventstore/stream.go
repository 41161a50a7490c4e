package eventstore

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// MaxIDBytes bounds the id of an aggregate.
const MaxIDBytes = 200

// StreamID names an aggregate, and the stream of its events.
type StreamID struct {
	Type string // lower-case letters, digits, - and _
	ID   string // 1 to 200 bytes of printable UTF-8 without /, not . or ..
}

// String returns "type/id".
func (s StreamID) String() string { return s.Type + "/" + s.ID }

// ParseStreamID parses "type/id". The error is written for the person who wrote
// the name.
func ParseStreamID(name string) (StreamID, error) {
	typ, id, ok := strings.Cut(name, "/")
	if !ok {
		return StreamID{}, fmt.Errorf("%q does not name an aggregate: write type/id, such as auction/42", clip(name))
	}
	s := StreamID{Type: typ, ID: id}
	return s, s.Validate()
}

// Validate returns an error if the name is invalid.
func (s StreamID) Validate() error {
	if err := ValidateType(s.Type); err != nil {
		return err
	}
	return ValidateID(s.ID)
}

// ValidateType returns an error if typ is not the name of an aggregate type.
func ValidateType(typ string) error {
	if typ == "" {
		return fmt.Errorf("the aggregate's type is empty: write type/id, such as auction/42")
	}
	if len(typ) > MaxIDBytes {
		return fmt.Errorf("the aggregate's type has %d bytes, at most %d are allowed", len(typ), MaxIDBytes)
	}
	for _, r := range typ {
		if (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' && r != '_' {
			return fmt.Errorf("the aggregate's type %q has the character %q: use lower-case letters, digits, - and _", clip(typ), r)
		}
	}
	return nil
}

// ValidateID returns an error if id is not the id of an aggregate. For client ids
// there is ValidateClient.
func ValidateID(id string) error {
	switch {
	case id == "":
		return fmt.Errorf("the id is empty: 1 to %d bytes are allowed", MaxIDBytes)
	case len(id) > MaxIDBytes:
		return fmt.Errorf("the id has %d bytes, at most %d are allowed", len(id), MaxIDBytes)
	case id == "." || id == "..":
		return fmt.Errorf("the id must not be %q", id)
	case !utf8.ValidString(id):
		return fmt.Errorf("the id is not valid UTF-8")
	}
	for _, r := range id {
		if r == '/' || !unicode.IsPrint(r) {
			return fmt.Errorf("the id has the character %q: use printable characters without /", r)
		}
	}
	return nil
}

// Reserved begins the keys and the client ids of commands that the program itself
// sends: wake-ups, and the commands of process managers. Clients can't use it.
const Reserved = "~"

// ValidateClient returns an error if id is not the id of a client.
func ValidateClient(id string) error {
	if strings.HasPrefix(id, Reserved) {
		return fmt.Errorf("the id %q begins with %s, which is reserved for the program's own commands: use another id", clip(id), Reserved)
	}
	return ValidateID(id)
}

func clip(s string) string {
	const most = 64
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}
