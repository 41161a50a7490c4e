//go:build nosqlite

package ganglion

import (
	"context"
	"fmt"
)

// openEmbedded is for programs that only run on PostgreSQL, such as that of
// the image: SQLite is a seventh of the binary.
func openEmbedded(_ context.Context, cfg StoreConfig) (Store, error) {
	return nil, fmt.Errorf("the store %q is a folder, and this program was built without the embedded store (-tags nosqlite): name a database, as in postgres://user@host:5432/database", cfg.URL)
}
