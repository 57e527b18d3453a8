# gpreempt: `make demo` shows it, `make test` proves it. Each target installs what it needs (as root) or says what is missing.

PREFIX ?= /usr/local
DESTDIR ?=
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)

.PHONY: help demo test test-kernel lib wheel install bench bench-kernel clean

help: ## Show the targets
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' Makefile | expand -t 20

demo: ## Online inference preempts offline training on a simulated machine of eight MI308X, four ways compared
	@scripts/setup demo
	@cargo build --release --quiet --package gpreempt-cli
	@target/release/gpreempt demo $(DEMO_ARGS)

test: ## Every test that needs no kernel build
	@scripts/setup test
	@kernel-patch/fetch-uapi
	@GPREEMPT_REQUIRE_KFD_UAPI=1 scripts/test

test-kernel: ## The KFD series, under QEMU; DEBUG=1 on a debug kernel, FULL=1 with mutations and more, SHARD=k/n for a part of that
	@scripts/setup kernel
	@cargo build --release --quiet --package gpreempt-capi --package gpreempt-cli --package gpreempt-vm-tests
	@scripts/wheel
	@kernel-patch/test

lib: ## target/release/libgpreempt_poc_v2.so, the agent of `gpreempt offline` and the gpreempt command
	@scripts/setup demo
	@cargo build --release --package gpreempt-capi --package gpreempt-agent
	@cargo build --release --package gpreempt-cli

wheel: ## target/wheels/gpreempt-*.whl
	@scripts/setup wheel
	@scripts/wheel

install: lib ## The library, its header, its pkg-config file and the command, below $(DESTDIR)$(PREFIX)
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/include $(DESTDIR)$(PREFIX)/lib/pkgconfig
	install -m 755 target/release/gpreempt $(DESTDIR)$(PREFIX)/bin/
	install -m 755 target/release/libgpreempt_poc_v2.so target/release/libgpreempt_agent.so $(DESTDIR)$(PREFIX)/lib/
	install -m 644 include/gpreempt_poc_v2.h $(DESTDIR)$(PREFIX)/include/
	sed -e 's|@prefix@|$(PREFIX)|' -e 's|@version@|$(VERSION)|' include/gpreempt_poc_v2.pc.in \
		>$(DESTDIR)$(PREFIX)/lib/pkgconfig/gpreempt_poc_v2.pc
	@[ -n "$(DESTDIR)" ] || [ "$$(id -u)" -ne 0 ] || ldconfig

bench: ## What our own code costs, measured on this machine
	@scripts/setup wheel
	@scripts/bench

bench-kernel: ## What preemption costs the driver, four ways compared on fake GPUs under QEMU
	@scripts/setup kernel
	@kernel-patch/bench

clean: ## Remove everything that was built
	rm -rf target python/gpreempt/*.so python/gpreempt/gpreempt_poc_v2.h
