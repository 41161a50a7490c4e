//go:build ganglionnext

package transport

import "google.golang.org/protobuf/encoding/protowire"

// With this build tag, upgrade tests build a stand-in for the next release. It
// speaks one more version, and its messages to peers have a field that this
// release does not know.
func init() {
	spoken.Newest++
	const number = 15_000 // not used by any message
	nextField = protowire.AppendString(protowire.AppendTag(nil, number, protowire.BytesType), "from the next program")
}
