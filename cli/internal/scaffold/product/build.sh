#!/usr/bin/env bash
# Builds the page, and from it the program as one static file, ./diner.
# VERSION is what "diner version" prints; by default Go finds it in the repository.
# GOARCH selects another processor, for images.
set -euo pipefail
cd "$(dirname "$0")"
PREPARE
npm --prefix web install --no-fund --no-audit --loglevel=error
npm --prefix web run --silent build
# grpcnotrace omits gRPC's trace pages, with which the program would be 3.6 MB larger.
CGO_ENABLED=0 go build -tags grpcnotrace -trimpath \
	-ldflags="-s -w -funcalign=16 ${VERSION:+-X github.com/ganglion-es/ganglion/node.version=$VERSION}" -o diner .
