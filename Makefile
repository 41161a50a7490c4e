# Ganglion. `make run` needs Go alone; `make test` finds or installs PostgreSQL by itself.
.DEFAULT_GOAL := help
SHELL := /bin/bash -o pipefail

help: ## Print what there is.
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: build ## Start three nodes in one process on the embedded store.
	@./bin/ganglion dev --nodes 3

build: ## Build bin/ganglion.
	@CGO_ENABLED=0 go build -tags grpcnotrace -trimpath -o bin/ganglion ./cmd/ganglion

check: ## Look quickly before a commit: vet, formatting, and the fast tests of what changed.
	@scripts/check.sh

test: ## Run every test with the race detector, against a real PostgreSQL; PKG=./gateway RUN=Hello for one package, or some of its tests.
	@PKG='$(PKG)' RUN='$(RUN)' scripts/test.sh

test-faults: ## Run the long fault tests; SHORT=1 for the form that CI runs.
	@scripts/test-faults.sh

chaos: ## Break a cluster of real processes and check what its clients saw: SEED=… MINUTES=…
	@scripts/chaos.sh

mutants: ## Plant faults in one package and list those that its tests miss: PKG=./router N=40 SEED=1 LIMIT=10m.
	@go run ./tools/mutants -pkg $(PKG) -n $(or $(N),40) -seed $(or $(SEED),1) -limit $(or $(LIMIT),10m)

lint: ## Vet, staticcheck, gofumpt, import directions, generated code, published documents, each module by itself.
	@scripts/lint.sh

fmt: ## Format everything.
	@go tool gofumpt -w $$(git ls-files '*.go' | grep -v '\.pb\.go$$')

generate: ## Generate code from proto/peer/peer.proto, the documents in domain/api from the aggregates, and docs/configuration.md.
	@go run ./tools/protogen proto/peer/peer.proto
	@go run ./cmd/ganglion schema --out domain/api/schema.json
	@go run ./cmd/ganglion schema --format asyncapi --out domain/api/asyncapi.yaml
	@go run ./cmd/ganglion gen ts --out domain/api/contract.ts
	@scripts/client-js.sh examples
	@go run ./cmd/ganglion config reference >docs/configuration.md.new && mv docs/configuration.md.new docs/configuration.md

bench: ## Measure the whole system end to end, on SQLite and on PostgreSQL.
	@scripts/bench.sh

bench-store: ## Measure the store on PostgreSQL beside its rivals and its floors; ARGS=--quick for a first look.
	@scripts/bench-store.sh $(ARGS)

bench-gateway: ## Measure the gateway beside its rivals and its floors; ARGS=--quick for a first look, --storm for a reconnect storm.
	@scripts/bench-gateway.sh $(ARGS)

bench-js: ## Measure the JavaScript client beside its rivals.
	@scripts/bench-js.sh

-include deploy/compose.mk

.PHONY: help run build check test test-faults chaos mutants lint fmt generate bench bench-js bench-store bench-gateway
