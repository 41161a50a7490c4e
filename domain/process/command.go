package process

import (
	"encoding/json"
	"fmt"
	"unicode"
	"unicode/utf8"

	"github.com/ganglion-es/ganglion/domain/aggregate"
)

// Commands are what a handler sends, in this order.
type Commands []Command

// A Command is one command to one aggregate. [Send] makes one.
type Command struct {
	typ, id string
	command any
}

// Send returns a command to an aggregate: its type, its id, and a value of one of
// the types that its definition registers as commands.
func Send(typ, id string, command any) Command { return Command{typ, id, command} }

// An Encoded is a command in the form in which it is stored and sent.
type Encoded struct {
	Type, ID string // of the aggregate
	Name     string // of the command
	Data     json.RawMessage
}

// Target returns the aggregate as "type/id".
func (e Encoded) Target() string { return e.Type + "/" + e.ID }

func (c Command) encode(catalog *aggregate.Catalog) (Encoded, error) {
	def, ok := catalog.Type(c.typ)
	if !ok || !catalog.HasType(c.typ) {
		return Encoded{}, fmt.Errorf("a command cannot be sent to %q: there is no aggregate type %q", c.typ+"/"+c.id, c.typ)
	}
	if err := checkID(c.id); err != nil {
		return Encoded{}, fmt.Errorf("a command cannot be sent to an aggregate of type %s: its id %w", c.typ, err)
	}
	name, ok := def.CommandName(c.command)
	if !ok {
		return Encoded{}, fmt.Errorf("%T cannot be sent to %s/%s: it is not in the Commands of %s", c.command, c.typ, c.id, c.typ)
	}
	data, err := def.EncodeCommand(c.command)
	if err != nil {
		return Encoded{}, err
	}
	// The aggregate's owner would refuse what its own clients could not send.
	if _, err := catalog.CheckCommand(c.typ, name, data); err != nil {
		return Encoded{}, fmt.Errorf("command %s to %s/%s is not valid: %w", name, c.typ, c.id, err)
	}
	return Encoded{Type: c.typ, ID: c.id, Name: name, Data: data}, nil
}

// encode returns the commands in their stored form, within the bounds of a handler.
func (commands Commands) encode(catalog *aggregate.Catalog) ([]Encoded, error) {
	if len(commands) > MaxCommands {
		return nil, fmt.Errorf("the event causes %d commands, at most %d are allowed", len(commands), MaxCommands)
	}
	var list []Encoded
	size := 0
	for _, c := range commands {
		e, err := c.encode(catalog)
		if err != nil {
			return nil, err
		}
		if size += len(e.Data); size > MaxCommandsBytes {
			return nil, fmt.Errorf("the commands that the event causes have more than %d bytes of data together", MaxCommandsBytes)
		}
		list = append(list, e)
	}
	return list, nil
}

// maxIDBytes bounds an aggregate's id.
const maxIDBytes = 200

// checkID returns an error if an aggregate's id is invalid. The error continues a
// sentence whose subject is the id.
func checkID(id string) error {
	switch {
	case id == "":
		return fmt.Errorf("is empty: use 1 to %d bytes", maxIDBytes)
	case len(id) > maxIDBytes:
		return fmt.Errorf("has %d bytes: use at most %d", len(id), maxIDBytes)
	case id == "." || id == "..":
		return fmt.Errorf("must not be %q", id)
	case !utf8.ValidString(id):
		return fmt.Errorf("is not valid UTF-8")
	}
	for _, r := range id {
		if r == '/' || !unicode.IsPrint(r) {
			return fmt.Errorf("has the character %q: use printable characters without /", r)
		}
	}
	return nil
}
