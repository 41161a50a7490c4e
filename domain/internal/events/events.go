// Package events looks up which stored events the handlers of a model take. The
// programming models that fold events share it.
package events

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"sort"
	"strings"

	"github.com/ganglion-es/ganglion/domain/aggregate"
)

// An Index has the indices of the handlers of each event.
type Index map[aggregate.EventName][]int

// Lookup returns the index of handlers that take events of these Go types. It
// reports the types that no aggregate of the catalog registers.
func Lookup(c *aggregate.Catalog, handlers []reflect.Type) (x Index, problems []error) {
	x = Index{}
	for i, t := range handlers {
		names := c.EventsOf(t)
		if len(names) == 0 {
			problems = append(problems, fmt.Errorf("handler %d takes a %v, which no aggregate of the catalog registers as an event", i+1, t))
		}
		for _, name := range names {
			x[name] = append(x[name], i)
		}
	}
	return x, problems
}

// Names returns the events, sorted.
func (x Index) Names() []aggregate.EventName {
	names := slices.Collect(maps.Keys(x))
	sort.Slice(names, func(i, j int) bool { return names[i].String() < names[j].String() })
	return names
}

// Types returns the aggregate types of the events, sorted.
func (x Index) Types() []string {
	types := map[string]bool{}
	for name := range x {
		types[name.Type] = true
	}
	return slices.Sorted(maps.Keys(types))
}

// Describe writes the stored forms of events, for a fingerprint.
func (x Index) Describe(b *strings.Builder, c *aggregate.Catalog) {
	for _, name := range x.Names() {
		def, _ := c.Type(name.Type)
		fmt.Fprintf(b, " event %s %s %d ", name.Type, name.Event, def.Form(name.Event))
		def.DescribeEvent(b, name.Event)
	}
}

// Digest returns the fingerprint of a description.
func Digest(description string) string {
	sum := sha256.Sum256([]byte(description))
	return hex.EncodeToString(sum[:16])
}

// Decode makes an event of its stored form, as its aggregate's definition does. The
// error wraps aggregate.ErrUnknownEvent for an event of a newer program.
func Decode(c *aggregate.Catalog, name aggregate.EventName, form int, data json.RawMessage) (any, error) {
	def, ok := c.Type(name.Type)
	if !ok {
		return nil, fmt.Errorf("%w: there is no aggregate type %q", aggregate.ErrUnknownEvent, name.Type)
	}
	return def.DecodeEvent(name.Event, form, data)
}
