package node

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"github.com/ganglion-es/ganglion/gateway/watched"
)

const (
	// gossipKeyBytes is the size of a key: AES-256.
	gossipKeyBytes = 32
	// gossipKeyFileMost bounds what is read of a file of keys, in bytes.
	gossipKeyFileMost = 64 << 10
	// gossipKeyCheck is how often the file is looked at.
	gossipKeyCheck = time.Second
)

// readGossipKeys reads a file of keys, one on each line.
func readGossipKeys(name string) ([][]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		var path *fs.PathError
		if errors.As(err, &path) {
			err = path.Err
		}
		return nil, fmt.Errorf("can't read the gossip keys in %s: %w", name, err)
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, gossipKeyFileMost+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("can't read the gossip keys in %s: %w", name, err)
	case len(raw) > gossipKeyFileMost:
		return nil, fmt.Errorf("%s is larger than %d bytes: that is no file of gossip keys", name, gossipKeyFileMost)
	}
	keys, err := parseGossipKeys(raw)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return keys, nil
}

func parseGossipKeys(raw []byte) ([][]byte, error) {
	var keys [][]byte
	for n, line := range slices.Collect(bytes.Lines(raw)) {
		line = bytes.TrimSpace(line)
		if len(line) == 0 {
			continue
		}
		key := parseGossipKey(string(line))
		switch {
		case key == nil && len(raw) == gossipKeyBytes:
			return [][]byte{raw}, nil // one, as it is
		case key == nil:
			return nil, fmt.Errorf("line %d is no gossip key of %d bytes: make one with 'head -c %d /dev/urandom | base64'", n+1, gossipKeyBytes, gossipKeyBytes)
		case slices.ContainsFunc(keys, func(k []byte) bool { return bytes.Equal(k, key) }):
			return nil, fmt.Errorf("the gossip key on line %d stands there twice", n+1)
		}
		keys = append(keys, key)
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("it has no gossip key: make one with 'head -c %d /dev/urandom | base64'", gossipKeyBytes)
	}
	return keys, nil
}

func parseGossipKey(text string) []byte {
	for _, decode := range []func(string) ([]byte, error){hex.DecodeString, base64.StdEncoding.DecodeString, base64.RawStdEncoding.DecodeString} {
		if key, err := decode(text); err == nil && len(key) == gossipKeyBytes {
			return key
		}
	}
	return nil
}

// gossipKeys are the keys of a file that is in use, and how they change.
type gossipKeys struct {
	file string
	set  func([][]byte) error
	log  *slog.Logger

	current atomic.Pointer[[][]byte]
	watched watched.Files
}

// watch looks at the file until ctx ends.
func (k *gossipKeys) watch(ctx context.Context) error {
	tick := time.NewTicker(gossipKeyCheck)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			k.look()
		}
	}
}

// look takes new keys over, if they are good.
func (k *gossipKeys) look() {
	old := *k.current.Load()
	keys, err := readGossipKeys(k.file)
	if err == nil && !k.watched.Bad() && slices.EqualFunc(keys, old, bytes.Equal) {
		return
	}
	if err == nil {
		err = k.set(keys)
	}
	warn, mended := k.watched.Read(err, time.Now())
	if err != nil {
		if warn {
			k.log.Warn("the changed gossip keys are not good: the ones from before stay in use, and a restart would fail", "error", err)
		}
		return
	}
	k.current.Store(&keys)
	names := keyNames(keys)
	if mended {
		k.log.Info("the gossip keys are good again and in use", "keys", names)
	}
	if !slices.ContainsFunc(old, func(o []byte) bool { return bytes.Equal(o, keys[0]) }) {
		k.log.Warn("the first gossip key is one that was not there before: nodes that lack it don't understand this one", "keys", names)
		return
	}
	if !slices.EqualFunc(keys, old, bytes.Equal) {
		k.log.Info("read new gossip keys", "keys", names)
	}
}

// keyNames are names by which people can compare keys: the beginnings of
// their SHA-256, which say nothing of a key that was made at random.
func keyNames(keys [][]byte) []string {
	names := make([]string, len(keys))
	for i, key := range keys {
		sum := sha256.Sum256(key)
		names[i] = hex.EncodeToString(sum[:4])
	}
	return names
}
