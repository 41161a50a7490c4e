package node_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"testing"

	"github.com/ganglion-es/ganglion/domain/projection"
	"github.com/ganglion-es/ganglion/node"
	"github.com/ganglion-es/ganglion/test/harness"
)

type levelRow struct {
	Verdicts int `json:"verdicts"`
}

// clusterWork returns what /v1/cluster says of the members' work on projections.
func clusterWork(t *testing.T, url, query string) (status node.ClusterStatus) {
	t.Helper()
	resp, err := harness.HTTP.Get(url + "/v1/cluster" + query)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(&status); err != nil {
		t.Fatal(err)
	}
	return status
}

func TestEveryNodeKnowsWhichMemberWorksOnASegment(t *testing.T) {
	t.Parallel()
	const nodes, segments = 3, 8
	catalog, _ := counted()
	projection.Define(catalog, projection.Table[levelRow]{
		Name: "verdicts", Segments: segments,
		On: projection.Handlers[levelRow]{projection.On(func(_ projection.At, _ passed, r *levelRow) { r.Verdicts++ })},
	})
	urls, _ := harness.Serve(t, nodes, func(ctx context.Context, ready func(string)) error {
		return node.RunDev(ctx, node.Config{Catalog: catalog, Listen: "127.0.0.1:0", Store: t.TempDir(), Ready: ready}, nodes)
	})
	const events = 5
	for i := range events {
		if code, text := post(t, urls[0]+"/v1/commands", fmt.Sprintf(`{"aggregate":"verdict/%d","command":"pass","key":"k%d","data":{"level":1}}`, i, i)); code != http.StatusOK {
			t.Fatalf("a verdict: %d %s", code, text)
		}
	}
	for _, url := range urls {
		harness.Eventually(t, "each segment has one owner", func() error {
			owners, members := map[int]string{}, map[string]bool{}
			for _, m := range clusterWork(t, url, "?projections=true").Members {
				if m.Projections == nil {
					return fmt.Errorf("%s did not answer", m.ID)
				}
				for _, s := range m.Projections.Segments {
					if owners[s.Segment] != "" || s.Projection != "verdicts" || s.Position != events || s.Stopped != "" {
						return fmt.Errorf("%s works on %+v, as %s does", m.ID, s, owners[s.Segment])
					}
					owners[s.Segment], members[m.ID] = m.ID, true
				}
				if list := m.Projections.Memories; len(list) != 1 || list[0].Projection != "levels" || list[0].Position != events || !list[0].Current || list[0].Stopped {
					return fmt.Errorf("the memories of %s are %+v", m.ID, list)
				}
			}
			if len(owners) != segments || len(members) < 2 {
				return errors.New(fmt.Sprint("the owners are ", owners))
			}
			return nil
		})
	}
	for _, m := range clusterWork(t, urls[0], "").Members {
		if m.Projections != nil {
			t.Errorf("%s shows its work without ?projections=true", m.ID)
		}
	}
}
