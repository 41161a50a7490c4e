//go:build !linux

package network

import "errors"

// Network is a set of hosts.
type Network struct{}

// New always fails, since namespaces need Linux.
func New([]string, []string) (*Network, error) {
	return nil, errors.New("network namespaces need Linux")
}

// Addr returns the address of a host.
func (*Network) Addr(string) string { return "" }

// On calls f on a thread of the host.
func (*Network) On(string, func() error) error { return nil }

// Set sets the rule for packets from one host to another.
func (*Network) Set(string, string, Rule) {}

// Heal removes all rules.
func (*Network) Heal() {}

// Close removes the network.
func (*Network) Close() error { return nil }
