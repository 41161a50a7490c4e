package cluster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/go-sockaddr"
	"github.com/hashicorp/memberlist"
)

// DefaultPort is the gossip port of a seed that names none.
const DefaultPort = 7946

// Config configures a Cluster.
type Config struct {
	// ID is the node's name: unique in the cluster, and the same after a restart.
	// It has 1 to 128 letters, digits, dots, - or _. Required.
	ID string

	// Cluster is the name of the cluster. Only nodes with the same cluster name
	// join each other. It has 1 to 64 printable ASCII characters. Required.
	Cluster string

	// BindAddr is the address that gossip listens on, with TCP and UDP.
	//
	// Defaults to all addresses.
	BindAddr string
	// BindPort is its port; 0: a free one.
	BindPort int

	// AdvertiseAddr is the address at which other nodes reach this one, if it
	// differs from BindAddr, as behind NAT or in a container. A host name is
	// resolved once.
	//
	// Defaults to BindAddr, or to the machine's private address if BindAddr means
	// all addresses.
	AdvertiseAddr string
	// AdvertisePort defaults to the port that gossip listens on.
	AdvertisePort int

	// Join lists seeds: host or host:port of nodes that may be running. The node
	// tries seeds that it does not see for as long as it runs. Each time it
	// resolves their names again and tries all addresses. The node itself may be
	// a seed. Without seeds it waits until others join it.
	Join []string

	// Keys encrypt and authenticate gossip with AES-256: at most 16 keys of 32
	// bytes. The first encrypts what this node sends; each decrypts what it
	// receives. [Cluster.SetKeys] changes them. Without keys any program that
	// reaches the port can join.
	Keys [][]byte

	// Self is the member that this node announces. New sets its ID to Config.ID.
	// Its Boot defaults to the current time. If an address has no host, such as
	// ":9080", or has the host 0.0.0.0 or ::, its host becomes AdvertiseAddr or
	// its default.
	Self Member

	// Logger defaults to one that discards everything.
	Logger *slog.Logger

	// Transport replaces the network in tests. BindAddr, BindPort, AdvertiseAddr
	// and AdvertisePort are then ignored. The Cluster shuts it down, even if New
	// fails.
	Transport memberlist.Transport

	// lookup resolves a host name.
	lookup func(ctx context.Context, host string) ([]netip.Addr, error)
}

func (c Config) withDefaults() (Config, error) {
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf("cluster: "+format, args...)) }

	if c.Self.ID != "" && c.Self.ID != c.ID {
		fail("Self.ID is %q, ID is %q: leave Self.ID empty", c.Self.ID, c.ID)
	}
	c.Self.ID = c.ID
	if err := validateID(c.ID); err != nil {
		fail("%w", err)
	}
	if n := len(c.Cluster); n < 1 || n > 64 {
		fail("the cluster's name has %d bytes: use 1 to 64 printable ASCII characters", n)
	}
	for _, r := range c.Cluster {
		if r < ' ' || r > '~' {
			fail("the cluster's name %q has the character %q: use printable ASCII characters", c.Cluster, r)
			break
		}
	}
	if err := checkKeys(c.Keys); err != nil {
		fail("%w", err)
	}
	for _, p := range []struct {
		what string
		port int
	}{{"BindPort", c.BindPort}, {"AdvertisePort", c.AdvertisePort}} {
		if p.port < 0 || p.port > 65535 {
			fail("%s is %d: use a port from 0 to 65535", p.what, p.port)
		}
	}
	for _, s := range c.Join {
		if _, err := parseSeed(s); err != nil {
			fail("%w", err)
		}
	}
	c.Self.Boot = cmp.Or(c.Self.Boot, uint64(time.Now().UnixNano()))
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.lookup == nil {
		c.lookup = func(ctx context.Context, host string) ([]netip.Addr, error) {
			return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		}
	}
	return c, errors.Join(errs...)
}

