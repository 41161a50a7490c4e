package projection_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/ganglion-es/ganglion/domain/projection"
)

// A fragile text cannot be decoded.
type fragile string

func (*fragile) UnmarshalJSON([]byte) error { panic("out of order") }

func TestPanicOfARowsTypeIsAnError(t *testing.T) {
	t.Parallel()
	c := library()
	type row struct {
		Title fragile `json:"title"`
	}
	p := projection.Define(c, projection.Table[row]{
		Name: "fragile", On: projection.Handlers[row]{projection.On(func(_ projection.At, e put, r *row) { r.Title = fragile(e.Title) })},
	})
	if row, err := p.DecodeRow(json.RawMessage(`{"title": "Emma"}`)); err == nil || !strings.Contains(err.Error(), "out of order") {
		t.Errorf("got %v, %v", row, err)
	}
}
