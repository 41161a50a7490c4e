#!/usr/bin/env bash
# Checks the objects of this folder against Kubernetes' types, and kustomize's
# output, also that of the README's overlay, if kubectl is installed. It needs no
# cluster.
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
	# The overlay of the README, as it is and for a program of one's own.
	for image in ghcr.io/ganglion-es/ganglion registry.example/diner; do
		overlay=$made/overlay-${image##*/}
		mkdir "$overlay"
		cp node.toml "$overlay"
		sed -n '/^```yaml$/,/^```$/{//!p}' README.md |
			sed -e "s#github.com/.*/deploy/k8s?ref=.*#$(realpath --relative-to="$overlay" .)#" -e "s!# \(newName: $image\)!\1!" >"$overlay/kustomization.yaml"
		kubectl kustomize "$overlay" >"$overlay.yaml"
		images=$(sed -n 's/^ *image: //p' "$overlay.yaml" | sort -u)
		[ "$images" = "$image:v1.2.3" ] || { echo "the overlay of README.md runs $images instead of $image:v1.2.3" >&2; exit 1; }
		files="$files $overlay.yaml"
	done
else
	echo "kubectl is not installed: the output of kustomize is NOT checked" >&2
fi
cd check
# shellcheck disable=SC2086
GOWORK=off go run . $files