// seed is an address at which a node of the cluster may be found.
type seed struct {
	name string // as configured
	host string
	port uint16
}

func parseSeed(s string) (seed, error) {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		if _, ipErr := netip.ParseAddr(s); ipErr != nil && strings.ContainsAny(s, ":[]") {
			return seed{}, fmt.Errorf("the seed %q is not of the form host or host:port", s)
		}
		host, port = s, strconv.Itoa(DefaultPort)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return seed{}, fmt.Errorf("the seed %q needs a port from 1 to 65535", s)
	}
	if host == "" {
		return seed{}, fmt.Errorf("the seed %q has no host", s)
	}
	return seed{name: s, host: host, port: uint16(n)}, nil
}

// resolveTimeout bounds every lookup of a name.
const resolveTimeout = 2 * time.Second

// resolve returns all addresses of a host, without repetitions.
func (c *Config) resolve(ctx context.Context, host string) ([]netip.Addr, error) {
	if ip, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{ip.Unmap()}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, resolveTimeout)
	defer cancel()
	ips, err := c.lookup(ctx, host)
	if err != nil {
		return nil, err
	}
	for i := range ips {
		ips[i] = ips[i].Unmap()
	}
	return ips, nil
}

// resolveOne returns one address of a host, preferably IPv4.
func (c *Config) resolveOne(host string) (netip.Addr, error) {
	ips, err := c.resolve(context.Background(), host)
	if err != nil {
		return netip.Addr{}, err
	}
	for _, ip := range ips {
		if ip.Is4() {
			return ip, nil
		}
	}
	if len(ips) == 0 {
		return netip.Addr{}, fmt.Errorf("%s has no address", host)
	}
	return ips[0], nil
}

// addresses returns the address to listen on (the zero Addr means all, IPv6 and
// IPv4) and the address to advertise.
func (c *Config) addresses() (bind, advertise netip.Addr, err error) {
	if c.BindAddr != "" {
		if bind, err = c.resolveOne(c.BindAddr); err != nil {
			return bind, advertise, fmt.Errorf("cluster: the gossip address %q: %w", c.BindAddr, err)
		}
		if bind == netip.IPv6Unspecified() {
			bind = netip.Addr{}
		}
	}
	if c.AdvertiseAddr != "" {
		if advertise, err = c.resolveOne(c.AdvertiseAddr); err != nil {
			return bind, advertise, fmt.Errorf("cluster: the advertised address %q: %w", c.AdvertiseAddr, err)
		}
		if advertise.IsUnspecified() {
			return bind, advertise, fmt.Errorf("cluster: the advertised address %q is not an address that other nodes can reach", c.AdvertiseAddr)
		}
		return bind, advertise, nil
	}
	if bind.IsValid() && !bind.IsUnspecified() {
		return bind, bind, nil
	}
	if advertise, err = privateAddr(); err == nil && bind.Is4() && !advertise.Is4() {
		err = fmt.Errorf("its private address %s cannot be reached through %s", advertise, bind)
	}
	if err != nil {
		return bind, advertise, fmt.Errorf("cluster: the machine has no private address to advertise: set the advertised address (%w)", err)
	}
	return bind, advertise, nil
}

// privateAddr returns the private address of the interface that the default
// route uses.
func privateAddr() (netip.Addr, error) {
	ip, err := sockaddr.GetPrivateIP()
	if err != nil {
		return netip.Addr{}, err
	}
	if ip == "" {
		return netip.Addr{}, errors.New("no private address found")
	}
	return netip.ParseAddr(ip)
}

// withHost returns addr with host as its host, unless addr names another one.
func withHost(addr, host string) string {
	h, port, err := net.SplitHostPort(addr)
	if err != nil {
		return addr // validate reports the error
	}
	if ip, err := netip.ParseAddr(h); h == "" || err == nil && ip.IsUnspecified() {
		return net.JoinHostPort(host, port)
	}
	return addr
}
