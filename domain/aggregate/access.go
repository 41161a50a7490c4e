package aggregate

import (
	"maps"
	"slices"
	"strings"
)

// A Caller is a client that requests something.
type Caller struct {
	// Client is the client's id, or "" for an anonymous client.
	Client string
	// Claims are the claims of its token, or nil without a token.
	Claims map[string]any
}

// A Rule says who may do something with one aggregate. [Anyone], [Authenticated],
// [Self] and [System] are rules; [RuleFunc] makes one of a function.
//
// A rule does not see the state; a refusal that depends on the state is a
// [Rejection]. Rules are called concurrently: for each command and read, and for
// live subscriptions when the session renews its token and at each heartbeat (25
// s by default). So a rule may use the time, or memory that the program changes,
// and a live subscription that it no longer allows ends within one heartbeat. A
// rule must not block and must not change the caller's claims. A rule that panics
// denies.
type Rule interface {
	// Allows reports whether the caller has access to the aggregate with an id.
	Allows(c Caller, id string) bool
}

type standardRule uint8

const (
	// Anyone allows every client, anonymous ones included.
	Anyone standardRule = iota + 1
	// Authenticated allows every client that has an id.
	Authenticated
	// Self allows only the client whose id is the aggregate's id. It is for
	// types with an aggregate for each client, such as client.
	Self
	// System allows no client. The program itself sends such commands: a wake-up or
	// a process manager, which no rule is asked about.
	System
)

// Allows implements [Rule].
func (r standardRule) Allows(c Caller, id string) bool {
	switch r {
	case Anyone:
		return true
	case Authenticated:
		return c.Client != ""
	case Self:
		return c.Client != "" && c.Client == id
	}
	return false
}

// String names a standard rule as the contract does.
func (r standardRule) String() string {
	switch r {
	case Anyone:
		return "anyone"
	case Authenticated:
		return "authenticated"
	case Self:
		return "self"
	case System:
		return "system"
	}
	return "no client"
}

// allowsAll reports whether the rule allows a caller every aggregate that exists
// or will exist.
func (r standardRule) allowsAll(c Caller) bool {
	return r != Self && r.Allows(c, "")
}

// A RuleFunc is a function that is a Rule. Its result for one aggregate says
// nothing about others, so it never opens a category; Access.ReadAll does.
type RuleFunc func(c Caller, id string) bool

// String returns "rule", since only the function knows whom it allows.
func (f RuleFunc) String() string { return "rule" }

// Allows calls the function.
func (f RuleFunc) Allows(c Caller, id string) bool { return f(c, id) }

// Access says who may do what with the aggregates of a type. It has no default: a
// type without Send and Read is refused.
type Access struct {
	// Send is for commands. Required.
	Send Rule
	// Read is for the state and the events of one aggregate. Anyone and
	// Authenticated also open the category, which is all aggregates of the
	// type. Required.
	Read Rule
	// ReadAll opens the category, and with it each aggregate, to the callers for
	// which it returns true, such as workers and staff, even if Read refuses
	// them. It is called like a Rule.
	//
	// Without it, Read alone decides.
	ReadAll func(Caller) bool
	// Commands has rules that replace Send, by command name.
	Commands map[string]Rule
}

// mayRead reports whether a caller may read the aggregate with an id.
func (a *Access) mayRead(c Caller, id string) bool {
	return a.Read.Allows(c, id) || a.ReadAll != nil && a.ReadAll(c)
}

// mayReadAll reports whether a caller may read every aggregate that exists or
// will exist.
func (a *Access) mayReadAll(c Caller) bool {
	if r, ok := a.Read.(standardRule); ok && r.allowsAll(c) {
		return true
	}
	return a.ReadAll != nil && a.ReadAll(c)
}

// allowsAnonymous reports whether a rule may allow an anonymous client something.
// Anyone does, and a function may.
func (a *Access) allowsAnonymous() bool {
	rules := append(slices.Collect(maps.Values(a.Commands)), a.Send, a.Read)
	return a.ReadAll != nil || slices.ContainsFunc(rules, func(r Rule) bool { return r != Authenticated && r != Self && r != System })
}

func (a *Access) send(command string) Rule {
	if r, ok := a.Commands[command]; ok {
		return r
	}
	return a.Send
}

// isSystem reports whether a client id is one of the program itself. No client has
// such an id.
func isSystem(client string) bool { return strings.HasPrefix(client, "~") }
