package cli

import (
	"math"
	"strings"
	"testing"

	"github.com/ganglion-es/ganglion/cli/internal/loadgen"
)

func TestBenchRejectsRatesOutsideBounds(t *testing.T) {
	t.Parallel()
	for rate, good := range map[float64]bool{0: false, -1: false, 1e-12: false, math.Inf(1): false, math.NaN(): false, 0.5: true, 2000: true} {
		err := benchCmd{Config: loadgen.Config{Duration: 1, Rate: rate, Connections: 1, Aggregates: 1, Timeout: 1}, Data: "{}"}.validate()
		if (err == nil) != good || err != nil && !strings.Contains(err.Error(), "--rate is") {
			t.Errorf("a rate of %v: %v", rate, err)
		}
	}
}
