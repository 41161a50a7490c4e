package e2e

import (
	"fmt"
	"testing"

	"github.com/ganglion-es/ganglion/test/harness"
)

// TestMetricsShowTheSizeOfTheLog reads what PostgreSQL reports about the log's table and
// its transaction ids from the metrics of a node.
func TestMetricsShowTheSizeOfTheLog(t *testing.T) {
	t.Parallel()
	c := startTrio(t, database(t))
	harness.Eventually(t, "the node has read the size", func() error {
		for _, name := range []string{"ganglion_store_database_bytes", "ganglion_store_log_bytes", "ganglion_store_transaction_age"} {
			if v := gauge(t, c.members[0].URLs[0], name); v <= 0 {
				return fmt.Errorf("%s is %v", name, v)
			}
		}
		return nil
	})
}
