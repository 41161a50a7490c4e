// Package ports reserves TCP and UDP ports for servers of tests that must know
// their port before they start, or keep it when they start again.
//
// A port that the system chooses and that is free while its server is down goes to
// any process that asks for a free port next. These ports are below the range from
// which Linux and macOS choose, and processes that use this package share none.
package ports

import (
	"errors"
	"fmt"
	"net"
	"sync"
)

const (
	lowest  = 10_000
	highest = 32_700 // Linux chooses from 32,768 on
	block   = 100    // ports that a process takes together
)

var reserved struct {
	sync.Mutex
	next, end int
	guards    []net.Listener // on the first port of each block, until the process ends
}

// Reserve returns the first of n consecutive ports of 127.0.0.1 that were free when
// it looked, and that no later call returns, in this process or in another one. n
// is at most 10. It is safe for concurrent use.
func Reserve(n int) (int, error) {
	r := &reserved
	r.Lock()
	defer r.Unlock()
	for {
		if r.next+n > r.end {
			if err := takeBlock(); err != nil {
				return 0, err
			}
		}
		first := r.next
		r.next += n
		if areFree(first, n) {
			return first, nil
		}
	}
}

// takeBlock takes a block that no process has. Another process finds its first port
// in use.
func takeBlock() error {
	r := &reserved
	from := lowest
	if r.end > 0 {
		from = r.end
	}
	for first := from; first+block <= highest; first += block {
		guard, err := net.Listen("tcp", address(first))
		if err != nil {
			continue
		}
		r.guards = append(r.guards, guard)
		r.next, r.end = first+1, first+block
		return nil
	}
	return errors.New("all ports for tests are in use: end the tests that run in other processes")
}

func areFree(first, n int) bool {
	for port := first; port < first+n; port++ {
		tcp, err := net.Listen("tcp", address(port))
		if err != nil {
			return false
		}
		udp, err := net.ListenPacket("udp", address(port))
		tcp.Close()
		if err != nil {
			return false
		}
		udp.Close()
	}
	return true
}

func address(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }
