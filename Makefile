# Every target works on a fresh machine with Python 3.11+: it makes its own virtual environment first.
#
#   make demo    see lbctl work: an embedded Kubernetes API, a stand-in cloud, the real controller (about a minute)
#   make lab     bare metal in network namespaces, left up for you to break (as root, on Linux); make lab-down ends it
#   make test    linters, types, import contracts, and every test
#   make lint    linters, types and import contracts alone
#   make bench   goals and measurements, side by side
#   make lock    pin requirements/*.txt anew from pyproject.toml
#   make clean   remove what the others made

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do command -v $$p >/dev/null \
	&& $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
DEMO := .venv-demo
DEV := .venv
JOBS ?= 2
PIP := -m pip install --quiet --disable-pip-version-check
# Processes are started by the hundred here: none needs to compile lbctl anew, and an installed one does not either.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo lab lab-down test lint bench lock clean controlplane nftables

help:
	@sed -n 's/^#   make/make/p' Makefile

define environment
	@test -n "$(PYTHON)" || { echo "lbctl needs Python 3.11 or newer; found none (set PYTHON=/path/to/python3)" >&2; exit 1; }
	$(PYTHON) -m venv --clear $(1) || { echo "Python cannot make a virtual environment (Debian: apt-get install python3-venv)" >&2; exit 1; }
	$(1)/bin/python $(PIP) -r requirements/$(2).txt
	$(1)/bin/python $(PIP) --no-deps --no-build-isolation -e .
	@touch $(1)/.ready
endef

$(DEMO)/.ready: requirements/demo.txt pyproject.toml
	$(call environment,$(DEMO),demo)

$(DEV)/.ready: requirements/dev.txt pyproject.toml
	$(call environment,$(DEV),dev)

demo: $(DEMO)/.ready
	$(DEMO)/bin/lbctl demo

lab: $(DEMO)/.ready
	$(DEMO)/bin/lbctl lab

lab-down: $(DEMO)/.ready
	$(DEMO)/bin/lbctl lab --down

lint: $(DEV)/.ready
	$(DEV)/bin/ruff check .
	$(DEV)/bin/mypy
	$(DEV)/bin/lint-imports

# Built once per version and kept in the user's cache; says why and goes on where Go is missing.
controlplane: $(DEV)/.ready
	$(DEV)/bin/python -m lbctl.testing.controlplane build

# For the one test with kube-proxy in the lab. Only root on Debian is helped; elsewhere that test says what it misses.
nftables:
	@if ! command -v nft >/dev/null && test "$$(id -u)" = 0 && command -v apt-get >/dev/null; then \
		{ apt-get update -qq && apt-get install -y -qq nftables iproute2; } >/dev/null \
		|| echo "nftables could not be installed: the lab's test with kube-proxy is left out" >&2; fi

test: lint controlplane nftables
	$(DEV)/bin/pytest -n $(JOBS) --dist loadgroup

bench: $(DEV)/.ready
	$(DEV)/bin/python -m tests.bench

lock: $(DEV)/.ready
	$(DEV)/bin/python $(PIP) pip-tools
	for set in demo dev; do $(DEV)/bin/pip-compile --quiet --strip-extras --generate-hashes --allow-unsafe \
		--no-emit-index-url --no-emit-find-links --no-emit-trusted-host --no-header --no-annotate --unsafe-package lbctl \
		$$(test $$set = demo && echo "--extra aws --extra sandbox" || echo "--extra aws --extra sandbox --extra dev") \
		--output-file requirements/$$set.txt pyproject.toml requirements/build.in; \
		sed -i '/^# The following packages/d; /^lbctl @ /d' requirements/$$set.txt; done

clean:
	rm -rf $(DEMO) $(DEV) .lbctl build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
