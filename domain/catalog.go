// Package domain is the application: its aggregates, one file each.
//
// A file tells an aggregate's whole story: state, commands, events, rules and
// scenarios. To add an aggregate, add a file; nothing else needs an edit. Its
// tests are its scenarios, and "go test -update" writes the golden files that
// keep its stored events readable for ever.
package domain

import (
	"embed"

	"github.com/ganglion-es/ganglion/domain/aggregate"
)

// Catalog has every aggregate of the application. Each file of this package
// adds its own with aggregate.Define.
var Catalog = aggregate.Catalog{Source: source}

//go:embed *.go
var source embed.FS

// exact is the largest number up to which every program, JavaScript included,
// reads a JSON integer exactly: 2^53 (IEEE 754 double precision). Amounts and
// sums stay within it, so that every client shows the same one.
const exact = 1 << 53

// longest is the most bytes that a text written by a client may have.
const longest = 4 << 10
