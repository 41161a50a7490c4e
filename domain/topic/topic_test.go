package topic

import (
	"testing"

	"github.com/ganglion-es/ganglion/domain/domaintest"
)

func TestScenariosHoldAndStoredFormsStayReadable(t *testing.T) {
	t.Parallel()
	domaintest.Run(t, &Catalog)
}
