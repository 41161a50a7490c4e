// Package aggregate is the programming model.
package aggregate

// Catalog is a set of aggregate definitions.
type Catalog struct{}
