package node

import (
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ganglion-es/ganglion/gateway"
)

// TestMetricsShowEveryLimit compares the fields of gateway.Limits with the labels
// of ganglion_limit. The limit on the time to a hello is a duration, and has none.
func TestMetricsShowEveryLimit(t *testing.T) {
	t.Parallel()
	n := &node{gateway: new(gateway.Gateway), connections: gateway.NewConnections(1)}
	metrics := prometheus.NewRegistry()
	n.limitMetrics(registry{metrics})
	families, err := metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	shown := map[string]bool{}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			for _, label := range m.GetLabel() {
				shown[label.GetValue()] = true
			}
		}
	}
	capitals := regexp.MustCompile(`(.)([A-Z])`)
	for field := range reflect.TypeFor[gateway.Limits]().Fields() {
		name := strings.ToLower(capitals.ReplaceAllString(field.Name, "${1}_$2"))
		if field.Type.Kind() == reflect.Int && !shown[name] {
			t.Errorf("ganglion_limit does not show %s: add it to limitMetrics", name)
		}
	}
}
