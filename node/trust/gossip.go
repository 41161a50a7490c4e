package trust

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
	// maxGossipKeyFile bounds the size of a file of keys, in bytes.
	maxGossipKeyFile = 64 << 10
	// gossipKeyInterval is how often the file is read again.
	gossipKeyInterval = time.Second
)

// GossipKeys are the keys of a file. A nil *GossipKeys has none. Its methods are
// safe for concurrent use.
type GossipKeys struct {
	file string
	log  *slog.Logger

	current atomic.Pointer[[][]byte]
	watched watched.Files
}

// OpenGossipKeys reads a file of keys: 32 bytes each, as hex or base64, one per
// line, or a single key as raw bytes. The first encrypts, all decrypt. It returns
// nil for the name "".
func OpenGossipKeys(file string, log *slog.Logger) (*GossipKeys, error) {
	if file == "" {
		return nil, nil
	}
	keys, err := readGossipKeys(file)
	if err != nil {
		return nil, err
	}
	k := &GossipKeys{file: file, log: log}
	k.current.Store(&keys)
	return k, nil
}

// Current returns the keys in use, the encrypting one first.
func (k *GossipKeys) Current() [][]byte {
	if k == nil {
		return nil
	}
	return *k.current.Load()
}

// Names returns names by which people can compare the keys in use: the first 4
// bytes of their SHA-256, which reveal nothing about a random key.
func (k *GossipKeys) Names() []string {
	keys := k.Current()
	names := make([]string, len(keys))
	for i, key := range keys {
		sum := sha256.Sum256(key)
		names[i] = hex.EncodeToString(sum[:4])
	}
	return names
}

// Bad reports whether the newest content of the file is invalid, so that earlier
// content is in use.
func (k *GossipKeys) Bad() bool { return k.watched.Bad() }

// Watch reads the file every second until ctx ends, and calls use with changed keys.
// Keys that are invalid, or that use rejects, change nothing.
func (k *GossipKeys) Watch(ctx context.Context, use func([][]byte) error) error {
	return watched.Watch(ctx, gossipKeyInterval, func() { k.look(use) })
}

func (k *GossipKeys) look(use func([][]byte) error) {
	old := k.Current()
	keys, err := readGossipKeys(k.file)
	if err == nil && !k.watched.Bad() && slices.EqualFunc(keys, old, bytes.Equal) {
		return
	}
	if err == nil {
		err = use(keys)
	}
	warn, mended := k.watched.Record(err, time.Now())
	if err != nil {
		if warn {
			k.log.Warn("the changed gossip keys are invalid: the earlier ones stay in use, and a restart would fail", "err", err)
		}
		return
	}
	k.current.Store(&keys)
	if mended {
		k.log.Info("the gossip keys are valid again and in use", "keys", k.Names())
	}
	if !slices.ContainsFunc(old, func(o []byte) bool { return bytes.Equal(o, keys[0]) }) {
		k.log.Warn("the first gossip key is new: nodes that lack it cannot read this node's gossip", "keys", k.Names())
		return
	}
	if !slices.EqualFunc(keys, old, bytes.Equal) {
		k.log.Info("read new gossip keys", "keys", k.Names())
	}
}

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
	raw, err := io.ReadAll(io.LimitReader(f, maxGossipKeyFile+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("can't read the gossip keys in %s: %w", name, err)
	case len(raw) > maxGossipKeyFile:
		return nil, fmt.Errorf("%s is larger than %d bytes, the limit of a file of gossip keys", name, maxGossipKeyFile)
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
			return [][]byte{raw}, nil // a single raw key
		case key == nil:
			return nil, fmt.Errorf("line %d is not a gossip key of %d bytes: make one with 'head -c %d /dev/urandom | base64'", n+1, gossipKeyBytes, gossipKeyBytes)
		case slices.ContainsFunc(keys, func(k []byte) bool { return bytes.Equal(k, key) }):
			return nil, fmt.Errorf("line %d repeats a gossip key", n+1)
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
