package transport

import "fmt"

// versionHeader has, on each request, the versions of the protocol between nodes that
// the caller speaks, as "2-3". A call without it, such as an operator's with curl, speaks
// all.
const versionHeader = "Ganglion-Peer"

// Versions are the versions that a program speaks, from Oldest to Newest.
//
// A new member in a message needs no new version, since older programs ignore it.
// A new version is for a change that they must not ignore. The release that
// introduces a version also speaks the one before, so that both releases run
// side by side. A later release can drop the older version.
//
// Version 1 was gRPC, of the release 0.1.0.
type Versions struct{ Oldest, Newest int }

// spoken are the versions of this program.
var spoken = Versions{2, 2}

func (v Versions) String() string { return fmt.Sprintf("%d-%d", v.Oldest, v.Newest) }

// agree returns the newest version that both speak. ok is false if they share
// none.
func (v Versions) agree(other Versions) (version int, ok bool) {
	version = min(v.Newest, other.Newest)
	return version, version >= max(v.Oldest, other.Oldest)
}

// refuse returns an error for a caller without a common version.
func (v Versions) refuse(header string) error {
	theirs := v
	if header != "" {
		if n, err := fmt.Sscanf(header, "%d-%d", &theirs.Oldest, &theirs.Newest); n != 2 || err != nil {
			theirs = Versions{} // no program speaks version 0
		}
	}
	if _, ok := v.agree(theirs); ok {
		return nil
	}
	return Errorf(FailedPrecondition, "this node speaks versions %v of the protocol between nodes, the caller %v: upgrade through a release that speaks both", v, theirs)
}
