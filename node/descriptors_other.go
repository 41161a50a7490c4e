//go:build !unix

package node

import "errors"

func descriptors() (uint64, error) { return 0, errors.ErrUnsupported }
