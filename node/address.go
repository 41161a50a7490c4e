package node

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"syscall"
)

const maxPort = 1<<16 - 1

func splitHostPort(addr string) (string, int, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return "", 0, errors.New("write HOST:PORT or :PORT")
	}
	p, err := strconv.Atoi(port)
	if err != nil || p < 0 || p > maxPort {
		return "", 0, fmt.Errorf("the port %q is not a number from 0 to %d", port, maxPort)
	}
	return host, p, nil
}

func isLoopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

// listen opens a port. Its error for a taken address names the flag to change,
// since a taken port is the most common mistake.
func (n *node) listen(clients, setting, addr string) (net.Listener, error) {
	l, err := net.Listen("tcp", addr)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("cannot listen for %s on %s: address already in use; stop the process that uses it, or choose another address with %s", clients, addr, setting)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot listen for %s: %w", clients, err)
	}
	return accepting{l, n.log, clients}, nil
}

// urlHost returns an address that a person on this machine can open.
func urlHost(addr net.Addr) string {
	h, port, _ := net.SplitHostPort(addr.String())
	if ip := net.ParseIP(h); ip != nil && ip.IsUnspecified() {
		h = "127.0.0.1"
	}
	return net.JoinHostPort(h, port)
}

// advertisedHost returns the host that Config.Advertise stands for.
func advertisedHost(host string) (string, error) {
	target, ok := strings.CutPrefix(host, "route:")
	if !ok {
		return host, nil
	}
	// Connecting a UDP socket sends nothing; it only consults the routing table. Any
	// port will do.
	conn, err := net.Dial("udp", net.JoinHostPort(target, "9"))
	if err != nil {
		return "", fmt.Errorf("this machine has no route to %s, which Advertise (--advertise) names: %w", target, err)
	}
	defer conn.Close()
	return conn.LocalAddr().(*net.UDPAddr).IP.String(), nil
}
