// Package domain is the application: its aggregates, one file each.
package domain

import "github.com/ganglion-es/ganglion/domain/aggregate"

// Catalog has every aggregate of the application. Each file of this package
// adds its own with aggregate.Define.
var Catalog aggregate.Catalog
