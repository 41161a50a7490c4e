#!/usr/bin/env bash
# Makes a release of the checked-out commit:
#   release.sh v1.2.3 [DIR]      its files in DIR (dist/v1.2.3) and its tags, in this repository only
#   release.sh --dry-run [DIR]   the same without tags; without DIR, the files are removed
# TARGETS are the systems of the archives, such as linux/arm64; a dry run has only this one.
#
# The modules of this repository find each other by replace lines and go.work. In the
# commit of a release, go.mod has versions instead. The script makes this commit and the
# tags in a clone. From the tags, the go command makes a module proxy in the file system.
# From this proxy, the script builds each module and installs the program, as users will.
set -euo pipefail
cd "$(dirname "$0")/.."
fail() { echo "release: $*" >&2; exit 1; }
step() { printf 'release: %s\n' "$*"; }

module=github.com/ganglion-es/ganglion
inner=(client/go domain)                       # modules that it requires
outer=(relay/nats relay/rabbitmq cmd/ganglion) # modules that require it, in this order
dry=""
version=${1:-}
[ "$version" != --dry-run ] || { dry=1 version=v0.0.0-rc.0; }
number='(0|[1-9][0-9]*)'
[[ $version =~ ^v[01]\.$number\.$number(-(alpha|beta|rc)\.$number)?$ ]] ||
	fail "'$version' is not a version such as v1.2.3 or v1.2.3-rc.1; usage: scripts/release.sh VERSION|--dry-run [DIR]"
[ -z "$(git status --porcelain)" ] || fail "the work tree has changes: commit or remove them, since a release is made from a commit"
out=$(realpath -m "${2:-dist/$version}")
tags=("$version" "${inner[@]/%//$version}" "${outer[@]/%//$version}")
if [ -z "$dry" ]; then
	for tag in "${tags[@]}"; do
		! git rev-parse -q --verify "refs/tags/$tag" >/dev/null || fail "the tag $tag exists: choose the next version"
	done
	grep -qF "## ${version#v} - " CHANGELOG.md || fail "CHANGELOG.md has no section '## ${version#v} - DATE': rename the section Unreleased"
