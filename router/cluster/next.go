//go:build ganglionnext

package cluster

// With this build tag, upgrade tests build a stand-in for the next release, whose
// metadata has a field that this release does not know.
func init() { metaNext = []byte("next") }
