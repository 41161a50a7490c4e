package live

import (
	"encoding/json"
	"strconv"
	"sync"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/proto/ask"
)

// maxCache bounds the encoded rows, in bytes.
const maxCache = 16 << 20

// entryCost is what an entry of the cache costs besides its texts.
const entryCost = 160

// A tailKey names the encoded form of a row, which depends on the order by its
// rank. Builds are numbered for all projections together. A mend can change a row
// at the position of its last event, so the data's digest is part of the name.
type tailKey struct {
	build    int64
	order    int
	key      string
	position eventstore.Position
	digest   uint32
}

// tailKey names the row's encoded form in a question's order.
func (f form) tailKey(build int64, order int) tailKey {
	return tailKey{build: build, order: order, key: f.row.key, position: f.position, digest: f.digest}
}

// A cache has encoded rows, the most recently used ones. It is safe for
// concurrent use.
type cache struct {
	most int // bytes

	mu   sync.Mutex
	lru  *simplelru.LRU[tailKey, []byte]
	size int
}

func newCache(most int) *cache {
	c := &cache{most: most}
	c.lru, _ = simplelru.NewLRU(most/entryCost, func(k tailKey, tail []byte) { c.size -= costOf(k, tail) }) // the size is positive
	return c
}

func costOf(k tailKey, tail []byte) int { return len(k.key) + len(tail) + entryCost }

func (c *cache) get(k tailKey) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	tail, _ := c.lru.Get(k)
	return tail
}

// clear empties the cache: positions will be used again, for other events.
func (c *cache) clear() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lru.Purge()
	c.size = 0
}

func (c *cache) has(k tailKey) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lru.Contains(k)
}

func (c *cache) put(k tailKey, tail []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.lru.Contains(k) {
		return
	}
	c.lru.Add(k, tail)
	for c.size += costOf(k, tail); c.size > c.most; {
		c.lru.RemoveOldest()
	}
}

func (c *cache) bytes() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return int64(c.size)
}

// rowTail encodes a row as the members of an update.
func rowTail(key, rank string, p eventstore.Position, data json.RawMessage) []byte {
	b := make([]byte, 0, len(key)+len(rank)+len(data)+64)
	b = appendString(append(b, `"key":`...), key)
	b = appendString(append(b, `,"rank":`...), rank)
	b = strconv.AppendUint(append(b, `,"position":`...), uint64(p), 10)
	b = append(append(b, `,"data":`...), data...)
	return append(b, '}')
}

func appendString(b []byte, text string) []byte {
	quoted, err := json.Marshal(text)
	if err != nil {
		panic(err) // a string
	}
	return append(b, quoted...)
}

func gonePart(key string) ask.Part {
	return ask.Part{Op: "update", Tail: append(appendString([]byte(`"key":`), key), `,"gone":true}`...)}
}

func resetPart(reason string) ask.Part {
	return ask.Part{Op: "reset", Tail: append(appendString([]byte(`"reason":`), reason), '}')}
}

func keysPart(entries []entry) ask.Part {
	b := []byte(`"keys":[`)
	for i, e := range entries {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendString(b, e.row.key)
	}
	return ask.Part{Op: "keys", Tail: append(b, "]}"...)}
}

// closingTail is that of live and synced.
func closingTail(cursor string, p eventstore.Position, blocked int) []byte {
	b := appendString([]byte(`"cursor":`), cursor)
	b = strconv.AppendUint(append(b, `,"position":`...), uint64(p), 10)
	if blocked > 0 {
		b = strconv.AppendInt(append(b, `,"blocked":`...), int64(blocked), 10)
	}
	return append(b, '}')
}

// A page collects the rows of a state.
type page struct{ tail []byte }

func (p *page) add(row []byte) {
	if p.tail == nil {
		p.tail = append(make([]byte, 0, len(row)*4), `"rows":[`...)
	} else {
		p.tail = append(p.tail, ',')
	}
	p.tail = append(append(p.tail, '{'), row...)
}

func (p *page) part(more bool) ask.Part {
	tail := p.tail
	if tail == nil {
		tail = []byte(`"rows":[`)
	}
	tail = strconv.AppendBool(append(tail, `],"more":`...), more)
	p.tail = nil
	return ask.Part{Op: "state", Tail: append(tail, '}')}
}
