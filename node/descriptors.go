package node

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"syscall"
)

// otherDescriptors is about what a node opens beside its clients' connections:
// links, gossip, the log and its own files.
const otherDescriptors = 256

// warnOfDescriptors says that the process may not open as many files as the
// limits of a gateway allow clients to take.
func (n *node) warnOfDescriptors() {
	have, err := descriptors()
	need := uint64(n.cfg.Limits.Sessions) + uint64(n.cfg.Limits.AnonymousSessions) + uint64(n.cfg.Limits.Connections) + otherDescriptors
	if !n.cfg.Gateway || err != nil || have >= need {
		return
	}
	n.log.Warn("the process may open too few files for --max-sessions: raise its limit of open files (ulimit -Hn, LimitNOFILE= of systemd, nofile of a container), or lower --max-sessions",
		"limit", have, "needed", need, "max_sessions", n.cfg.Limits.Sessions)
}

// accepting is a listener that logs the errors of Accept, which servers keep to
// themselves while they try again.
type accepting struct {
	net.Listener
	log  *slog.Logger
	whom string // who connects
}

func (l accepting) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil && !errors.Is(err, net.ErrClosed) {
		told := err // servers look at the error itself
		if errors.Is(err, syscall.EMFILE) {
			if limit, failed := descriptors(); failed == nil {
				told = fmt.Errorf("%w: the process has all the %d files open that it may, raise the limit of open files or lower --max-sessions", err, limit)
			}
		}
		l.log.Warn("connections of "+l.whom+" can't be accepted at the moment", "error", told)
	}
	return conn, err
}
