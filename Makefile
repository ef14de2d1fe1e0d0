# A thin menu: what each entry does is written in xtask/. `make` alone shows it.
#
# On a fresh Debian the compiler needs a linker before anything of ours can run; the packages of it
# are, as all others, in xtask/packages.txt.
XTASK = @command -v cargo >/dev/null || { echo "cargo is missing: install Rust from https://rustup.rs"; exit 1; }; \
	command -v cc >/dev/null || xtask/linker.sh; \
	cargo xtask

.PHONY: help setup build run test unit e2e soak bench fuzz critest node guest service deb pictures tidy fmt lint deny

help: ## show this list
	@sed -n 's/^\([a-z0-9]*\):.*## /  make \1\t/p' Makefile | expand -t 16

setup: ## install what is lacking of Debian's packages (needs root and, only then, the network)
	$(XTASK) setup

build: ## build the release program
	$(XTASK) build

deb: ## a Debian package in target/deb: program, units, manual pages, completions
	$(XTASK) deb $(ARGS)

run: ## the demo: a node, a pull, a pod, its page, its logs, and nothing left afterwards
	$(XTASK) run

test: ## everything that must pass: tidy, format, lints, unit tests, fuzzing, end-to-end tests
	$(XTASK) test

unit: ## unit tests only
	$(XTASK) unit

e2e: ## end-to-end tests only; FOCUS= is part of a test's name
	$(XTASK) e2e $(FOCUS)

soak: ## end-to-end tests of the release program with higher counts: 1,000 pods and more
	$(XTASK) soak

bench: ## how fast pods start (PART=pull: images are pulled; PART=equal: their trees are compared), beside containerd and runc when these are on PATH
	$(XTASK) bench $(PART:%=--part=%) $(ARGS)

fuzz: ## arbitrary bytes for the parsers of images: TARGET= is one of them, SECONDS= how long each runs
	$(XTASK) fuzz $(TARGET:%=--target=%) $(SECONDS:%=--seconds=%)

critest: ## the conformance suite in a node, when critest is on PATH; FOCUS= and SKIP= are patterns
	$(XTASK) critest --focus="$(FOCUS)" --skip="$(SKIP)" $(ARGS)

node: ## CMD= in a node of its own, a shell when left out; START=1 starts the daemon in it first
	$(XTASK) node $(if $(START),--daemon) -- $(CMD)

guest: export CORACLE_GUEST_COMMAND = $(value CMD)
guest: ## CMD= in a machine of its own (systemd, cgroup v2); KERNEL= is `backports` or a path, CARRY= files to take along
	$(XTASK) guest $(if $(KERNEL),--kernel=$(KERNEL)) $(CARRY:%=--carry=%) $(ARGS)

service: ## the packaged service in the guest: upgrade from the commit before, watchdog, removal, downgrade, with 20 pods
	$(XTASK) service $(if $(BEFORE),--before=$(BEFORE)) $(ARGS)

pictures: ## take the pictures in docs/pictures: the program on a terminal, drawn as SVG
	$(XTASK) pictures

tidy: ## check what compilers do not: layers, first lines, sizes, links, commands
	$(XTASK) tidy

fmt: ## format the sources
	$(XTASK) fmt

lint: ## clippy with warnings denied
	$(XTASK) lint

deny: ## check licences and advisories of all dependencies, when cargo-deny is installed
	$(XTASK) deny
