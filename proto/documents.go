// Package proto has the documents that describe Ganglion to its clients, as a gateway
// serves them. Tests compare both with the code.
package proto

import _ "embed"

// OpenAPI describes the HTTP interface (OpenAPI 3.1).
//
//go:embed openapi.yaml
var OpenAPI []byte

// AsyncAPI describes the frames of the WebSocket protocol (AsyncAPI 3.0).
//
//go:embed asyncapi.yaml
var AsyncAPI []byte
