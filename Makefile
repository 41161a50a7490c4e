# `make run` needs only Go. `make test` finds or installs PostgreSQL.
.DEFAULT_GOAL := help
SHELL := /bin/bash -o pipefail

help: ## Print the targets.
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: build ## Start three nodes in one process on the embedded store.
	@./bin/ganglion dev --nodes 3

build: ## Build bin/ganglion.
	@CGO_ENABLED=0 go build -tags grpcnotrace,nopgxregisterdefaulttypes -trimpath -o bin/ganglion ./cmd/ganglion

check: ## Run the fast checks before a commit: vet, formatting, fast tests, and tests of changed packages.
	@scripts/check.sh

test: ## Run every test but test/repo (see lint) with the race detector, against a real PostgreSQL; PKG=./gateway RUN=Hello selects a package and tests.
	@PKG='$(PKG)' RUN='$(RUN)' scripts/test.sh

test-faults: ## Run the long fault tests; SHORT=1 runs the form for CI.
	@scripts/test-faults.sh

chaos: ## Inject faults into a cluster of processes and check its promises: SEED=… MINUTES=…
	@scripts/chaos.sh

mutants: ## Plant faults in one package and list the faults that its tests miss: PKG=./router N=40 SEED=1 LIMIT=10m.
	@go run ./tools/mutants -pkg $(PKG) -n $(or $(N),40) -seed $(or $(SEED),1) -limit $(or $(LIMIT),10m)

lint: ## Check vet, staticcheck, formatting, words, import directions, generated code, published documents, and each module alone.
	@scripts/lint.sh

fmt: ## Format all Go files.
	@go tool gofumpt -w $$(git ls-files '*.go' | grep -v '\.pb\.go$$')

generate: ## Generate code from proto/peer/peer.proto, domain/api from the aggregates, and docs/configuration.md from the flags.
	@go run ./tools/protogen proto/peer/peer.proto
	@go run ./cmd/ganglion schema --out domain/api/schema.json
	@go run ./cmd/ganglion schema --format asyncapi --out domain/api/asyncapi.yaml
	@go run ./cmd/ganglion gen ts --out domain/api/contract.ts
	@scripts/client-js.sh examples
	@go run ./cmd/ganglion config reference >docs/configuration.md.new && mv docs/configuration.md.new docs/configuration.md

bench: ## Measure the whole system on SQLite and on PostgreSQL.
	@scripts/bench.sh

bench-store: ## Compare the store on PostgreSQL with rivals and with lower bounds; ARGS=--quick for a first look.
	@scripts/bench-store.sh $(ARGS)

bench-gateway: ## Compare the gateway with rivals and with lower bounds; ARGS=--quick for a first look, --storm for a reconnect storm.
	@scripts/bench-gateway.sh $(ARGS)

bench-read: ## Compare projections and queries on PostgreSQL with rivals and with lower bounds; ARGS=--quick for a first look.
	@scripts/bench-read.sh $(ARGS)

bench-groups: ## Compare consumer groups with rivals; ARGS=--quick for a first look.
	@scripts/bench-groups.sh $(ARGS)

bench-react: ## Compare process managers and wake-ups on PostgreSQL with rivals; ARGS=--quick for a first look.
	@scripts/bench-react.sh $(ARGS)

bench-js: ## Compare the JavaScript client with rivals.
	@scripts/bench-js.sh

-include deploy/compose.mk

.PHONY: help run build check test test-faults chaos mutants lint fmt generate bench bench-groups bench-js bench-react bench-read bench-store bench-gateway
