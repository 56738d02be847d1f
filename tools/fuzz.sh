#!/usr/bin/env bash
# fuzz.sh TIME: run every fuzz target of the module, one after the other, each for TIME.
# A failing input is kept in the package's testdata/fuzz, and go test runs it from then on.
set -euo pipefail
time=${1:?usage: fuzz.sh TIME}
cd "$(dirname "$0")/.."

failed=()
while IFS=: read -r file name; do
	package=./$(dirname "$file")
	echo "fuzz $package $name for $time"
	# The minimiser may spend a minute on each interesting input, whatever -fuzztime says.
	"${GO:-go}" test -run '^$' -fuzz "^$name\$" -fuzztime "$time" -fuzzminimizetime 10x "$package" || failed+=("$package $name")
done < <(grep -roE --include='*_test.go' '^func Fuzz[A-Za-z0-9_]+' . | sed 's|^\./||; s|func ||' | sort)

if ((${#failed[@]})); then
	printf 'fuzz: failed: %s\n' "${failed[@]}" >&2
	exit 1
fi