fi
[ -z "$dry" ] || [ $# -gt 1 ] || out=""
[ ! -e "$out" ] || fail "$out exists: remove it, or name another folder"

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
tree=$tmp/tree files=$tmp/files

# alone are the settings of the go command here. Its module cache is empty at first, so
# the user's never has a version that was only tried. go.sum has all sums.
# GONOPROXY must be empty. With any value, even "none", the go command first searches
# the module cache alone, where it may find the main module, but not yet domain.
alone=(GOENV=off GOWORK=off GOFLAGS="-trimpath -modcacherw -tags=grpcnotrace,nopgxregisterdefaulttypes" CGO_ENABLED=0 GOPRIVATE= GONOPROXY= GOSUMDB=off
	GOPATH="$tmp/go" GOMODCACHE="$tmp/modules" GOPROXY="file://$tmp/proxy/cache/download,file://$(go env GOMODCACHE)/cache/download,$(go env GOPROXY)")
go() { env "${alone[@]}" go "$@" 2>"$tmp/log" || { cat "$tmp/log" >&2; return 1; }; }

# publish tags the commit of the clone, and adds a module of that tag to the proxy.
publish() {
	git -C "$tree" tag -a "$2" -m "$2"
	(
		export GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0="url.file://$tree.insteadOf" GIT_CONFIG_VALUE_0="https://$module"
		alone+=(GOPROXY=direct GOMODCACHE="$tmp/proxy")
		go mod download "$1@$version"
	)
}

step "the commit and the tags of $version"
git clone -q -c user.name="$(git config user.name || echo release)" -c user.email="$(git config user.email || echo release@localhost)" . "$tree"
for m in "${inner[@]}"; do publish "$module/$m" "$m/$version"; done
(
	cd "$tree"
	for m in "${inner[@]}"; do go mod edit -dropreplace "$module/$m" -require "$module/$m@$version"; done
	for m in "${inner[@]}"; do go get "$module/$m@$version"; done # adds their sums
	! grep '^replace' go.mod || fail "go.mod still has a replace line"
	go list -deps -test ./... >/dev/null
	git commit -qam "release: $version" -m "go.mod has the versions of the other modules, so that programs can require this one."
)
publish $module "$version"
for m in "${outer[@]}"; do
	(
		cd "$tree/$m"
		for r in $(go list -m -f '{{if .Replace}}{{.Path}}{{end}}' all); do
			go mod edit -dropreplace "$r" -require "$r@$version"
		done
		go mod tidy
		! grep '^replace' go.mod || fail "$m/go.mod still has a replace line"
		git commit -qam "release: $m of $version" -m "go.mod has the versions of the other modules, so that programs can require this one."
	)
	publish "$module/$m" "$m/$version"
done
commit=$(git -C "$tree" rev-parse HEAD)

for m in $module "${inner[@]/#/$module/}" "${outer[@]/#/$module/}"; do
	step "go get and go build of $m"
	mkdir "$tmp/user"
	(
		cd "$tmp/user"
		go mod init example.com/user
		cat "$tree/go.sum" "$tree/cmd/ganglion/go.sum" | sort -u >go.sum
		go get "$m/...@$version"
		go build "$m/..."
	)
	rm -r "$tmp/user"
done

step "go install of the program, and the archives"
mkdir "$files"
build() { go install -ldflags="-s -w -funcalign=8" "$module/cmd/ganglion@$version"; }
build
got=$("$tmp/go/bin/ganglion" version)
[ "$got" = "ganglion $version" ] || fail "the installed program says '$got', want 'ganglion $version'"
[ -z "$dry" ] || TARGETS=${TARGETS:-$(go env GOOS)/$(go env GOARCH)}
for target in ${TARGETS:-linux/amd64 linux/arm64 darwin/arm64}; do
	GOOS=${target%/*} GOARCH=${target#*/} build
	built=$tmp/go/bin/${target/\//_}/ganglion
	[ -e "$built" ] || built=$tmp/go/bin/ganglion # of this system
	tar --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$(git log -1 --format=%ct)" -czf "$files/ganglion-$version-${target/\//-}.tar.gz" \
		LICENSE README.md CHANGELOG.md -C "$(dirname "$built")" ganglion
done

step "a new product"
"$tmp/go/bin/ganglion" new shop --dir "$tmp/shop" >/dev/null
(cd "$tmp/shop" && cp "$tree/go.sum" . && go mod tidy && go test -c -o /dev/null .)

step "the packages for npm"
rm -rf client/js/dist client/react/dist # may have files whose source is gone
VERSION=$version npm_config_loglevel=error scripts/client-js.sh pack "$files" >/dev/null
for name in client react; do
	[ -e "$files/ganglion-es-$name-${version#v}.tgz" ] || fail "scripts/client-js.sh made no package of @ganglion-es/$name"
done

if docker info >/dev/null 2>&1; then
	step "the image"
	VERSION=$version REVISION=$commit GANGLION_TAG=$version deploy/cluster.sh image
	labels=$(docker image inspect -f '{{index .Config.Labels "org.opencontainers.image.version"}} {{index .Config.Labels "org.opencontainers.image.revision"}}' "ganglion:$version")
	[ "$labels" = "$version $commit" ] || fail "the image has the version and the revision '$labels', want '$version $commit'"
	[ -z "$dry" ] || docker image rm "ganglion:$version" >/dev/null
else
	step "Docker does not answer, so no image was made"
fi

(cd "$files" && sha256sum -- * >checksums.txt)
[ -z "$out" ] || { mkdir -p "$(dirname "$out")" && mv "$files" "$out" && step "the files are in $out"; }
[ -z "$dry" ] || exit 0
for tag in "${tags[@]}"; do git fetch -q --no-tags "$tree" "refs/tags/$tag:refs/tags/$tag"; done
step "tagged; to publish, run: git push origin ${tags[*]}"
