package cli

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/domain/aggregate"
)

func TestEmptyFolderIsNoLogToOperateOn(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, args := range [][]string{
		{"log", "accept-loss", "--yes"}, {"processor", "pause", "listings"}, {"group", "pause", "mailer"}, {"wake", "pause"}, {"verify"}, {"events"},
	} {
		root := newRoot(&program{catalog: new(aggregate.Catalog)})
		root.SetArgs(append(args, "--store", dir))
		if err := root.ExecuteContext(t.Context()); err == nil || !strings.Contains(err.Error(), "no log exists at "+dir) {
			t.Errorf("%q: %v", args, err)
		}
	}
	if list, err := os.ReadDir(dir); err != nil || len(list) > 0 {
		t.Errorf("the folder has %v, %v", list, err)
	}
}

func TestAcceptLossRequiresConfirmation(t *testing.T) {
	t.Parallel()
	for answer, accepted := range map[string]bool{"yes\n": true, " yes \n": true, "yes": true, "y\n": false, "\n": false, "": false, "no\n": false} {
		var asked strings.Builder
		err := confirm(strings.NewReader(answer), &asked, "Accept the loss?")
		if (err == nil) != accepted || asked.String() != "Accept the loss? Type yes: " {
			t.Errorf("the answer %q: %v after %q", answer, err, asked.String())
		}
		if err != nil && !strings.Contains(err.Error(), "nothing was changed") {
			t.Errorf("the answer %q: %v", answer, err)
		}
	}
	file, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var asked strings.Builder
	if err := confirm(file, &asked, "Accept the loss?"); err == nil || !strings.Contains(err.Error(), "--yes") || asked.Len() > 0 {
		t.Errorf("without a terminal: %v after %q", err, asked.String())
	}
	notice := lossNotice("b7", 10, time.Unix(0, 0))
	for _, want := range []string{"log b7 ends at position 10, stored at 1970-01-01T00:00:00Z", "Events after position 10 are given up", `"cursor_ahead"`} {
		if !strings.Contains(notice, want) {
			t.Errorf("%q is missing from\n%s", want, notice)
		}
	}
	if notice := lossNotice("b7", 0, time.Time{}); !strings.Contains(notice, "log b7 is empty.") {
		t.Errorf("for an empty log:\n%s", notice)
	}
}
