# SPDX-License-Identifier: Apache-2.0
# The only entry point. `make` lists the targets.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules --no-print-directory

VENV := .venv
PYTHON := $(VENV)/bin/python
BUILD := .build
BPF_SOURCES := $(wildcard bpf/*.c bpf/*.h)
# All C but what cffi generates.
C_PARTS := kernel compiler events
C_SOURCES := $(filter-out $(foreach part,$(C_PARTS),src/bpfence/$(part)/_%),$(wildcard $(addsuffix /*.[ch],bpf $(addprefix src/bpfence/,$(C_PARTS)) tests/kernel/bpf tests/kernel/triggers tests/kernel/probed benchmarks)))
TRIGGER := $(BUILD)/trigger
# The program of tests/kernel/test_uprobes.py: position independent, at a fixed place and static, without symbols.
PROBED := $(addprefix $(BUILD)/probed/,pie static stripped)
WORKLOAD := $(BUILD)/workload
CFLAGS := -O2 -g -Wall -Wextra -Werror -static -pthread
# One kernel for everyday work; `make test KERNELS=5.10` takes another. `all` is the whole table of vmtest/kernels.py.
KERNELS ?= 6.12
export PATH := $(CURDIR)/$(BUILD)/bin:$(PATH)
export PYTHONPATH := $(CURDIR)/src:$(CURDIR)

.PHONY: help
help: ## this list
	@printf 'bpfence: make TARGET\n\n'
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## /\1\t/' | while IFS=$$'\t' read -r name text; do printf '  \033[1m%-10s\033[0m %s\n' "$$name" "$$text"; done
	@printf '\nvariables: KERNELS=6.12,5.10 (for test), ARGS=... (more arguments for pytest, demo and bench)\n'

.PHONY: dev
dev: $(BUILD)/dev.stamp bpf $(TRIGGER) $(PROBED) ## everything needed to build, run and test; leaves .venv/bin/bpfence
	@echo "ready: $(VENV)/bin/bpfence"

$(BUILD)/python: tools/setup.sh
	@mkdir -p $(BUILD)/bin
	@echo "system packages"
	@tools/setup.sh $(BUILD)/python $(BUILD)/bpftool
	@ln -sf "$$(cat $(BUILD)/bpftool)" $(BUILD)/bin/bpftool

$(PYTHON): | $(BUILD)/python
	@echo "virtual environment in $(VENV)"
	@"$$(cat $(BUILD)/python)" -m venv $(VENV)

$(BUILD)/dev.stamp: pyproject.toml setup.py $(wildcard $(foreach part,$(C_PARTS),$(addprefix src/bpfence/$(part)/,build_*.py *.c *.h))) \
		bpf/abi.h $(BUILD)/python | $(PYTHON)
	@echo "Python packages"
	@$(PYTHON) -m pip install -q --disable-pip-version-check --upgrade pip
	@$(PYTHON) -m pip install -q --disable-pip-version-check -e '.[dev]'
	@touch $@

.PHONY: bpf
bpf: $(BUILD)/bpf.stamp ## the BPF object, built when a source is newer
$(BUILD)/bpf.stamp: $(BPF_SOURCES) tools/build_bpf.py | $(BUILD)/dev.stamp
	@echo "BPF object"
	@$(PYTHON) tools/build_bpf.py
	@touch $@

$(TRIGGER): $(wildcard tests/kernel/triggers/*.c tests/kernel/triggers/*.h) | $(BUILD)/python
	@gcc $(CFLAGS) -o $@ $(filter %.c,$^)
$(PROBED): tests/kernel/probed/probed.c | $(BUILD)/python
	@mkdir -p $(@D)
	@gcc -O2 -g -Wall -Wextra -Werror $(if $(findstring static,$@),-static,-fPIE -pie) $(if $(findstring stripped,$@),-s) -o $@ $<
$(WORKLOAD): benchmarks/workload.c | $(BUILD)/python
	@gcc $(CFLAGS) -o $@ $<

.PHONY: generate
generate: $(BUILD)/dev.stamp ## rewrite the generated files (ABI, schema, reference docs)
	@for tool in tools/gen_*.py; do echo "$$tool"; $(PYTHON) $$tool; done

.PHONY: docs
docs: $(BUILD)/dev.stamp ## the documentation site, in .build/site; a link that leads nowhere is an error
	@NO_MKDOCS_2_WARNING=1 $(PYTHON) -m mkdocs build --quiet --strict

.PHONY: format
format: $(BUILD)/dev.stamp ## Python and C as `make check` wants them
	@$(VENV)/bin/ruff format -q .
	@$(VENV)/bin/clang-format -i $(C_SOURCES)

.PHONY: check
check: $(BUILD)/dev.stamp docs ## ruff (rules and format), clang-format, mypy --strict, import-linter, generated files are current, the site's links
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check -q .
	@$(VENV)/bin/clang-format --dry-run --Werror $(C_SOURCES)
	@$(VENV)/bin/mypy --strict src tools vmtest
	@$(VENV)/bin/lint-imports --no-cache
	@for tool in tools/gen_*.py; do $(PYTHON) $$tool --check; done

.PHONY: unit
unit: $(BUILD)/dev.stamp bpf ## unit tests: no root, no kernel
	@$(PYTHON) -m pytest tests/unit $(ARGS)

# The wheel takes longer than most of what ARGS choose; who chooses its tests builds it first.
.PHONY: test
test: check dev $(if $(ARGS),,installed) ## check, unit tests, kernel tests in one guest (KERNELS, default 6.12)
	@$(PYTHON) -m pytest tests/unit tests/seccomp tests/kernel tests/e2e tests/kubernetes --kernels '$(KERNELS)' $(ARGS)

.PHONY: test-all
test-all: check dev $(if $(ARGS),,installed) ## the same on every kernel and flavour, one boot each
	@$(PYTHON) -m pytest tests/unit tests/seccomp tests/kernel tests/e2e tests/kubernetes --kernels all $(ARGS)

# What the source distribution holds, so that a file more or less is a reason to build again, as a change in one of the package's is.
$(BUILD)/files: FORCE | $(BUILD)/dev.stamp
	@git ls-files --cached --others --exclude-standard 2>/dev/null >$@.now || true
	@if cmp -s $@.now $@; then rm $@.now; else mv $@.now $@; fi
FORCE:

$(BUILD)/wheel.stamp: $(BUILD)/files $(BPF_SOURCES) $(wildcard tools/build_*.py tools/bpf_stack.py) pyproject.toml setup.py MANIFEST.in \
		$(shell find src -name '*.py' -o -name '*.[ch]' -not -name '_*' -o -name '*.json' -o -name '*.lark') | $(BUILD)/dev.stamp
	@echo "wheel"
	@$(PYTHON) tools/build_wheel.py >$@

.PHONY: wheel
wheel: $(BUILD)/wheel.stamp ## source distribution and a wheel that needs Python alone, in dist/
	@cat $<

.PHONY: man
man: $(BUILD)/dev.stamp ## manual pages of all commands, from their help, in .build/man
	@$(PYTHON) tools/build_man.py

.PHONY: deb
deb: $(BUILD)/wheel.stamp ## a package for Debian 12 with all that bpfence needs but Python, in dist/
	@$(PYTHON) -m tools.build_packages $@

.PHONY: rpm
rpm: $(BUILD)/wheel.stamp ## the same for systems with rpm; needs rpmbuild (Debian: rpm)
	@$(PYTHON) -m tools.build_packages $@

.PHONY: dist
dist: $(BUILD)/wheel.stamp ## all that a release is made of, in dist/: wheel, sources, packages, an SBOM (CycloneDX), SHA256SUMS
	@$(PYTHON) -m tools.build_packages $@

.PHONY: image
image: $(BUILD)/wheel.stamp ## a container image for deploy/helm, in dist/: of Debian's packages and the wheel, without an engine
	@$(PYTHON) tools/build_image.py

# An empty virtual environment with the wheel in it and nothing of this tree: what the tests of the package run.
$(BUILD)/installed.stamp: $(BUILD)/wheel.stamp
	@echo "the wheel in a virtual environment of its own"
	@rm -rf $(BUILD)/installed
	@"$$(cat $(BUILD)/python)" -m venv $(BUILD)/installed
	@env -u PYTHONPATH $(BUILD)/installed/bin/python -m pip install -q --disable-pip-version-check "$$(grep 'whl$$' $<)"
	@touch $@

.PHONY: installed
installed: $(BUILD)/installed.stamp ## the wheel, installed for the tests in .build/installed

.PHONY: kubernetes
kubernetes: $(BUILD)/dev.stamp ## an API server with etcd for tests/kubernetes, built with Go once and kept in the cache
	@$(PYTHON) tools/build_kubernetes.py

.PHONY: containerd
containerd: $(BUILD)/dev.stamp ## a containerd with NRI for tests/e2e/test_nri.py, fetched once and kept in the cache
	@$(PYTHON) tools/fetch_containerd.py

.PHONY: kafka
kafka: $(BUILD)/dev.stamp ## a Kafka broker for tests/e2e/test_kafka.py, fetched by Maven once and kept in the cache
	@$(PYTHON) tools/fetch_kafka.py

.PHONY: demo
demo: dev ## real attacks, without and with bpfence; in a guest where this kernel refuses
	@$(PYTHON) tools/demo.py $(ARGS)

.PHONY: bench
bench: dev $(WORKLOAD) ## every figure that has a target, and instructions under growing policy sets in 6.12 guests; writes docs/benchmarks*.md
	@benchmarks/setup.sh
ifeq ($(ARGS),)
	@$(PYTHON) benchmarks/falco.py
	@$(PYTHON) benchmarks/compile.py
	@$(PYTHON) benchmarks/userspace.py
	@$(PYTHON) benchmarks/memory.py
	@$(PYTHON) benchmarks/bench.py
	@$(PYTHON) benchmarks/seccomp.py
	@$(PYTHON) benchmarks/report.py
else
	@$(PYTHON) benchmarks/bench.py $(ARGS)
endif

.PHONY: bench-quick
bench-quick: dev $(WORKLOAD) ## programs and operations under few settings, compared with benchmarks/figures.json: an error where one has become worse
	@benchmarks/setup.sh
	@$(PYTHON) benchmarks/bench.py --quick $(ARGS)

.PHONY: kernels
kernels: $(BUILD)/dev.stamp ## fetch the test kernels into the cache
	@$(PYTHON) -m vmtest fetch --all

.PHONY: clean
clean: ## remove everything built; the kernel cache stays
	@rm -rf $(BUILD) $(VENV) build dist src/*.egg-info src/bpfence/*/_*.c
	@find src tests tools vmtest benchmarks -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true
	@find src -name '*.so' -delete -o -name '*.bpf.o' -delete
