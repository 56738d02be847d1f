#!/usr/bin/env bash
# demo.sh: run a sandbox with a published port and fetch from it, as an ordinary user. Needs bin/usernet and bin/hello,
# which `make demo` builds. What it changes on the way, it puts back.
set -euo pipefail
cd "$(dirname "$0")/.."
port=${PORT:-5000}
tun=/dev/net/tun

# The user may not be able to look into this folder.
dir=$(mktemp -d)
undo=()
sandbox=
finish() {
	[ -z "$sandbox" ] || { kill "$sandbox" 2>/dev/null || true; wait "$sandbox" 2>/dev/null || true; }
	for u in "${undo[@]}"; do eval "$u"; done
	rm -rf "$dir"
}
trap finish EXIT
trap 'exit 1' INT TERM
cp bin/usernet bin/hello "$dir"
chmod 755 "$dir"
mkdir -m 700 "$dir/run"

user=()
if [ "$(id -u)" = 0 ]; then
	# uid 65534 is nobody: it owns nothing and may do nothing.
	user=(setpriv --reuid 65534 --regid 65534 --clear-groups --inh-caps=-all --bounding-set=-all)
	chown 65534:65534 "$dir/run"
	mode=$(stat -c %a "$tun" 2>/dev/null || true)
	if [ -z "$mode" ]; then
		mkdir -p /dev/net && mknod -m 666 "$tun" c 10 200
		undo+=("rm $tun")
	elif [ "$mode" != 666 ]; then
		chmod 666 "$tun"
		undo+=("chmod $mode $tun")
	fi
	echo "# started as root; everything below runs as uid 65534, without a capability"
fi
user+=(env "HOME=$dir" "XDG_RUNTIME_DIR=$dir/run" "PATH=$dir:$PATH")
run() { "${user[@]}" "$@"; }

echo "\$ usernet run --name demo --publish $port:80 -- hello serve :80 &"
# exec: the signal at the end is for usernet, not for a shell around it.
(cd "$dir" && exec "${user[@]}" usernet run --name demo --publish "$port:80" -- hello serve :80) &
sandbox=$!
ended() { echo "usernet has ended; it says why above. Another port: make demo PORT=5001" >&2; exit 1; }
# It has its ports when they are listed; a server that holds the port already must not answer instead.
until run usernet port ls demo 2>/dev/null | grep -q .; do
	kill -0 "$sandbox" 2>/dev/null || ended
	sleep 0.05
done
echo "\$ hello get http://127.0.0.1:$port/"
run hello get "http://127.0.0.1:$port/" || ended
echo "\$ usernet ps"
run usernet ps
echo "\$ kill %1"
kill "$sandbox"
code=0
wait "$sandbox" || code=$?
sandbox=
[ "$code" = 143 ] || ended
echo "# usernet passed the signal on and exited with the code of hello, $code = 128 + SIGTERM; nothing is left of the sandbox or its port"
