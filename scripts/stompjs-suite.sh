#!/usr/bin/env bash
# Runs the suite of stompjs against a gateway: stompjs-suite.sh CHECKOUT.
# CHECKOUT is a clone of https://github.com/stomp-js/stompjs at the tag of a release, such
# as v7.1.1. The package of that release comes from npm. See docs/stomp.md.
set -euo pipefail
checkout=$(realpath "${1:?usage: stompjs-suite.sh CHECKOUT}")
cd "$(dirname "$0")/.."

dir=$(mktemp -d)
trap '[ -z "${node:-}" ] || kill "$node"; rm -rf "$dir"' EXIT
go build -o "$dir/ganglion" ./cmd/ganglion
cp -r "$checkout/spec" "$dir"
version=$(node -p 'require(process.argv[1]).version' "$checkout/package.json")
(
	cd "$dir"
	echo '{"private":true,"type":"module"}' >package.json
	npm install --ignore-scripts --no-fund --no-audit --loglevel=error "@stomp/stompjs@$version" jasmine@5 ws@8
	cp -r node_modules/@stomp/stompjs/bundles .
)

head -c 32 /dev/zero | tr '\0' s >"$dir/secret"
chmod 600 "$dir/secret"
"$dir/ganglion" node --name suite --store "$dir/log" --auth jwt --jwt-hmac-file "$dir/secret" --heartbeat 1s \
	--listen 127.0.0.1:0 --peer-listen 127.0.0.1:0 --gossip-listen 127.0.0.1:0 >"$dir/out" 2>&1 &
node=$!
until url=$(grep -om1 'ready http://.*' "$dir/out"); do
	kill -0 "$node" || { cat "$dir/out" >&2; exit 1; }
	sleep 0.1
done
token=$(SECRET="$dir/secret" node -e '
	const encode = (o) => Buffer.from(JSON.stringify(o)).toString("base64url");
	const claims = encode({ alg: "HS256" }) + "." + encode({ sub: "guest", exp: Math.floor(Date.now() / 1000) + 3600 });
	const secret = require("fs").readFileSync(process.env.SECRET);
	console.log(claims + "." + require("crypto").createHmac("sha256", secret).update(claims).digest("base64url"))')

# A message may have 96 KiB, and a plain topic's 60 KiB, of which base64 takes a third.
cat >"$dir/spec/config/node-config.js" <<CONFIG
TEST = {
  destination: '/topic/chat.general', login: 'guest', password: '$token', url: 'ws${url#ready http}/v1/stomp',
  badUrl: 'ws://127.0.0.1:1', timeout: 2000, largeMessageSize: 20, testHeartBeatUsingWebWorkers: false,
};
WebSocket = require('ws');
StompJs = require('../../bundles/stomp.umd.js');
Stomp = StompJs.Stomp;
CONFIG
cd "$dir"
node_modules/.bin/jasmine --random=false >results 2>&1 || true
sed -n '/^Failures/,$p' results | grep -E '^[0-9]+\)|specs' || { tail -50 results >&2; exit 1; }
