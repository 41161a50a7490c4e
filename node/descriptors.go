package node

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"syscall"
)

// otherDescriptors estimates the descriptors that a node needs besides its clients'
// connections: for links, gossip, the log and its files.
const otherDescriptors = 256

// warnOfDescriptors logs if the process may open fewer files than the limits of the
// gateway need.
func (n *node) warnOfDescriptors() {
	have, err := descriptors()
	need := uint64(n.cfg.Limits.Sessions) + uint64(n.cfg.Limits.AnonymousSessions) + uint64(n.cfg.Limits.Connections) + otherDescriptors
	if !n.cfg.Gateway || err != nil || have >= need {
		return
	}
	n.log.Warn("the process may open too few files for its limit of sessions: raise its limit of open files (ulimit -Hn, LimitNOFILE= of systemd, nofile of a container), or lower Limits.Sessions (--max-sessions)",
		"limit", have, "needed", need, "max_sessions", n.cfg.Limits.Sessions)
}

// accepting is a listener that logs errors of Accept. Servers retry after such an
// error without reporting it.
type accepting struct {
	net.Listener
	log     *slog.Logger
	clients string // the kind of clients, for log lines
}

func (l accepting) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil && !errors.Is(err, net.ErrClosed) {
		logged := err // the server needs the original error
		if errors.Is(err, syscall.EMFILE) {
			if limit, failed := descriptors(); failed == nil {
				logged = fmt.Errorf("%w: the process has reached its limit of %d open files; raise the limit, or lower Limits.Sessions (--max-sessions)", err, limit)
			}
		}
		l.log.Warn("connections of "+l.clients+" can't be accepted at the moment", "err", logged)
	}
	return conn, err
}
