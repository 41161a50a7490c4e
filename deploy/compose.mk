cluster: ## Start the cluster of docker-compose.yml: PostgreSQL, five nodes, a load balancer on port 8080.
	@deploy/cluster.sh up

cluster-down: ## Stop it; the log stays in its volume.
	@deploy/cluster.sh down

test-compose: ## Load a cluster in containers, kill a domain node, and check every event.
	@test/compose/run.sh

.PHONY: cluster cluster-down test-compose
