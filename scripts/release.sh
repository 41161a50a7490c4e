#!/usr/bin/env bash
# Makes a release from the checked-out commit:
#   release.sh v1.2.3 [DIR]    makes the commit and the tags of the release, here only,
#                              and its files in DIR (dist/v1.2.3)
#   release.sh --dry-run [DIR] the same under a version of its own, without tags
#
# The modules of this repository find each other by replace lines and go.work. In the
# commit of a release, go.mod has their versions instead. The script puts the modules
# of that commit into a module proxy in the file system, and from it builds each
# module alone and installs the program, as users will. Then it makes archives of the
# program, packages for npm, the image where Docker runs, and checksums.
# Nothing is pushed: the end of the output says how.
set -euo pipefail
cd "$(dirname "$0")/.."
fail() { echo "release: $*" >&2; exit 1; }
step() { printf 'release: %s\n' "$*"; }

module=github.com/ganglion-es/ganglion
inner="client/go domain" # the modules besides the main one
# Other proxies add the LICENSE of the repository to a module without one, which would
# change its sum in go.sum.
for m in $inner; do [ -f "$m/LICENSE" ] || fail "$m has no LICENSE"; done
dry=""
case "${1:-}" in
--dry-run) dry=1 version=v0.0.0-dry.g$(git rev-parse --short=12 HEAD) ;;
*) version=${1:-} ;;
esac
[[ "$version" =~ ^v[0-9]+\.[0-9]+\.[0-9]+(-[a-z]+[.0-9a-z]*)?$ ]] || fail "usage: scripts/release.sh v1.2.3 [DIR], or --dry-run [DIR]; '$version' is not a version"
out=$(realpath -m "${2:-dist/$version}")
[ -z "$(git status --porcelain)" ] || fail "the work tree has changes: commit or remove them, since a release is made of a commit"
if [ -z "$dry" ]; then
	for tag in "$version" client/go/"$version" domain/"$version"; do
		! git rev-parse -q --verify "refs/tags/$tag" >/dev/null || fail "the tag $tag exists: a release is never made twice"
	done
	grep -q "^## ${version#v} " CHANGELOG.md || fail "CHANGELOG.md has no section '## ${version#v} - DATE': rename Unreleased"
fi
[ -z "$(ls -A "$out" 2>/dev/null)" ] || fail "$out is not empty"

tmp=$(mktemp -d)
tree=$tmp/tree proxy=$tmp/proxy cache=$(go env GOMODCACHE)
cleanup() {
	git worktree remove --force "$tree" 2>/dev/null || true
	rm -rf "$tmp"
	# A version is read from the proxy once. One that was only tried must not stay.
	for m in "$module" $module/client/go $module/domain; do
		chmod -R u+w "$cache/$m@$version" 2>/dev/null || true
		rm -rf "$cache/$m@$version" "$cache/cache/download/$m/@v/$version".*
	done
}
trap cleanup EXIT

# The go command then asks no other server about our modules.
export GOWORK=off GOFLAGS=-trimpath CGO_ENABLED=0 GONOSUMDB="$module,$module/*" GONOPROXY=none GOPRIVATE=
GOPROXY=file://$proxy,$(go env GOPROXY)
export GOPROXY
flags=(-tags grpcnotrace -ldflags "-s -w -funcalign=16 -X $module/node.version=$version")

step "the commit of $version"
git worktree add -q --detach "$tree" HEAD
(cd tools && GOWORK='' go build -o "$tmp/modproxy" ./modproxy)
"$tmp/modproxy" -out "$proxy" -version "$version" -root "$tree/domain"
"$tmp/modproxy" -out "$proxy" -version "$version" -root "$tree/client/go"
(
	cd "$tree"
	for m in $inner; do go mod edit -dropreplace "$module/$m" -require "$module/$m@$version"; done
	go mod tidy # adds their sums
	! grep -n '^replace\|^	.*=>' go.mod || fail "go.mod still has a replace line"
	git -c user.name="${GIT_AUTHOR_NAME:-$(git config user.name || echo release)}" -c user.email="${GIT_AUTHOR_EMAIL:-$(git config user.email || echo release@localhost)}" \
		commit -qam "release: $version" -m "go.mod has the versions of the inner modules, so that programs can require this one."
)
"$tmp/modproxy" -out "$proxy" -version "$version" -root "$tree"
commit=$(git -C "$tree" rev-parse HEAD)

step "each module alone, from the proxy"
for m in "$module" $module/client/go $module/domain; do
	mkdir -p "$tmp/alone" && rm -rf "$tmp/alone/"* && (
		cd "$tmp/alone"
		go mod init example.com/alone 2>/dev/null
		go get "$m@$version" 2>/dev/null || go get "$m@$version"
		go mod download -json "$m@$version" | grep -q '"Sum"' || fail "$m@$version has no sum"
		packages=$(go list -f '{{if not (or .Standard (eq .Name "main"))}}{{.ImportPath}}{{end}}' "$m/..." | grep -v /internal/)
		# shellcheck disable=SC2086
		{ echo "package alone"; printf 'import _ "%s"\n' $packages; } >alone.go
		go mod tidy
		go build "${flags[@]}" .
	)
done

step "go install of the program"
GOBIN=$tmp/bin go install "${flags[@]:0:2}" "$module/cmd/ganglion@$version"
got=$("$tmp/bin/ganglion" version)
[ "$got" = "ganglion $version" ] || fail "the installed program says '$got', want 'ganglion $version'"

step "a new product from the release"
if [ -n "$dry" ]; then # its version is none of a release, for which the program asks
	"$tmp/bin/ganglion" new shop --dir "$tmp/shop" 2>&1 | grep -q 'is not a release' || fail "a program that is no release writes a product that requires its modules"
else
	"$tmp/bin/ganglion" new shop --dir "$tmp/shop" >/dev/null
	(cd "$tmp/shop" && go mod tidy && go vet ./...)
fi

step "archives"
mkdir -p "$out" "$tmp/files"
cp LICENSE README.md CHANGELOG.md "$tmp/files"
for target in ${TARGETS:-linux/amd64 linux/arm64 darwin/arm64}; do
	name=ganglion-$version-${target/\//-}
	(cd "$tree" && GOOS=${target%/*} GOARCH=${target#*/} go build "${flags[@]}" -o "$tmp/files/ganglion" ./cmd/ganglion)
	tar --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$(git log -1 --format=%ct HEAD)" -C "$tmp/files" -czf "$out/$name.tar.gz" .
done

step "packages for npm"
VERSION=$version "$tree/scripts/client-js.sh" pack "$out" >/dev/null

if docker info >/dev/null 2>&1; then
	step "the image"
	VERSION=$version REVISION=$commit GANGLION_TAG=$version deploy/cluster.sh image
	labels=$(docker image inspect -f '{{json .Config.Labels}}' "ganglion:$version")
	[[ "$labels" == *"$version"*"$commit"* || "$labels" == *"$commit"*"$version"* ]] || fail "the image's labels lack the version or the commit: $labels"
else
	step "Docker does not run here: no image was made (VERSION=$version REVISION=$commit deploy/cluster.sh image)"
fi

(cd "$out" && sha256sum -- * >checksums.txt && sha256sum -c --quiet checksums.txt)
step "$(find "$out" -type f | wc -l) files in $out"
[ -z "$dry" ] || exit 0
for tag in "$version" client/go/"$version" domain/"$version"; do git tag -a "$tag" -m "$version" "$commit"; done
step "tagged $commit; to publish: git push origin $version client/go/$version domain/$version && npm publish each .tgz of $out"
