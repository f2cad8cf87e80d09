# The project's commands. `make help` lists them.

CARGO ?= cargo

.DEFAULT_GOAL := build
.PHONY: help deps build lint test unit kernel testbed

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

deps: ## install the packages that building and testing need
	tests/deps/install

build: ## build every crate
	$(CARGO) build --release --workspace

lint: ## formatting and clippy
	$(CARGO) fmt --all --check
	$(CARGO) clippy --release --workspace --all-targets -- -D warnings

unit: ## the tests that need no virtual machine
	$(CARGO) test --release --workspace

kernel: ## the guest's kernel and initramfs, in target/guest
	guest-kernel/build
	$(CARGO) build --release -p husk-agent
	guest-kernel/initramfs

testbed: ## check the test bed itself
	tests/testbed/selftest

test: deps build unit kernel testbed ## every test

