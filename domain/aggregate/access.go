package aggregate

import (
	"maps"
	"slices"
)

// A Caller is who wants something.
type Caller struct {
	// Client is the client's id, "" for nobody.
	Client string
	// Claims are those of its token, nil without one.
	Claims map[string]any
}

// A Rule says who may do something with one aggregate. Rules never see state:
// what depends on state is a rejection. Rules are called from many goroutines
// at once: for each command and read, for live subscriptions when the session
// renews its token, and at each heartbeat (25 s by default). So a rule may look
// at the time, or at memory that the program changes, and a live subscription
// that it no longer allows ends within one heartbeat. A rule must not block,
// and must not change the caller's claims. A rule that panics says no.
//
// Anyone, Authenticated and Self are rules; RuleFunc makes one of a function.
type Rule interface {
	// Allows tells whether a caller may, for the aggregate with this id.
	Allows(c Caller, id string) bool
}

type standardRule uint8

const (
	// Anyone allows everybody, also who has no client id.
	Anyone standardRule = iota + 1
	// Authenticated allows whoever has a client id.
	Authenticated
	// Self allows only the client whose id is the aggregate's id: it is for
	// types, such as client, that have an aggregate for each client.
	Self
)

// Allows makes a standard rule a Rule.
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
	}
	return "nobody"
}

// allowsAll tells whether the rule allows a caller every aggregate there is
// or will be.
func (r standardRule) allowsAll(c Caller) bool {
	return r != Self && r.Allows(c, "")
}

// A RuleFunc is a function that is a Rule. What it says about one aggregate
// says nothing about others, so it never opens a category: Access.ReadAll does.
type RuleFunc func(c Caller, id string) bool

// String says that only the function knows.
func (f RuleFunc) String() string { return "rule" }

// Allows calls the function.
func (f RuleFunc) Allows(c Caller, id string) bool { return f(c, id) }

// Access says who may do what with the aggregates of a type. It is declared,
// never defaulted: a type without Send and Read fails to register.
type Access struct {
	// Send is for commands. Required.
	Send Rule
	// Read is for the state and the events of one aggregate. As Anyone or
	// Authenticated it also opens the category, which is all aggregates of the
	// type. Required.
	Read Rule
	// ReadAll opens the category, and with it each aggregate, to the callers
	// that it allows, whatever Read says: to workers and staff, for instance.
	// It goes by the caller alone. What is said of rules holds for it.
	//
	// Without it, Read decides alone.
	ReadAll func(Caller) bool
	// Commands has rules that replace Send for single commands, by name.
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

// allowsAnonymous reports whether a rule may allow anything to a caller without
// a client id: it is Anyone, or a function, about which nothing is known.
func (a *Access) allowsAnonymous() bool {
	rules := append(slices.Collect(maps.Values(a.Commands)), a.Send, a.Read)
	return a.ReadAll != nil || slices.ContainsFunc(rules, func(r Rule) bool { return r != Authenticated && r != Self })
}

func (a *Access) send(command string) Rule {
	if r, ok := a.Commands[command]; ok {
		return r
	}
	return a.Send
}
