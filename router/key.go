package router

import "github.com/google/uuid"

// newKey returns a UUIDv7. Its first 48 bits are the time in milliseconds, so
// the keys of one node lie on neighbouring pages of the database's index on
// keys.
func newKey() string { return uuid.Must(uuid.NewV7()).String() }
