package console

import (
	"encoding/json"
	"slices"
	"sync"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
)

const (
	// keptStates and keptBytes bound the states that are kept for later requests, the
	// ones that were used last.
	keptStates, keptBytes = 64, 32 << 20
	// keptFor is how long states are kept after the last request.
	keptFor = 2 * time.Minute
)

// keptState is the state of an aggregate at a version.
type keptState struct {
	log     string
	id      eventstore.StreamID
	version uint64
	state   json.RawMessage
}

// keeper keeps states, so that the next page of a stream does not begin without events.
type keeper struct {
	mu    sync.Mutex
	list  []keptState // the one that was used last is the last
	bytes int
	clear *time.Timer // nil while the list is empty
}

// find returns the newest state of an aggregate up to a version, or nil.
func (k *keeper) find(log string, id eventstore.StreamID, upTo uint64) (state json.RawMessage, version uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	best := -1
	for i, s := range k.list {
		if s.log == log && s.id == id && s.version <= upTo && (best < 0 || s.version > k.list[best].version) {
			best = i
		}
	}
	if best < 0 {
		return nil, 0
	}
	s := k.list[best]
	k.list = append(slices.Delete(k.list, best, best+1), s)
	return s.state, s.version
}

func (k *keeper) add(log string, id eventstore.StreamID, version uint64, state json.RawMessage) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.clear == nil {
		k.clear = time.AfterFunc(keptFor, k.forget)
	}
	k.clear.Reset(keptFor)
	if slices.ContainsFunc(k.list, func(s keptState) bool { return s.log == log && s.id == id && s.version == version }) {
		return
	}
	k.list = append(k.list, keptState{log, id, version, state})
	k.bytes += len(state)
	drop := 0
	for len(k.list)-drop > keptStates || k.bytes > keptBytes && drop < len(k.list) {
		k.bytes -= len(k.list[drop].state)
		drop++
	}
	k.list = slices.Delete(k.list, 0, drop)
}

func (k *keeper) forget() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.list, k.bytes, k.clear = nil, 0, nil
}
