package cluster

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
)

// A node's metadata is sent with its gossip:
//
//	1 byte   version of the form, 1
//	8 bytes  boot
//	1 byte   roles: bit 0 domain, bit 1 gateway, bit 2 system commands
//	1 byte   state
//	8 bytes  ring signature
//	id, peer address, HTTP address: 1 byte length (address: 2) and the bytes
//	8 bytes  clock, in milliseconds ahead; 0 where it is missing
//	1 byte   problem; 0 where it is missing
//	version of the program: 1 byte length and the bytes; empty where it is missing
//	projections: 1 byte number and 4 bytes each; number 255 and no bytes for any;
//	none where they are missing
//
// Integers are big-endian and of fixed width, and a node's version never changes.
// So metadata that fits at the start always fits. A reader ignores bytes after
// the last field that it knows, so fields can be added at the end. Any other
// change needs a new version of the form, and older nodes leave a node with the
// new version out of their view.
const (
	metaVersion = 1
	metaClock   = 8
	metaLeast   = 1 + 8 + 1 + 1 + 8 + 1 + 2 + 2
	metaFixed   = metaLeast + metaClock + metaTail + metaSet
	metaTail    = 1 + 1 // the problem, and the length of the version
	metaSet     = 1     // the number of projections

	// metaMax is MetaMaxSize of memberlist, which panics past it.
	metaMax = 512

	// idMax keeps gossip messages small: each has its node's name.
	idMax = 128

	// versionMax bounds a version, in bytes.
	versionMax = 64
)

const (
	roleDomain = 1 << iota
	roleGateway
	roleSystem
)

// encodeMeta returns a new slice. The member must have passed validate.
func encodeMeta(m Member) []byte {
	b := make([]byte, 0, metaFixed+len(m.ID)+len(m.PeerAddr)+len(m.HTTPAddr)+len(m.Version))
	b = append(b, metaVersion)
	b = binary.BigEndian.AppendUint64(b, m.Boot)
	var roles byte
	if m.Domain {
		roles |= roleDomain
	}
	if m.Gateway {
		roles |= roleGateway
	}
	if m.System {
		roles |= roleSystem
	}
	b = append(b, roles, byte(m.State))
	b = binary.BigEndian.AppendUint64(b, m.Ring)
	b = append(b, byte(len(m.ID)))
	b = append(b, m.ID...)
	for _, a := range []string{m.PeerAddr, m.HTTPAddr} {
		b = binary.BigEndian.AppendUint16(b, uint16(len(a)))
		b = append(b, a...)
	}
	b = binary.BigEndian.AppendUint64(b, uint64(m.ClockMS))
	b = append(b, byte(m.Problem), byte(len(m.Version)))
	b = append(b, m.Version...)
	b = appendProjections(b, m.Projections)
	return append(b, metaNext...)
}

// metaNext is appended in builds for upgrade tests; else it is nil.
var metaNext []byte

var errMetaShort = errors.New("the metadata is cut short")

// decodeMeta decodes the metadata of another node, which may be arbitrary bytes.
// The member that it returns passes validate.
func decodeMeta(b []byte) (Member, error) {
	if len(b) == 0 {
		return Member{}, errors.New("there is no metadata: not a Ganglion node")
	}
	if b[0] != metaVersion {
		return Member{}, fmt.Errorf("the metadata has version %d, this program knows %d", b[0], metaVersion)
	}
	if len(b) < metaLeast {
		return Member{}, errMetaShort
	}
	m := Member{
		Boot:    binary.BigEndian.Uint64(b[1:]),
		Domain:  b[9]&roleDomain != 0,
		Gateway: b[9]&roleGateway != 0,
		System:  b[9]&roleSystem != 0,
		State:   State(b[10]),
		Ring:    binary.BigEndian.Uint64(b[11:]),
	}
	rest := b[19:]
	id, rest, ok := cut(rest[1:], int(rest[0]))
	if !ok {
		return Member{}, errMetaShort
	}
	m.ID = id
	for _, to := range []*string{&m.PeerAddr, &m.HTTPAddr} {
		if len(rest) < 2 {
			return Member{}, errMetaShort
		}
		*to, rest, ok = cut(rest[2:], int(binary.BigEndian.Uint16(rest)))
		if !ok {
			return Member{}, errMetaShort
		}
	}
	if len(rest) == 0 {
		return m, m.validate()
	}
	if len(rest) < metaClock {
		return Member{}, errMetaShort
	}
	m.ClockMS = int64(binary.BigEndian.Uint64(rest))
	if rest = rest[metaClock:]; len(rest) == 0 {
		return m, m.validate()
	}
	if len(rest) < metaTail {
		return Member{}, errMetaShort
	}
	m.Problem = Problem(rest[0])
	if m.Version, rest, ok = cut(rest[metaTail:], int(rest[1])); !ok {
		return Member{}, errMetaShort
	}
	if m.Projections, ok = cutProjections(rest); !ok {
		return Member{}, errMetaShort
	}
	return m, m.validate()
}

