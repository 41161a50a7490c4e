//go:build !unix

package ganglion

import "errors"

func descriptors() (uint64, error) { return 0, errors.ErrUnsupported }
