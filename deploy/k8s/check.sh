#!/usr/bin/env bash
# Checks the objects of this folder against Kubernetes' types, and kustomize's
# output if kubectl is installed. It needs no cluster.
set -euo pipefail
cd "$(dirname "$0")"

made=$(mktemp -d)
trap 'rm -rf "$made"' EXIT
files=$(printf "$PWD/%s\n" *.yaml monitoring/*.yaml)

# Make the PrometheusRule of the alerts with the commands of the README.
sed -n '/^```sh$/,/^```$/{//!p}' README.md >"$made/rules.sh"
(cd ../.. && bash "$made/rules.sh") >"$made/rules.yaml"
files="$files $made/rules.yaml"

if command -v kubectl >/dev/null; then
	for base in . monitoring; do
		kubectl kustomize "$base" >"$made/$(basename "$PWD/$base").yaml"
		files="$files $made/$(basename "$PWD/$base").yaml"
	done
else
	echo "kubectl is not installed: the output of kustomize is NOT checked" >&2
fi
cd check
# shellcheck disable=SC2086
GOWORK=off go run . $files
