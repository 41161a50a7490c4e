// Package ganglion is the Go client of Ganglion: it sends commands to aggregates
// and subscribes to their events, over WebSockets.
//
//	client, err := ganglion.Connect(ctx, ganglion.Options{
//		URLs:  []string{"https://example.com"},
//		Token: fetchToken,
//	})
//	…
//	defer client.Close()
//	auction := client.Aggregate("auction", "42")
//	result, err := auction.Send(ctx, "bid", Bid{Amount: 1500})
//	…
//	for event, err := range auction.Subscribe(ctx, ganglion.FromStart()) {
//
// The package handles:
//
//   - Connections. The client reconnects automatically. Each attempt uses the
//     next URL, after a pause with full jitter whose bound doubles from 0.5 to
//     20 seconds. The gateway's close codes and its goodbye can set another
//     pause. A missing heartbeat or answer reveals a connection that died
//     silently.
//   - Commands. Each command is executed once. It waits for a connection, and is
//     sent again with the same key until its outcome is known. Commands to one
//     aggregate are executed in the order of the calls, also if some are sent
//     again. The exception is a command that moves to another gateway because
//     the first does not know its name; a later one may be executed before it.
//     At most Options.Queue requests can be pending; one more fails with
//     [ErrQueueFull].
//   - Events. Each event is delivered once and in order, across reconnects to
//     any gateway, after any time. The client checks positions and versions: it
//     drops a repeated event and reports it to Options.OnError, and ends the
//     subscription with [ErrGap] at a gap. A slow application pauses its
//     subscription, which later continues from the same place: memory is bounded
//     and no event is lost.
//   - States. [Aggregate.States] yields the newest public state of an aggregate
//     after each change, so that the application need not apply events itself.
//     Follow with [WithStates] delivers both.
//   - Queries. [Query] gives a query Go types. Run asks once, Live yields all rows
//     in order, and again after each batch of changes. A lost connection
//     continues from the last batch, at any gateway, after any time; the rows
//     stay until newer ones are complete. A slow loop gets the newest rows.
//   - Consumer groups. [Client.Handle] calls a handler for the events of a group,
//     which any number of processes share: at least once, in order per stream, with
//     retries and parking. [Client.Consume] yields them for the application to
//     acknowledge.
//   - Tokens. The client fetches a token before the first connection, before the
//     token expires, and when a gateway no longer accepts it: a handful of times
//     for each token, even if tokens live for seconds or come from a cache.
//   - Upgrades. During an upgrade, a gateway may not know a name or be able to
//     show an event, while another can. The client therefore tries the next of
//     its URLs, after a growing pause, before such an error is final.
//
// Only calls that need an answer wait for a connection, and they end with their
// context. Close waits for every goroutine of the client.
//
// Events, states and rows are JSON; [Type] and [Query] decode them into Go types. The
// conversations in proto/testdata/conversations, which every client library
// plays, specify the frames that a client sends.
package ganglion
