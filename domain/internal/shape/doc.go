// Package shape describes the JSON of Go types.
//
// A [Compiler] makes a [Shape] of a Go type once, and reports the parts of the type
// that JSON would not preserve. A shape then
//
//   - checks and decodes data that a client sent ([Shape.DecodeStrict]);
//   - encodes a value in one canonical form, for hashes
//     ([Shape.AppendCanonical]);
//   - compares stored data with the shape ([Shape.Compare]);
//   - renders a JSON Schema ([Shape.AddSchema]), a fingerprint
//     ([Shape.Describe]) and a sample value ([Shape.Sample]).
//
// A compiled shape is immutable and safe for concurrent use.
//
// Package aggregate, through which programs use this package, tests it.
package shape
