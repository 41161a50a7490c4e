#!/usr/bin/env bash
# Checks the objects of this folder against Kubernetes' own types, and what
# kustomize makes of them where kubectl is installed. It asks no cluster.
set -euo pipefail
cd "$(dirname "$0")"

made=$(mktemp -d)
trap 'rm -rf "$made"' EXIT
files=$(printf "$PWD/%s\n" *.yaml monitoring/*.yaml)

# The alerts as the README has Prometheus's operator take them.
sed -n '/^```sh$/,/^```$/{//!p}' README.md >"$made/rules.sh"
(cd ../.. && bash "$made/rules.sh") >"$made/rules.yaml"
files="$files $made/rules.yaml"

if command -v kubectl >/dev/null; then
	for base in . monitoring; do
		kubectl kustomize "$base" >"$made/$(basename "$PWD/$base").yaml"
		files="$files $made/$(basename "$PWD/$base").yaml"
	done
else
	echo "kubectl is not installed: what kustomize makes of it is NOT checked" >&2
fi
cd check
# shellcheck disable=SC2086
GOWORK=off go run . $files
