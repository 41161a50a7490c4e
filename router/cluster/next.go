//go:build ganglionnext

package cluster

// With this tag a program stands for the next one, for tests of upgrades: its
// metadata has a field that this one does not know.
func init() { metaNext = []byte("next") }
