//go:build !linux

package network

import "errors"

// Network is a set of hosts.
type Network struct{}

// New always fails: namespaces are Linux'.
func New([]string, []string) (*Network, error) {
	return nil, errors.New("network namespaces need Linux")
}

// Addr returns the address of a host.
func (*Network) Addr(string) string { return "" }

// On calls a function on a thread of the host.
func (*Network) On(string, func() error) error { return nil }

// Set makes a rule for packets of one host to another.
func (*Network) Set(string, string, Rule) {}

// Heal removes all rules.
func (*Network) Heal() {}

// Close ends the network.
func (*Network) Close() error { return nil }
