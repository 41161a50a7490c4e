// Package topic has plain topics: streams of messages between clients, without rules of
// their own. A program gets them with one line:
//
//	var _ = Catalog.Include(&topic.Catalog)
//
// A STOMP client then sends to /topic/NAME and subscribes to it; any other client sends
// the command publish to topic/NAME. Unlike those of a message broker, messages are
// stored, so a client that was away resumes where it was.
package topic

import (
	"embed"
	"encoding/base64"
	"strings"

	"github.com/ganglion-es/ganglion/domain/aggregate"
)

// Catalog has the type topic.
var Catalog = aggregate.Catalog{Source: source}

//go:embed topic.go
var source embed.FS

// maxText is the largest size of a message, in bytes: of its body, or of its base64, with its
// content type and its headers.
const maxText = 60 << 10

// Topic is a plain topic.
type Topic struct {
	Messages int64 `json:"messages"`
}

// Publish sends a message to everybody who subscribes to the topic.
type Publish struct {
	// Body is the message as text. Base64 is a message that is not text; one of the
	// two is empty.
	Body   string `json:"body,omitempty"`
	Base64 string `json:"base64,omitempty"`
	// Type is the media type of the message, such as application/json.
	Type string `json:"type,omitempty"`
	// Headers are the sender's own.
	Headers map[string]string `json:"headers,omitempty"`
}

// Message records a message.
type Message struct {
	Body    string            `json:"body,omitempty"`
	Base64  string            `json:"base64,omitempty"`
	Type    string            `json:"type,omitempty"`
	Headers map[string]string `json:"headers,omitempty"`
}

var (
	// ErrTooLarge rejects a message that is too large.
	ErrTooLarge = aggregate.Reject("too_large", "a message has at most 60 KiB: its body, content type and headers together")
	// ErrTwoBodies rejects a message with a text and another body.
	ErrTwoBodies = aggregate.Reject("two_bodies", "body and base64 exclude each other: give only one of them")
	// ErrNotBase64 rejects a body that can't be decoded.
	ErrNotBase64 = aggregate.Reject("not_base64", "base64 is not base64 with padding (RFC 4648, 4)")
)

func (c Publish) Decide(_ aggregate.Call, _ Topic) (aggregate.Decision[Topic], error) {
	size := len(c.Body) + len(c.Base64) + len(c.Type)
	for name, value := range c.Headers {
		size += len(name) + len(value)
	}
	if size > maxText {
		return nil, ErrTooLarge.Because("the message has %d bytes: its body, content type and headers may have %d", size, maxText)
	}
	if c.Body != "" && c.Base64 != "" {
		return nil, ErrTwoBodies
	}
	if _, err := base64.StdEncoding.DecodeString(c.Base64); err != nil {
		return nil, ErrNotBase64
	}
	return aggregate.Emit(Message(c))
}

func (e Message) Apply(s *Topic) { s.Messages++ }

var _ = aggregate.Define(&Catalog, aggregate.Type[Topic]{
	Name: "topic",
	Doc:  "A plain topic: messages between clients, without rules of their own.",
	Access: aggregate.Access{
		Send: aggregate.Authenticated,
		Read: aggregate.Authenticated,
	},
	Commands:    aggregate.Commands[Topic]{"publish": Publish{}},
	Events:      aggregate.Events[Topic]{"message": Message{}},
	Rejections:  aggregate.Rejections{ErrTooLarge, ErrTwoBodies, ErrNotBase64},
	ShowsCaller: true,
	Scenarios: aggregate.Scenarios[Topic]{
		"a message reaches the topic as it was sent": aggregate.
			When(Publish{Body: "12.5", Type: "text/plain", Headers: map[string]string{"symbol": "GANG"}}).
			Then(Message{Body: "12.5", Type: "text/plain", Headers: map[string]string{"symbol": "GANG"}}).
			Shows(`{"messages": 1}`),
		"an empty message is a message": aggregate.
			When(Publish{}).
			Then(Message{}),
		"a body that is not text is base64": aggregate.
			When(Publish{Base64: "AAE="}).
			Then(Message{Base64: "AAE="}),
		"a message has one body": aggregate.
			When(Publish{Body: "a", Base64: "AAE="}).
			Reject(ErrTwoBodies),
		"base64 is checked": aggregate.
			When(Publish{Base64: "AAE"}).
			Reject(ErrNotBase64),
		"a message has at most 60 KiB": aggregate.
			When(Publish{Body: strings.Repeat("a", maxText+1)}).
			Reject(ErrTooLarge),
		"an anonymous client may not publish": aggregate.
			When(Publish{Body: "a"}).By("").
			Forbid(),
	},
})
