// Package domain is the application: its aggregates, projections and process
// managers, one file each.
//
// A file contains all parts of an aggregate: state, commands, events, rules and
// scenarios. To add an aggregate, add a file; no other file needs an edit. Its scenarios are its
// tests, and "go test -update" writes the golden files that keep its stored events
// readable.
package domain

import (
	"embed"

	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/domain/inbox"
	"github.com/ganglion-es/ganglion/domain/topic"
)

// Catalog contains every aggregate of the application. Each file of this package
// adds its own with aggregate.Define, package inbox the clients' inboxes, and package topic plain topics.
var Catalog = aggregate.Catalog{Source: source}

var (
	_ = Catalog.Include(&inbox.Catalog)
	_ = Catalog.Include(&topic.Catalog)
)

//go:embed *.go
var source embed.FS

// exact is 2^53. Up to this number every program reads a JSON integer exactly, even
// in JavaScript, whose numbers are IEEE 754 doubles. Amounts and sums stay
// within it, so that every client shows the same number.
const exact = 1 << 53

// maxText is the largest size, in bytes, of a text from a client.
const maxText = 4 << 10
