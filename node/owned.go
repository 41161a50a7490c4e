package node

import (
	"fmt"
	"slices"
	"strings"

	"github.com/ganglion-es/ganglion/engine"
)

// An OwnedSegment is a segment of a build with the members that work on it: one, none if
// unknown, several for moments.
type OwnedSegment struct {
	SegmentState
	Owners []string `json:"owners"`

	waits []string // owners that do not follow the log, with the cause
	stops bool     // one of these causes is an engine.StopReason
}

// OwnedSegments returns segments without owners. AddOwner adds them.
func OwnedSegments(list []SegmentState) []OwnedSegment {
	owned := []OwnedSegment{}
	for _, s := range list {
		owned = append(owned, OwnedSegment{SegmentState: s, Owners: []string{}})
	}
	return owned
}

// AddOwner adds a member to the segments that it works on.
func AddOwner(list []OwnedSegment, member string, w ProjectionWork) {
	for _, one := range w.Segments {
		for i := range list {
			s := &list[i]
			if s.Projection != one.Projection || s.Build != one.Build || s.Segment != one.Segment {
				continue // of another one, or it began after the list was read
			}
			s.Owners = append(s.Owners, member)
			if one.Stopped != "" && !s.Paused {
				s.waits = append(s.waits, member+" waits: "+one.Stopped)
				s.stops = s.stops || slices.Contains(engine.StopReasons, engine.ProjectionRetry(one.Stopped))
			}
			break
		}
	}
}

// Stops reports whether the segment does not follow the log until an operator acts.
func (s OwnedSegment) Stops() bool { return s.Stopped != "" || s.stops }

// Describe returns the state of the segment in words.
func (s OwnedSegment) Describe() string {
	text := s.State
	switch {
	case s.Stopped != "":
		text = "stopped: " + s.Stopped
	case s.Paused:
		text += ", paused"
	}
	if s.Blocked > 0 {
		text += fmt.Sprintf(", blocked %d", s.Blocked)
	}
	return strings.Join(append([]string{text}, s.waits...), ", ")
}
