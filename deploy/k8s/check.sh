#!/usr/bin/env bash
# Checks the objects of this folder against Kubernetes' own types, and what
# kustomize makes of them where kubectl is installed. It asks no cluster.
set -euo pipefail
cd "$(dirname "$0")"

files=$(printf "$PWD/%s\n" *.yaml)
if command -v kubectl >/dev/null; then
	made=$(mktemp)
	trap 'rm -f "$made"' EXIT
	kubectl kustomize . >"$made"
	files="$files $made"
else
	echo "kubectl is not installed: what kustomize makes of it is NOT checked" >&2
fi
cd check
# shellcheck disable=SC2086
GOWORK=off go run . $files
