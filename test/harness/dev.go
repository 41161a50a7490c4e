package harness

import (
	"context"
	"testing"
)

// Serve runs nodes in this process until stop is called or the test ends. It
// returns their URLs when all nodes are ready. If run returns an error, the test
// fails.
func Serve(t *testing.T, nodes int, run func(ctx context.Context, ready func(url string)) error) (urls []string, stop func()) {
	t.Helper()
	t.TempDir() // so that the directories that run makes are removed after the nodes have stopped
	ctx, cancel := context.WithCancel(context.Background())
	ready, ended := make(chan string, nodes), make(chan struct{})
	go func() {
		defer close(ended)
		if err := run(ctx, func(url string) { ready <- url }); err != nil {
			t.Error(err)
		}
	}()
	stop = func() { cancel(); <-ended }
	t.Cleanup(stop)
	for range nodes {
		select {
		case url := <-ready:
			urls = append(urls, url)
		case <-ended:
			t.Fatal("the nodes ended before they were ready")
		}
	}
	return urls, stop
}
