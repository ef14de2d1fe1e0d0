# A thin menu: what each entry does is written in xtask/. `make` alone shows it.
#
# On a fresh Debian the compiler needs a linker before anything of ours can run; the packages of it
# are, as all others, in xtask/packages.txt.
XTASK = @command -v cargo >/dev/null || { echo "cargo is missing: install Rust from https://rustup.rs"; exit 1; }; \
	command -v cc >/dev/null || xtask/linker.sh; \
	cargo xtask

.PHONY: help setup build run test unit e2e soak bench critest node tidy fmt lint deny

help: ## show this list
	@sed -n 's/^\([a-z0-9]*\):.*## /  make \1\t/p' Makefile | expand -t 16

setup: ## install what is lacking of Debian's packages (needs root and, only then, the network)
	$(XTASK) setup

build: ## build the release program
	$(XTASK) build

run: ## the demo: a node, a pull, a pod, its page, its logs, and nothing left afterwards
	$(XTASK) run

test: ## everything that must pass: tidy, format, lints, unit tests, release build, end-to-end tests
	$(XTASK) test

unit: ## unit tests only
	$(XTASK) unit

e2e: ## end-to-end tests only; FOCUS= is part of a test's name
	$(XTASK) e2e $(FOCUS)

soak: ## end-to-end tests with higher counts: 1,000 pods and more
	$(XTASK) soak

bench: ## how fast pods start, beside containerd and runc when these are on PATH
	$(XTASK) bench $(ARGS)

critest: ## the conformance suite in a node, when critest is on PATH; FOCUS= and SKIP= are patterns
	$(XTASK) critest --focus="$(FOCUS)" --skip="$(SKIP)" $(ARGS)

node: ## CMD= in a node of its own, a shell when left out; START=1 starts the daemon in it first
	$(XTASK) node $(if $(START),--daemon) -- $(CMD)

tidy: ## check what compilers do not: layers, first lines, sizes, links, commands
	$(XTASK) tidy

fmt: ## format the sources
	$(XTASK) fmt

lint: ## clippy with warnings denied
	$(XTASK) lint

deny: ## check licences and advisories of all dependencies, when cargo-deny is installed
	$(XTASK) deny
