package aggregate

// A Caller is who wants something.
type Caller struct {
	// Client is the client's id, "" for nobody.
	Client string
	// Claims are those of its token, nil without one.
	Claims map[string]any
}

// A Rule says who may do something with one aggregate. Rules never see state:
// what depends on state is a rejection. Rules are used from many goroutines
// at once, on every command and subscription, and must be pure.
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

// A RuleFunc is a function that is a Rule. Since nobody can tell what it says
// about aggregates that it was not asked about, it never opens a category.
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
	// Read is for the state and the events. A category, which is all
	// aggregates of a type, can be read only by Anyone or Authenticated.
	// Required.
	Read Rule
	// Commands has rules that replace Send for single commands, by name.
	Commands map[string]Rule
}

func (a *Access) send(command string) Rule {
	if r, ok := a.Commands[command]; ok {
		return r
	}
	return a.Send
}
