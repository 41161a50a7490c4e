cluster: ## Start the cluster of docker-compose.yml: PostgreSQL, five nodes, a load balancer on port 8080.
	@deploy/cluster.sh up

cluster-dev: ## Start the cluster with a binary built here and any client id trusted; run it again after a change.
	@deploy/cluster.sh dev

cluster-down: ## Stop the cluster; the log and the secrets stay in their volumes.
	@deploy/cluster.sh down

test-compose: ## Load a cluster in containers, inject every fault that the guarantees name, and check every event.
	@test/compose/run.sh

check-k8s: ## Check deploy/k8s against Kubernetes' types.
	@deploy/k8s/check.sh

.PHONY: check-k8s cluster cluster-dev cluster-down test-compose
