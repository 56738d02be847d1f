# `make` lists the targets. They need Go, and where a target needs more, it installs it when it is run as root on Debian,
# and names it otherwise. CI runs nothing that cannot be run from here.

SHELL       := bash
.SHELLFLAGS := -euo pipefail -c

PREFIX  ?= /usr/local
DESTDIR ?=
GO      ?= go
T       ?= 3s
PORT    ?= 5000

# The datapath confines itself, and Go cannot restrict threads of C: see cmd/usernet/cgo.go. Only the race detector needs cgo.
export CGO_ENABLED := 0

# The commit is noted in the binary (`usernet version`) where git can say it.
VCS := $(shell git rev-parse HEAD >/dev/null 2>&1 && echo auto || echo false)

TOOL := $(GO) tool -modfile=tools/tools.mod
# The tests of the real kernel stand apart: they build a network of namespaces and take minutes. So do counts of instructions, which
# need valgrind, and are the same whatever the tests are built with.
UNIT := $(GO) list ./... | grep -vE '/rootless-tests(/instructions)?$$'

.PHONY: help build install uninstall demo test quick check fmt vet tidy staticcheck unit race instructions rootless originals fuzz bench bench-plot bench-docs requirements clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## build bin/usernet, a static binary
	$(GO) build -trimpath -buildvcs=$(VCS) -o bin/usernet ./cmd/usernet

install: build ## install binary, manual pages, completions and systemd user units below PREFIX=/usr/local
	install -D -m 755 bin/usernet $(DESTDIR)$(PREFIX)/bin/usernet
	rm -rf bin/man && bin/usernet gen-man bin/man
	install -d $(DESTDIR)$(PREFIX)/share/man/man1
	install -m 644 bin/man/*.1 $(DESTDIR)$(PREFIX)/share/man/man1
	bin/usernet completion bash > bin/completion.bash
	bin/usernet completion zsh > bin/completion.zsh
	bin/usernet completion fish > bin/completion.fish
	install -D -m 644 bin/completion.bash $(DESTDIR)$(PREFIX)/share/bash-completion/completions/usernet
	install -D -m 644 bin/completion.zsh $(DESTDIR)$(PREFIX)/share/zsh/site-functions/_usernet
	install -D -m 644 bin/completion.fish $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/usernet.fish
	install -D -m 644 contrib/systemd/usernet.socket $(DESTDIR)$(PREFIX)/lib/systemd/user/usernet.socket
	sed 's|^ExecStart=usernet|ExecStart=$(PREFIX)/bin/usernet|' contrib/systemd/usernet.service > bin/usernet.service
	install -D -m 644 bin/usernet.service $(DESTDIR)$(PREFIX)/lib/systemd/user/usernet.service

uninstall: ## remove what install installed
	rm -f $(DESTDIR)$(PREFIX)/bin/usernet $(DESTDIR)$(PREFIX)/share/man/man1/usernet.1 $(DESTDIR)$(PREFIX)/share/man/man1/usernet-*.1 \
		$(DESTDIR)$(PREFIX)/share/bash-completion/completions/usernet $(DESTDIR)$(PREFIX)/share/zsh/site-functions/_usernet \
		$(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/usernet.fish \
		$(DESTDIR)$(PREFIX)/lib/systemd/user/usernet.socket $(DESTDIR)$(PREFIX)/lib/systemd/user/usernet.service

demo: build ## the main job: run a sandbox with a published port and fetch from it
	$(GO) build -trimpath -o bin/hello ./tools/hello
	PORT=$(PORT) tools/demo.sh

test: ## all tests; as root on Debian, what they need is installed first
	GO="$(GO)" MAKE="$(MAKE)" tools/test.sh

quick: fmt vet unit ## gofmt, vet, unit tests

check: quick tidy staticcheck race ## quick, go.mod, staticcheck, and unit tests under the race detector

fmt: ## fail when gofmt would change a file
	@files=$$(gofmt -l */); \
	if [ -n "$$files" ]; then echo "not formatted, run gofmt -w:" $$files >&2; exit 1; fi

vet: ## go vet
	$(GO) vet ./...

tidy: ## fail when go.mod lists what is not imported
	$(GO) mod tidy -diff

staticcheck: ## staticcheck, of the version in tools/tools.mod
	$(TOOL) staticcheck ./...

unit: ## unit tests
	$(GO) test -timeout 5m $$($(UNIT))

race: ## unit tests under the race detector
	$(GO) run ./rootless-tests/programs/provide race
	CGO_ENABLED=1 $(GO) test -race -timeout 10m $$($(UNIT))

instructions: ## count the instructions of a packet's way, and compare with what they were
	$(GO) run ./rootless-tests/programs/provide instructions
	$(GO) test -count=1 -v -timeout 20m ./rootless-tests/instructions

rootless: ## tests on the real kernel; start them as root, usernet itself runs as an ordinary user
	$(GO) test -timeout 30m ./rootless-tests/

originals: ## of rootless, podman, buildah, rootlesskit and pasta: with the originals and with usernet in their place, compared
	$(GO) test -count=1 -timeout 30m -run 'Podman|Buildah|Rootlesskit|Pasta' ./rootless-tests/

fuzz: ## every fuzz target for T=3s, say T=10m
	GO="$(GO)" tools/fuzz.sh $(T)

bench: ## compare with the kernel's loopback, slirp4netns and pasta; flags in ARGS, say ARGS=--quick
	@mkdir -p bench-out
	$(GO) run ./rootless-tests/bench --json bench-out/bench.json $(ARGS)

bench-plot: ## draw bench-out/bench.json, made by bench, as bench-out/bench.svg
	$(GO) run ./rootless-tests/bench --from bench-out/bench.json --plot bench-out/bench.svg

bench-docs: ## put the last run of bench into docs/perf, docs/PERFORMANCE.md and README.md
	GO="$(GO)" tools/bench-docs.sh bench-out/bench.json

requirements: ## write docs/REQUIREMENTS.md anew from the tests
	UPDATE_REQUIREMENTS=1 $(GO) test -count=1 -run TestRequirements ./internal/deptest/

clean: ## remove what was built
	rm -rf bin bench-out
