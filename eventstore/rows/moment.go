package rows

import "context"

// Reader reads several tables of one moment.
type Reader interface {
	// Read calls do with the tables as they are at one moment. It holds a
	// connection until do returns, so do must be short. The error is do's, or says
	// why there is no moment to read.
	Read(ctx context.Context, do func(Moment) error) error
}

// A Moment reads tables as they are at one moment, within a call of [Reader]'s
// Read. It belongs to one goroutine. Its methods fail as those of [Table] do;
// after a failure, each later call fails too.
type Moment interface {
	// Load returns the rows of a table with these keys that are not gone, in no
	// order.
	Load(ctx context.Context, t Table, keys []string) ([]Row, error)
	// Ask returns the first rows of a table that answer a question, and its
	// checkpoints.
	Ask(ctx context.Context, t Table, q Question) (Answer, error)
}