// fitVersion returns the member's version, cut to the room that the other fields
// leave in gossip, so that a node with long addresses can start.
func (m Member) fitVersion() string {
	room := min(versionMax, m.room())
	return m.Version[:max(0, min(room, len(m.Version)))]
}

// room is how many bytes the other fields leave for version and projections.
func (m Member) room() int {
	return metaMax - metaFixed - len(m.ID) - len(m.PeerAddr) - len(m.HTTPAddr) - len(metaNext)
}

func cut(b []byte, n int) (s string, rest []byte, ok bool) {
	if n > len(b) {
		return "", nil, false
	}
	return string(b[:n]), b[n:], true
}

// validate returns an error with every problem of a member. If it returns nil,
// the metadata fits and decodes to the same member.
func (m Member) validate() error {
	errs := []error{validateID(m.ID)}
	if m.State > Draining {
		errs = append(errs, fmt.Errorf("%v is unknown", m.State))
	}
	if m.PeerAddr != "" {
		errs = append(errs, validateAddr("peer address", m.PeerAddr))
	} else if m.Domain {
		errs = append(errs, errors.New("the peer address is missing: other nodes reach a domain node there"))
	}
	if m.HTTPAddr != "" {
		errs = append(errs, validateAddr("HTTP address", m.HTTPAddr))
	}
	if len(m.Version) > versionMax || strings.ContainsFunc(m.Version, func(r rune) bool { return r <= ' ' || r > '~' }) {
		errs = append(errs, fmt.Errorf("the version %q is invalid: at most %d printable ASCII characters are allowed", m.Version, versionMax))
	}
	errs = append(errs, validateProjections(m.Projections))
	if n := metaFixed + len(m.ID) + len(m.PeerAddr) + len(m.HTTPAddr); n+len(m.Version)+projectionBytes(m.Projections) > metaMax {
		errs = append(errs, fmt.Errorf("id, peer address and HTTP address have %d bytes together, at most %d fit into gossip: shorten them",
			n-metaFixed, metaMax-metaFixed))
	}
	return errors.Join(errs...)
}

func validateID(id string) error {
	if id == "" {
		return fmt.Errorf("the id is empty: use 1 to %d letters, digits, dots, - or _", idMax)
	}
	if len(id) > idMax {
		return fmt.Errorf("the id has %d bytes, at most %d are allowed", len(id), idMax)
	}
	for _, r := range id {
		if (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '_' && r != '.' {
			return fmt.Errorf("the id %q has the character %q: use letters, digits, dots, - and _", id, r)
		}
	}
	return nil
}

func validateAddr(what, addr string) error {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("the %s %q is not of the form host:port", what, addr)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return fmt.Errorf("the %s %q needs a port from 1 to 65535", what, addr)
	}
	if host == "" {
		return fmt.Errorf("the %s %q has no host", what, addr)
	}
	for _, r := range host {
		if r <= ' ' || r > '~' {
			return fmt.Errorf("the %s %q has the character %q in its host", what, addr, r)
		}
	}
	return nil
}
