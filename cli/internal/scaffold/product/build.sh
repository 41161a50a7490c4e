#!/usr/bin/env bash
# Builds the page, and from it the program as one static file, ./diner.
# VERSION is what "diner version" prints; by default Go finds it in the repository.
# GOARCH selects another processor, for images.
set -euo pipefail
cd "$(dirname "$0")"
PREPARE
npm --prefix web install --no-fund --no-audit --loglevel=error
npm --prefix web run --silent build
# The tags omit what a node does not use: grpcnotrace pages of gRPC, which the exporter of traces imports (3.6 MB),
# nopgxregisterdefaulttypes generic types of pgx (1.4 MB). Remove the second if your code
# connects to PostgreSQL with pgx itself, or uses pgtype.Array or pgtype.FlatArray.
CGO_ENABLED=0 go build -tags grpcnotrace,nopgxregisterdefaulttypes -trimpath \
	-ldflags="-s -w -funcalign=8 ${VERSION:+-X github.com/ganglion-es/ganglion/node.version=$VERSION}" -o diner .
