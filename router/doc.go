// Package router carries a command to the node that owns its aggregate and
// returns the answer.
//
// [Router.Send] sends a command, [Router.Get] asks for an aggregate's public
// state, and [Router.Run] follows the cluster. An [Executor] executes the
// commands for the aggregates that this node owns.
//
// Gossip decides which node owns an aggregate. The router does not wait for
// gossip's failure detector: it judges a node by the link to it. If the owner
// does not answer, the router tries the owner of the ring without that node.
// All nodes agree on that ring once they have seen that the node is gone.
//
// # What Send promises
//
// Each command is answered exactly once, and by its deadline. What happens
// after an attempt depends on what is known about it:
//
//   - The command was certainly not executed: no link is up, the request is
//     still in this node's queue, or the node is draining or runs too old a
//     version. The next candidate gets it immediately.
//   - Its fate is unknown: the stream broke after the request was sent, or was
//     silent for 500 ms. The next candidate gets it, with the same key and a
//     higher Attempt. The event store gives a key one effect and one answer,
//     so a second execution does no harm.
//   - The node cannot reach its database. The next candidate gets it. If all
//     candidates say so, that is the answer, immediately.
//   - The node answered: a result, busy, a rejection, a conflict. That is the
//     answer.
//
// Candidates are, in order: the owner; the owner of the ring without it; the
// owner of the ring of reachable members. At most two may leave the fate
// unknown, and at most four are asked. A command that waits 2 seconds for a
// candidate, as in a cluster without a domain node, is answered unavailable:
// with retry "later" if it was certainly not executed, else with "same_key".
// Once its fate is unknown at one node, the answer of another node never says
// "later".
//
// A link that was silent is on trial (see package link). It gets one command;
// until that is answered, other commands go to the next candidate if they have
// one.
//
// A node may receive a command from a peer although it is not the owner in its
// own view. It hands the command on to the owner if it can reach it, else it
// executes the command. A command that was handed on is executed where it
// arrives. So a difference between views costs one hop, and never causes a loop
// or a refusal.
//
// # Lanes
//
// The commands of one session to one aggregate are a lane. They may be
// pipelined and keep their order, even across a failover. Package
// internal/lane has the rules. A node that hands commands on keeps lanes of
// its own for them. Commands without a session have no order.
//
// Two rules concern peers. A request carries the number of replies of its
// stream that the sender had acted on (Request.seen). A receiver remembers
// which of its replies refused a command of a lane, and refuses a request of
// that lane with a lower number, because its sender did not know of the
// refusal. The receiver forgets a refusal when a later seen shows that the
// sender has acted on the reply.
//
// # Bounds
//
// A lane holds at most 1,024 unanswered commands and a router 65,536, including
// commands of peers. Past that, or when a link's queue is full, the answer is
// busy.
package router
