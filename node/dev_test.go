package node

import "testing"

func TestDevNodeNamesEndWithSeparateNumber(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		base string
		n    int
		want string
	}{
		{"", 1, "dev1"},
		{"", 12, "dev12"},
		{"orders", 2, "orders2"},
		{"n1", 1, "n1-1"},
		{"n-1-", 3, "n-1-3"},
	} {
		if got := devName(c.base, c.n); got != c.want {
			t.Errorf("node %d of %q is called %q, want %q", c.n, c.base, got, c.want)
		}
	}
}
