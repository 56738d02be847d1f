#!/usr/bin/env bash
# test.sh: every test there is, as `make test` runs them. All steps run even when one fails; the end says which did.
set -euo pipefail
cd "$(dirname "$0")/.."
go=${GO:-go}
make=${MAKE:-make}

failed=()
step() { # step TITLE COMMAND...
	local title=$1 began=$SECONDS verdict=ok
	shift
	printf '\n==> %s: %s\n' "$title" "$*"
	"$@" || { verdict=FAILED; failed+=("$title"); }
	printf '<== %s: %s, %d s\n' "$title" "$verdict" $((SECONDS - began))
}

step programs "$go" run ./rootless-tests/programs/provide race instructions tests
step format "$make" --no-print-directory fmt
step vet "$make" --no-print-directory vet
step staticcheck "$make" --no-print-directory staticcheck
step unit "$make" --no-print-directory unit
step race "$make" --no-print-directory race
step instructions "$make" --no-print-directory instructions
step rootless "$make" --no-print-directory rootless
step fuzz "$make" --no-print-directory fuzz T="${FUZZTIME:-3s}"

echo
if ((${#failed[@]})); then
	printf 'FAIL: %s (%d s)\n' "${failed[*]}" "$SECONDS"
	exit 1
fi
printf 'PASS: all steps (%d s)\n' "$SECONDS"
