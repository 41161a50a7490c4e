package browser

import (
	"context"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/heapprofiler"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"github.com/ganglion-es/ganglion/test/harness"
)

// TestConsoleTabStaysSmall shows the log and the overview for 10 minutes while 5,000
// events a second are stored, and compares the memory of the tabs with that after the
// first 2 minutes.
func TestConsoleTabStaysSmall(t *testing.T) {
	if os.Getenv("GANGLION_FAULTS") != "long" {
		t.Skip("takes 10 minutes: GANGLION_FAULTS=long runs it")
	}
	fast, err := harness.Build(t.TempDir(), false) // the race detector would allow a tenth of the events
	if err != nil {
		t.Fatal(err)
	}
	dev := harness.Start(t, fast, 1, "dev", "--listen", harness.FreeAddress(t), "--data", t.TempDir())
	tail, overview := open(t, dev.URLs[0]+console+"#/log"), open(t, dev.URLs[0]+console)
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Minute)
	defer cancel()
	load := exec.CommandContext(ctx, fast, "bench", "--url", dev.URLs[0], "--rate", "5000", "--duration", "11m", "--subscribers", "0", "--connections", "20")
	done := make(chan error, 1)
	go func() {
		out, err := load.CombinedOutput()
		t.Logf("%s", out)
		done <- err
	}()
	wait := func(d time.Duration) {
		t.Helper()
		select {
		case <-time.After(d):
		case err := <-done:
			t.Fatalf("the load ended early: %v", err)
		}
	}
	wait(2 * time.Minute)
	first := []float64{heap(tail), heap(overview)}
	wait(8 * time.Minute)
	for i, p := range []*page{tail, overview} {
		last := heap(p)
		t.Logf("tab %d: %.1f MB after 2 minutes, %.1f MB after 10", i+1, first[i]/1e6, last/1e6)
		if last > 1.2*first[i]+2e6 {
			t.Errorf("tab %d grows from %.0f to %.0f bytes", i+1, first[i], last)
		}
		p.wantConsole()
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// heap returns the bytes of the JavaScript objects of a page, after a garbage collection.
func heap(p *page) (bytes float64) {
	p.t.Helper()
	call(p, heapprofiler.CollectGarbage, cdp.Empty{})
	p.do(chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		usage, err := cdp.Call(ctx, t, runtime.GetHeapUsage, cdp.Empty{})
		bytes = usage.UsedSize
		return err
	}))
	return bytes
}
