package domain

import "github.com/ganglion-es/ganglion/domain/aggregate"

// Client is one client's inbox: every client is an aggregate, named by its
// client id. Others leave notifications in it; only the client itself reads
// and acknowledges them.
type Client struct {
	// Version is the stream's: it counts notifications and acknowledgements
	// alike, so that clients name a notification by the version of its event.
	Version uint64 `json:"version"`
	// Last is the version of the newest notification, 0 without one.
	Last uint64 `json:"last"`
	// Unread has the versions of the notifications that are not acknowledged,
	// oldest first. Neighbours share a span: a full inbox is a few of them.
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

// Acknowledge says that the client has seen every notification up to a
// version, that of the notification's event.
type Acknowledge struct {
	Version uint64 `json:"version"`
}

// Notified records that somebody left a notification.
type Notified struct {
	From string `json:"from"`
	Text string `json:"text"`
}

// Acknowledged records that notifications up to a version were seen.
type Acknowledged struct {
	Version uint64 `json:"version"`
}

var (
	// ErrInvalidText rejects a text that is empty or too long.
	ErrInvalidText = aggregate.Reject("invalid_text", "a text has 1 byte to 4 KiB")

	// ErrNotNotified rejects an acknowledgement past the newest notification.
	ErrNotNotified = aggregate.Reject("not_notified", "there is no notification up to this version yet")
)

func (c Notify) Decide(call aggregate.Call, _ Client) (aggregate.Decision[Client], error) {
	if len(c.Text) < 1 || len(c.Text) > longest {
		return nil, ErrInvalidText.Because("the text has %d bytes: it may have 1 to %d", len(c.Text), longest)
	}
	return aggregate.Emit(Notified{From: call.Client, Text: c.Text})
}

func (c Acknowledge) Decide(_ aggregate.Call, s Client) (aggregate.Decision[Client], error) {
	switch {
	case c.Version > s.Last:
		return nil, ErrNotNotified.Because("the newest notification has version %d", s.Last)
	case len(s.Unread) == 0 || c.Version < s.Unread[0].First:
		return aggregate.Emit[Client]() // seen before: asking twice changes nothing
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

// Inbox is what the client sees of its state.
type Inbox struct {
	Unread uint64 `json:"unread"` // how many notifications
	Last   uint64 `json:"last"`   // the newest one's version: what to acknowledge
}

func inbox(s Client) any {
	i := Inbox{Last: s.Last}
	for _, u := range s.Unread {
		i.Unread += u.Last - u.First + 1
	}
	return i
}

var _ = aggregate.Define(&Catalog, aggregate.Type[Client]{
	Name: "client",
	Doc:  "A client's inbox: others leave notifications, the client acknowledges them.",
	Access: aggregate.Access{
		Send:     aggregate.Authenticated,
		Read:     aggregate.Self,
		Commands: map[string]aggregate.Rule{"acknowledge": aggregate.Self},
	},
	Commands: aggregate.Commands[Client]{"notify": Notify{}, "acknowledge": Acknowledge{}},
	Events:   aggregate.Events[Client]{"notified": Notified{}, "acknowledged": Acknowledged{}},
	View:     inbox,
	Scenarios: aggregate.Scenarios[Client]{
		"anybody with a name may notify a client": aggregate.
			When(Notify{Text: "lunch?"}).By("ada").On("bob").
			Then(Notified{From: "ada", Text: "lunch?"}).
			Shows(`{"unread": 1, "last": 1}`),
		"who has no name may not": aggregate.
			When(Notify{Text: "buy now"}).By("").On("bob").
			Forbid(),
		"a notification says something": aggregate.
			When(Notify{Text: ""}).By("ada").On("bob").
			Reject(ErrInvalidText).
			Shows(`{"unread": 0, "last": 0}`),
		"acknowledging one reads those before it as well": aggregate.
			Given(Notified{From: "ada", Text: "lunch?"}, Notified{From: "eve", Text: "psst"}, Notified{From: "ada", Text: "now?"}).
			When(Acknowledge{Version: 2}).By("bob").On("bob").
			Then(Acknowledged{Version: 2}).
			Shows(`{"unread": 1, "last": 3}`),
		"versions count acknowledgements too": aggregate.
			Given(Notified{From: "ada", Text: "lunch?"}, Acknowledged{Version: 1}, Notified{From: "ada", Text: "now?"}).
			When(Acknowledge{Version: 3}).By("bob").On("bob").
			Then(Acknowledged{Version: 3}).
			Shows(`{"unread": 0, "last": 3}`),
		"acknowledging twice changes nothing": aggregate.
			Given(Notified{From: "ada", Text: "lunch?"}, Acknowledged{Version: 1}).
			When(Acknowledge{Version: 1}).By("bob").On("bob").
			Then().
			Shows(`{"unread": 0, "last": 1}`),
		"what was not notified can't be acknowledged": aggregate.
			Given(Notified{From: "ada", Text: "lunch?"}).
			When(Acknowledge{Version: 2}).By("bob").On("bob").
			Reject(ErrNotNotified),
		"nobody acknowledges for another": aggregate.
			Given(Notified{From: "ada", Text: "lunch?"}).
			When(Acknowledge{Version: 1}).By("ada").On("bob").
			Forbid(),
	},
})
