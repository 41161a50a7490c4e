package consumer

import (
	"github.com/ganglion-es/ganglion/gateway/internal/history"
	"github.com/ganglion-es/ganglion/proto/command"
	"github.com/ganglion-es/ganglion/proto/frame"
)

// This file has what clients over HTTP need besides Next.

// SetWindow changes how many unacknowledged events of each segment the member may have.
func (m *Member) SetWindow(n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.request.Window = n
}

// Held returns the segments that the member has been assigned, in the order of the log.
func (m *Member) Held() (list []frame.Held) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range m.inOrder() {
		if s.isAnnounced {
			list = append(list, frame.Held{Segment: s.Name, Epoch: s.Epoch, Cursor: history.Cursor(s.holding.Position), IsRevoking: s.isRevoking})
		}
	}
	return list
}

// End ends the membership. Next returns the failure from then on.
func (m *Member) End(failure *command.Failure) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.end(failure)
}

// HasEnded reports whether the membership has ended.
func (m *Member) HasEnded() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.isClosed
}
