// Package query is the programming model of questions about the rows of a
// projection.
//
// A query is one call of [Define]: its parameters, who may ask, the projection
// that it reads, a condition, an order and a limit:
//
//	var _ = query.Define(&Catalog, query.Rows[OpenAuctions, Listing]{
//		Name: "open_auctions", Access: aggregate.Anyone, From: Listings,
//		Where: func(_ query.Call, q OpenAuctions) query.Cond {
//			return query.All(query.Is("open", true), query.AtMost("price", q.Budget).If(q.Budget > 0))
//		},
//		Order: []string{"price"},
//	})
//
// The condition gets the caller, so it also decides which rows a caller may see.
// Conditions compare columns: the members that the projection's indexes name. One
// definition has two readings that agree on every row: the database's, for a
// first result, and [Filter.Matches], for the changes that follow. Therefore text
// compares by bytes, times have microseconds, and null means absent.
//
// Where must be a pure function of its arguments. It is called from many
// goroutines. If it panics, the query fails as internal.
//
// # Funcs
//
// [Func] is the form for what conditions cannot say: a Go function that answers
// with any JSON. It reads rows with [Get] and [Each], all tables as of one moment,
// and states with the Read method of a projection in memory:
//
//	var _ = query.Define(&Catalog, query.Func[Worth, Total]{
//		Name: "worth", Access: aggregate.Anyone, From: query.From{Listings},
//		Answer: func(ctx context.Context, _ query.Call, q Worth, db query.Reader) (t Total, err error) {
//			for l, err := range query.Each(ctx, db, Listings, query.Is("open", true), "price") {
//				…
//			}
//			return t, nil
//		},
//	})
//
// A Func is asked once: it has no pages, and clients cannot subscribe to it. An
// answer has at most [MaxAnswerBytes], and takes at most [Func.Timeout]; after
// that the caller gets a timeout, also if the function has not returned. Two Funcs
// that read tables run on a node at the same time, and 64 that only read states;
// 256 wait, and further ones are refused as busy.
package query
