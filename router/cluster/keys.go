package cluster

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"github.com/hashicorp/memberlist"
)

const (
	// keyBytes is the only size of a key that is accepted. memberlist would
	// also take 16 and 24, and a key that was cut by mistake with them.
	keyBytes = 32

	// maxKeys bounds a keyring: a packet of a stranger is tried with each key.
	maxKeys = 16
)

// ErrOpen reports keys for a cluster whose gossip was started without any:
// memberlist decides at its start whether it encrypts.
var ErrOpen = errors.New("cluster: gossip was started without keys: it takes a restart to begin with them")

func checkKeys(keys [][]byte) error {
	if len(keys) > maxKeys {
		return fmt.Errorf("there are %d gossip keys: %d at most", len(keys), maxKeys)
	}
	for _, key := range keys {
		if len(key) != keyBytes {
			return fmt.Errorf("the gossip key has %d bytes: it has %d (head -c %d /dev/urandom)", len(key), keyBytes, keyBytes)
		}
	}
	return nil
}

func cloneKeys(keys [][]byte) [][]byte {
	clone := make([][]byte, len(keys))
	for i, key := range keys {
		clone[i] = bytes.Clone(key)
	}
	return clone
}

// SetKeys changes the keys while gossip goes on: the first encrypts from now
// on, and what was said with another one of them is still understood. No
// member is lost if each step is taken on all nodes before the next one: add
// the new key behind the old one, put it before the old one, take the old one
// away.
func (c *Cluster) SetKeys(keys [][]byte) error {
	if c.keyring == nil {
		return ErrOpen
	}
	if len(keys) == 0 {
		return errors.New("cluster: at least one gossip key is needed")
	}
	if err := checkKeys(keys); err != nil {
		return fmt.Errorf("cluster: %w", err)
	}
	c.changing.Lock()
	defer c.changing.Unlock()
	return setKeys(c.keyring, cloneKeys(keys))
}

// setKeys makes a keyring hold exactly these keys. What is wanted is never
// taken away, but for an instant where it stands behind something that is not.
//
// Keys are only ever taken from the end: memberlist's RemoveKey shifts those
// behind the removed one in a slice that readers of packets may hold.
func setKeys(ring *memberlist.Keyring, want [][]byte) error {
	for _, key := range want {
		if err := ring.AddKey(key); err != nil {
			return err
		}
	}
	if err := ring.UseKey(want[0]); err != nil {
		return err
	}
	wanted := func(key []byte) bool {
		return slices.ContainsFunc(want, func(w []byte) bool { return bytes.Equal(w, key) })
	}
	have := ring.GetKeys()
	for i := len(have) - 1; i > 0 && !allOf(have[1:i+1], wanted); i-- {
		if err := ring.RemoveKey(have[i]); err != nil {
			return err
		}
	}
	for _, key := range want {
		if err := ring.AddKey(key); err != nil {
			return err
		}
	}
	return nil
}

func allOf(keys [][]byte, ok func([]byte) bool) bool {
	return !slices.ContainsFunc(keys, func(key []byte) bool { return !ok(key) })
}
