package watched_test

import (
	"errors"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/gateway/watched"
)

func TestWarningOfInvalidFilesIsRepeated(t *testing.T) {
	t.Parallel()
	var f watched.Files
	begun, bad := time.Now(), errors.New("half-written")
	for _, step := range []struct {
		after        time.Duration
		err          error
		warn, mended bool
	}{
		{0, nil, false, false},
		{time.Second, bad, true, false},
		{2 * time.Second, bad, false, false},
		{watched.RepeatAfter, bad, false, false},
		{watched.RepeatAfter + time.Second, bad, true, false},
		{watched.RepeatAfter + 2*time.Second, bad, false, false},
		{watched.RepeatAfter + 3*time.Second, nil, false, true},
		{watched.RepeatAfter + 4*time.Second, nil, false, false},
		{watched.RepeatAfter + 5*time.Second, bad, true, false}, // a new failure is reported immediately
	} {
		warn, mended := f.Record(step.err, begun.Add(step.after))
		if warn != step.warn || mended != step.mended || f.Bad() != (step.err != nil) {
			t.Errorf("after %v: warns %v, mended %v, bad %v; want %v, %v, %v", step.after, warn, mended, f.Bad(), step.warn, step.mended, step.err != nil)
		}
	}
}
