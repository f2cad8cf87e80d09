# The project's commands. `make help` lists them.

SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c

CARGO ?= cargo
RELEASE := target/x86_64-unknown-linux-gnu/release
# Always all crates at once, and tests among them: with any other selection cargo would choose other features for the
# dependencies, and compile them again.
ALL := --release --workspace
# The tests that need a VM, or mount what they made: `--all-targets` and plain `cargo test` leave them
# out (`test = false`).
MACHINE_TESTS := --test boot --test guest
MOUNT_TESTS := --test mount --test system
VM_TESTS := $(MACHINE_TESTS) $(MOUNT_TESTS) --test e2e
# The crates' tests of their own outsides, which need none.
OUTSIDE_TESTS := --test images --test security
BUILD := $(CARGO) build $(ALL) --lib --bins $(OUTSIDE_TESTS) $(VM_TESTS)
UNIT := $(CARGO) --config tests/unit.toml test $(ALL)
# What may run beside something else: each line of its output begins with its name.
LABELLED = 2>&1 | sed -u 's/^/$@: /'
RUNNER := CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER
IN_TESTBED := $(RUNNER)=$(CURDIR)/tests/testbed/run
IN_NAMESPACE := $(RUNNER)="unshare --mount --propagation private"

.DEFAULT_GOAL := build
.PHONY: help deps tools build lint unit kernel initramfs images testbed assets e2e machines pods node faults conformance kubelet install bench bench-vmm bench-images load soak fuzz demo test

help: ## this list
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

deps: ## install the packages that building and testing need
	tests/deps/install

tools: ## install crictl and virtiofsd into the cache
	@tests/tools/crictl
	@tests/tools/virtiofsd

build: ## build every crate, tests included
	$(BUILD)
	$(UNIT) --no-run --lib --bins

lint: ## formatting and clippy
	$(CARGO) fmt --all --check
	$(CARGO) clippy $(ALL) --all-targets -- -D warnings
	$(CARGO) clippy $(ALL) $(VM_TESTS) -- -D warnings

unit: ## the tests that need no virtual machine
	$(UNIT) --lib --bins $(LABELLED)
	$(CARGO) test $(ALL) $(OUTSIDE_TESTS) $(LABELLED)

kernel: ## the guest's kernel, in target/guest
	guest-kernel/build

initramfs: build ## the guest's initramfs with the agent, in target/guest
	guest-kernel/initramfs

images: ## the tests' images and disks, in target/test-images and target/test-disks
	tests/images/build
	tests/images/disks

testbed: ## check the test bed itself
	tests/testbed/selftest $(LABELLED)

assets: kernel initramfs images tools

e2e: machines pods node faults ## the tests that need virtual machines, in the test bed

machines: assets ## those of the monitor, the agent and the network, and of images' disks
	$(IN_NAMESPACE) $(CARGO) test $(ALL) $(MOUNT_TESTS) $(LABELLED)
	$(IN_TESTBED) $(UNIT) --bin husk -- --ignored $(LABELLED)
	$(IN_TESTBED) $(CARGO) test $(ALL) $(MACHINE_TESTS) $(LABELLED)

pods: assets ## those of whole pods
	$(IN_TESTBED) $(CARGO) test $(ALL) --test e2e -- --skip faults:: --skip node:: $(LABELLED)

node: assets ## those of what is around pods: streams, events, figures, limits, the command line
	$(IN_TESTBED) $(CARGO) test $(ALL) --test e2e -- node:: $(LABELLED)

faults: assets ## what dies, breaks, fills up or lies, and the daemon killed between any two steps of what it does
	$(IN_TESTBED) $(CARGO) test $(ALL) --test e2e -- faults:: $(LABELLED)

conformance: assets ## critest, the CRI's conformance suite, in the test bed
	tests/images/conformance
	@tests/tools/critest
	tests/testbed/run $(CURDIR)/$(RELEASE)/husk-conformance $(FOCUS) $(LABELLED)

kubelet: assets ## a real kubelet, without a cluster, on a node of husk in the test bed
	@tests/tools/kubelet
	tests/testbed/run $(CURDIR)/$(RELEASE)/husk-kubelet

bench: assets ## husk's operations beside a bare VM, in the test bed
	tests/testbed/run $(CURDIR)/$(RELEASE)/husk-bench

bench-vmm: assets ## the monitor and pods beside their peers, with the project's goals; as root, half in the test bed
	tests/deps/install containerd runc containernetworking-plugins qemu-system-x86
	tests/images/conformance
	$(RELEASE)/husk-bench-vmm

bench-images: ## pulling images beside containerd, skopeo with umoci, and podman; as root, on this machine
	tests/deps/bench-images
	$(BUILD)
	tests/images/bench
	$(RELEASE)/husk-bench-images

load: assets ## a node with many pods, commands, connections, logs and records, in the test bed
	tests/deps/install containerd runc containernetworking-plugins
	tests/images/conformance
	HUSK_TESTBED_MEMORY=14G tests/testbed/run $(CURDIR)/$(RELEASE)/husk-load density execs forwards logs history storm

SOAK_MINUTES ?= 60
soak: assets ## everything at once for SOAK_MINUTES, and what has grown
	tests/testbed/run $(CURDIR)/$(RELEASE)/husk-load soak=$(SOAK_MINUTES)

DESTDIR ?=
install: ## install the programs, the guest and the systemd unit (built before) below DESTDIR
	install -D -t $(DESTDIR)/usr/bin $(RELEASE)/husk $(RELEASE)/husk-vmm $(RELEASE)/husk-convert
	install -D -m 644 -t $(DESTDIR)/usr/lib/husk target/guest/vmlinux target/guest/initramfs.cpio
	install -D -m 644 -t $(DESTDIR)/usr/lib/systemd/system runtime/dist/husk.service

FUZZ_SECONDS ?= 60
fuzz: ## fuzz what parses tenants' and clients' bytes, FUZZ_SECONDS for each target
	images/fuzz/run $(FUZZ_SECONDS)
	runtime/fuzz/run $(FUZZ_SECONDS)
	runtime/vmm/fuzz/run $(FUZZ_SECONDS)

demo: ## install, build and show a container in a VM of its own
	tests/demo

# From cheap to dear, so that what is broken shows early. The last ones are in the order in which two lanes end together.
test: deps ## every test
	$(MAKE) --jobs=2 build kernel
	$(MAKE) lint
	$(MAKE) --jobs=2 unit testbed
	$(MAKE) --jobs=2 pods faults conformance node machines
