package main

import (
	"embed"

	"github.com/ganglion-es/ganglion/domain/aggregate"
)

// Catalog has everything that this program defines. Each file adds its own.
var Catalog = aggregate.Catalog{Source: source}

//go:embed *.go
var source embed.FS // its comments describe commands and events to clients
