// Package ganglion is the client of Ganglion: commands to aggregates and their
// events, over WebSockets, from Go.
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
// What the package takes care of:
//
//   - Connections. The client connects by itself, to the next of its URLs each
//     time, with full-jitter backoff between 0.5 and 20 seconds, as the
//     gateway's close codes and its goodbye say. A connection that died silently
//     is found by a heartbeat or an answer that does not come.
//   - Commands happen once. Each has a key. It waits while there is no
//     connection, and is sent again with the same key until its outcome is
//     known. Commands to one aggregate are executed in the order of the calls,
//     unless a server had no time for one and for the next it had: where that
//     matters, Send waits for each. So many may wait, and no more: ErrQueueFull.
//   - Events come once and in order, across reconnects to any gateway, after any
//     time. Positions and versions are checked: an event that comes again is
//     left out and reported to Options.OnError, a gap ends the subscription with
//     ErrGap. An application that is slow pauses its subscription, which goes on
//     from where it was: nothing grows and nothing is lost.
//   - Tokens are fetched before the first connection, before they expire, and
//     when a gateway does not take one any more: a handful of times for each,
//     also if they live for seconds or come from a cache.
//   - Upgrades. What one gateway does not know or can't show yet, another may:
//     the client moves to the next of its URLs, after a pause that grows, before
//     an error is final.
//
// Nothing here waits for a connection but the calls that need an answer, and
// those end with their context. Close waits for every goroutine that the client
// has started.
//
// Events and states are JSON, or Go's types by way of Type. What a client does
// on the wire is proved by the conversations in proto/testdata/conversations,
// which every client library plays.
package ganglion
