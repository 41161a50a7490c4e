package cluster

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"github.com/hashicorp/memberlist"
)

const (
	// keyBytes is the only accepted size of a key. memberlist also accepts 16 and
	// 24, which could be a key that was cut by mistake.
	keyBytes = 32

	// maxKeys bounds a keyring, since each packet of a stranger is decrypted with
	// every key.
	maxKeys = 16
)

// ErrOpen reports a call of SetKeys although gossip was started without keys:
// memberlist decides at its start whether it encrypts.
var ErrOpen = errors.New("cluster: gossip was started without keys: restart the node to use keys")

func checkKeys(keys [][]byte) error {
	if len(keys) > maxKeys {
		return fmt.Errorf("%d gossip keys are configured, at most %d are allowed: remove old ones", len(keys), maxKeys)
	}
	for _, key := range keys {
		if len(key) != keyBytes {
			return fmt.Errorf("the gossip key has %d bytes, %d are needed: make one with head -c %d /dev/urandom", len(key), keyBytes, keyBytes)
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

// SetKeys changes the keys of running gossip. Afterwards the first key encrypts
// and all keys decrypt. To replace a key without losing a member, do each of these
// steps on all nodes before the next step: add the new key after the old one; move
// it before the old one; remove the old one.
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

// setKeys makes a keyring hold exactly the keys of want.
//
// It removes keys only from the end, because memberlist's RemoveKey shifts the
// keys after the removed one in a slice that packet readers may hold. So wanted
// keys after an unwanted one are also removed, and added again immediately.
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
