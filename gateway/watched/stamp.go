package watched

import (
	"io/fs"
	"os"
	"time"
)

// settledAfter is the age that a file must have when it is read. Then an equal
// time and size prove later that its content is the same. For a younger file they
// do not: two writes in the same tick of the file system's clock have the same
// time.
const settledAfter = 2 * time.Second

// Stamp records the times and sizes of files that were read. The zero value stands
// for no files.
type Stamp struct {
	infos []fs.FileInfo
	at    time.Time
}

// NewStamp returns the stamp of files that were read at the given time.
func NewStamp(at time.Time, infos ...fs.FileInfo) Stamp { return Stamp{infos, at} }

// IsSame reports whether the files still have the times and sizes of the stamp. If
// the stamp is settled, their content is the same too.
func (s Stamp) IsSame(infos ...fs.FileInfo) bool {
	if len(infos) != len(s.infos) {
		return false
	}
	for i, info := range infos {
		old := s.infos[i]
		if old == nil || !os.SameFile(old, info) || !old.ModTime().Equal(info.ModTime()) || old.Size() != info.Size() {
			return false
		}
	}
	return true
}

// IsSettled reports whether the files were at least two seconds old when they
// were read. If not, a later write may have changed neither time nor size.
func (s Stamp) IsSettled() bool {
	for _, info := range s.infos {
		if info == nil || s.at.Sub(info.ModTime()) < settledAfter {
			return false
		}
	}
	return len(s.infos) > 0
}
