#!/usr/bin/env bash
# bench-docs.sh: put the last run of `make bench` into the documents: its JSON and figure into docs/perf, its table between
# the marks in docs/PERFORMANCE.md, some lines of that in README.md.
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p docs/perf
[ -z "${1:-}" ] || cp "$1" docs/perf/bench.json
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
"${GO:-go}" run ./rootless-tests/bench --from docs/perf/bench.json --plot docs/perf/bench.svg >"$out/all"

# The README has the MTU that people get without asking.
awk '/^MTU / { want = $2 == 1500; next }
	/^(containers of|many)/ { want = 0 }
	/first 50 ms/ { next }
	want && (/loopback/ || /^(TCP stream|4 TCP|TCP round trip p50|TCP connect|UDP round trip|UDP 1400 B delivered|published port stream|memory per idle|start-up: run)/)' \
	"$out/all" >"$out/some"

put() { # put TABLE DOCUMENT [LINE before the table]
	awk -v table="$1" -v first="${3:-}" '
		/^<!-- bench/ { print; if (first) print first "\n"; print "```text"; while ((getline line < table) > 0) print line; print "```"; skip = 1; next }
		/^<!-- end of bench/ { skip = 0 }
		!skip' "$2" >"$out/new"
	cat "$out/new" >"$2"
}
put "$out/all" docs/PERFORMANCE.md '![usernet and its peers](perf/bench.svg)'
put "$out/some" README.md
