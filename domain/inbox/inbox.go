// Package inbox has the inbox of each client, which pushes messages to a user. A
// program gets it with one line:
//
//	var _ = Catalog.Include(&inbox.Catalog)
//
// A process manager then sends process.Send("client", id, inbox.Notify{Text: "…"}), a
// client the command notify; the user's pages subscribe to client/ID.
package inbox

import (
	"embed"

	"github.com/ganglion-es/ganglion/domain/aggregate"
)

// Catalog has the type client.
var Catalog = aggregate.Catalog{Source: source}

//go:embed inbox.go
var source embed.FS

// maxText is the largest size, in bytes, of a text from a client.
const maxText = 4 << 10

// Client is the inbox of one client. Its aggregate id is the client's id. Other
// clients leave notifications; only the client itself reads and acknowledges them.
type Client struct {
	// Version is the version of the stream. It counts notifications and
	// acknowledgements, so a notification is named by the version of its event.
	Version uint64 `json:"version"`
	// Last is the version of the newest notification, or 0 if there is none.
	Last uint64 `json:"last"`
	// Unread has the versions of the unacknowledged notifications, oldest first.
	// Consecutive versions share a span.
	Unread []Span `json:"unread"`
}

// Span is a range of versions, both ends included.
type Span struct {
	First uint64 `json:"first"`
	Last  uint64 `json:"last"`
}

// Notify leaves a notification for the client.
type Notify struct {
	Text string `json:"text"`
}

// Acknowledge marks every notification up to a version as read. The version is that
// of a notification's event.
type Acknowledge struct {
	Version uint64 `json:"version"`
}

// Notified records that a client left a notification.
type Notified struct {
	From string `json:"from"`
	Text string `json:"text"`
}

// Acknowledged records that the notifications up to a version were read.
type Acknowledged struct {
	Version uint64 `json:"version"`
}

var (
	// ErrInvalidText rejects a text that is empty or too long.
	ErrInvalidText = aggregate.Reject("invalid_text", "a text has 1 byte to 4 KiB")

	// ErrNotNotified rejects an acknowledgement past the newest notification.
	ErrNotNotified = aggregate.Reject("not_notified", "no notification has this version or a later one")
)

func (c Notify) Decide(call aggregate.Call, _ Client) (aggregate.Decision[Client], error) {
	if len(c.Text) < 1 || len(c.Text) > maxText {
		return nil, ErrInvalidText.Because("the text has %d bytes: it may have 1 to %d", len(c.Text), maxText)
	}
	return aggregate.Emit(Notified{From: call.Client, Text: c.Text})
}

func (c Acknowledge) Decide(_ aggregate.Call, s Client) (aggregate.Decision[Client], error) {
	switch {
	case c.Version > s.Last:
		return nil, ErrNotNotified.Because("the newest notification has version %d", s.Last)
	case len(s.Unread) == 0 || c.Version < s.Unread[0].First:
		return aggregate.Emit[Client]() // already read
	}
	return aggregate.Emit(Acknowledged{Version: c.Version})
}

func (e Notified) Apply(s *Client) {
	s.Version++
	s.Last = s.Version
	if n := len(s.Unread); n > 0 && s.Unread[n-1].Last == s.Version-1 {
		s.Unread[n-1].Last = s.Version
		return
	}
	s.Unread = append(s.Unread, Span{First: s.Version, Last: s.Version})
}

func (e Acknowledged) Apply(s *Client) {
	s.Version++
	for len(s.Unread) > 0 && s.Unread[0].Last <= e.Version {
		s.Unread = s.Unread[1:]
	}
	if len(s.Unread) > 0 {
		s.Unread[0].First = max(s.Unread[0].First, e.Version+1)
	}
}

// Inbox is what the client sees of its inbox.
type Inbox struct {
	Unread uint64 `json:"unread"` // number of unread notifications
	Last   uint64 `json:"last"`   // version of the newest notification
}

func view(s Client) any {
	i := Inbox{Last: s.Last}
	for _, u := range s.Unread {
		i.Unread += u.Last - u.First + 1
	}
	return i
}

var _ = aggregate.Define(&Catalog, aggregate.Type[Client]{
	Name: "client",
	Doc:  "A client's inbox. Other clients leave notifications; the client acknowledges them.",
	Access: aggregate.Access{
		Send:     aggregate.Authenticated,
		Read:     aggregate.Self,
		Commands: map[string]aggregate.Rule{"acknowledge": aggregate.Self},
	},
	Commands:   aggregate.Commands[Client]{"notify": Notify{}, "acknowledge": Acknowledge{}},
	Events:     aggregate.Events[Client]{"notified": Notified{}, "acknowledged": Acknowledged{}},
	Rejections: aggregate.Rejections{ErrInvalidText, ErrNotNotified},
	View:       view,
	Scenarios: aggregate.Scenarios[Client]{
		"an authenticated client may notify another": aggregate.
			When(Notify{Text: "lunch?"}).By("ada").On("bob").
			Then(Notified{From: "ada", Text: "lunch?"}).
			Shows(`{"unread": 1, "last": 1}`),
		"an anonymous client may not notify": aggregate.
			When(Notify{Text: "buy now"}).By("").On("bob").
			Forbid(),
		"a notification needs a text": aggregate.
			When(Notify{Text: ""}).By("ada").On("bob").
			Reject(ErrInvalidText).
			Shows(`{"unread": 0, "last": 0}`),
		"an acknowledgement covers earlier notifications too": aggregate.
			Given(Notified{From: "ada", Text: "lunch?"}, Notified{From: "eve", Text: "psst"}, Notified{From: "ada", Text: "now?"}).
			When(Acknowledge{Version: 2}).By("bob").On("bob").
			Then(Acknowledged{Version: 2}).
			Shows(`{"unread": 1, "last": 3}`),
		"acknowledgements count in versions": aggregate.
			Given(Notified{From: "ada", Text: "lunch?"}, Acknowledged{Version: 1}, Notified{From: "ada", Text: "now?"}).
			When(Acknowledge{Version: 3}).By("bob").On("bob").
			Then(Acknowledged{Version: 3}).
			Shows(`{"unread": 0, "last": 3}`),
		"a second acknowledgement changes nothing": aggregate.
			Given(Notified{From: "ada", Text: "lunch?"}, Acknowledged{Version: 1}).
			When(Acknowledge{Version: 1}).By("bob").On("bob").
			Then().
			Shows(`{"unread": 0, "last": 1}`),
		"a version past the newest notification cannot be acknowledged": aggregate.
			Given(Notified{From: "ada", Text: "lunch?"}).
			When(Acknowledge{Version: 2}).By("bob").On("bob").
			Reject(ErrNotNotified),
		"a client may not acknowledge for another": aggregate.
			Given(Notified{From: "ada", Text: "lunch?"}).
			When(Acknowledge{Version: 1}).By("ada").On("bob").
			Forbid(),
	},
})
