package domain

import "github.com/ganglion-es/ganglion/domain/aggregate"

// Counter is a number that clients add to. It stays from -2^53 to 2^53.
type Counter struct {
	Value int64 `json:"value"`
}

// Add adds a number, which may be negative.
type Add struct {
	By int64 `json:"by"`
}

// Added records that a number was added.
type Added struct {
	By int64 `json:"by"`
}

var (
	// ErrZero rejects adding 0.
	ErrZero = aggregate.Reject("zero", "adding 0 changes nothing")

	// ErrOverflow rejects a sum that some clients could not read exactly.
	ErrOverflow = aggregate.Reject("overflow", "the sum would leave the range from -2^53 to 2^53")
)

// Decide compares the number with the remaining range, since the sum may not fit an
// int64.
func (c Add) Decide(_ aggregate.Call, s Counter) (aggregate.Decision[Counter], error) {
	switch {
	case c.By == 0:
		return nil, ErrZero
	case c.By > exact-s.Value, c.By < -exact-s.Value:
		return nil, ErrOverflow
	}
	return aggregate.Emit(Added{By: c.By})
}

func (e Added) Apply(s *Counter) { s.Value += e.By }

var _ = aggregate.Define(&Catalog, aggregate.Type[Counter]{
	Name: "counter",
	Doc:  "A number that clients add to.",
	Access: aggregate.Access{
		Send: aggregate.Authenticated,
		Read: aggregate.Authenticated,
	},
	Commands:   aggregate.Commands[Counter]{"add": Add{}},
	Events:     aggregate.Events[Counter]{"added": Added{}},
	Rejections: aggregate.Rejections{ErrZero, ErrOverflow},
	Scenarios: aggregate.Scenarios[Counter]{
		"a new counter is 0, and adding 0 is rejected": aggregate.
			When(Add{By: 0}).
			Reject(ErrZero).
			Shows(`{"value": 0}`),
		"numbers are added, negative ones too": aggregate.
			Given(Added{By: 2}, Added{By: 3}).
			When(Add{By: -7}).
			Then(Added{By: -7}).
			Shows(`{"value": -2}`),
		"the sum may be 2^53": aggregate.
			Given(Added{By: exact - 1}).
			When(Add{By: 1}).
			Then(Added{By: 1}).
			Shows(`{"value": 9007199254740992}`),
		"the sum may not exceed 2^53": aggregate.
			Given(Added{By: exact}).
			When(Add{By: 1}).
			Reject(ErrOverflow),
		"the sum may not be less than -2^53": aggregate.
			Given(Added{By: -exact}).
			When(Add{By: -1}).
			Reject(ErrOverflow),
		"a sum that overflows an int64 is rejected": aggregate.
			Given(Added{By: -exact}).
			When(Add{By: -1 << 63}).
			Reject(ErrOverflow),
		"an anonymous client may not add": aggregate.
			When(Add{By: 1}).By("").
			Forbid(),
	},
})
