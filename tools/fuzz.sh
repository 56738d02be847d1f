#!/usr/bin/env bash
# fuzz.sh TIME: run every fuzz target of the module, one after the other, each for TIME.
# A failing input is kept in the package's testdata/fuzz, and go test runs it from then on.
set -euo pipefail
time=${1:?usage: fuzz.sh TIME}
cd "$(dirname "$0")/.."

log=$(mktemp)
trap 'rm -f "$log"' EXIT

# fuzz PACKAGE NAME: at the end of its time Go's fuzzer sometimes takes the end of a worker for a failure of the target
# (golang/go#75804, mended in Go 1.27). A failure of the target names its input or the panic; without either it is run again, twice at most.
fuzz() {
	for _ in 1 2 3; do
		# The minimiser may spend a minute on each interesting input, whatever -fuzztime says.
		"${GO:-go}" test -run '^$' -fuzz "^$2\$" -fuzztime "$time" -fuzzminimizetime 10x "$1" 2>&1 | tee "$log" && return
		grep -qx '    context deadline exceeded' "$log" && ! grep -qE 'Failing input|panic:' "$log" || return
	done
	return 1
}

failed=()
while IFS=: read -r file name; do
	package=./$(dirname "$file")
	echo "fuzz $package $name for $time"
	fuzz "$package" "$name" || failed+=("$package $name")
done < <(grep -roE --include='*_test.go' '^func Fuzz[A-Za-z0-9_]+' . | sed 's|^\./||; s|func ||' | sort)

if ((${#failed[@]})); then
	printf 'fuzz: failed: %s\n' "${failed[@]}" >&2
	exit 1
fi
