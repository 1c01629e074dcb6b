# Plexus. `make demo` and `make test` are all that a new user needs.
#
# All targets share one profile and one set of features: what the demo builds, the tests reuse.

# A build cache outside the checkout is used when there is one.
CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/plexus
export CARGO_TARGET_DIR ?= $(if $(wildcard $(CACHE)/target),$(CACHE)/target,$(CURDIR)/target)
PLEXUS := $(CARGO_TARGET_DIR)/release/plexus
VENV := $(CURDIR)/.venv

# Our own crates with few optimizations, and compiled in parts that a change leaves as they are.
QUICK := $(foreach crate,query coordinator flight node,--config profile.release.package.plexus-$(crate).opt-level=1 \
	--config profile.release.package.plexus-$(crate).codegen-units=32)

ARGS ?=
FILES ?=

.PHONY: help demo test fuzz attacks slt binary quick build bench lint system-packages python

help: ## Show what there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

demo: binary ## Boot three nodes, load TPC-H, open a SQL shell. ARGS="--no-shell" FILES="a.csv b.parquet"
	@$(PLEXUS) demo $(ARGS) $(FILES)

test: build python ## Run every test there is
	scripts/run-tests
	PLEXUS_BINARY=$(PLEXUS) $(VENV)/bin/python -m pytest -q -p no:cacheprovider tests/python

fuzz: binary python ## Random statements against DuckDB, damaged files, random bytes. ARGS="--seed 7"
	scripts/with-demo $(PLEXUS) $(VENV)/bin/python fuzz/differential.py --url URL $(ARGS)
	scripts/with-demo $(PLEXUS) $(VENV)/bin/python fuzz/mutated_files.py --url URL --binary $(PLEXUS)
	cargo run --release --package plexus-fuzz -- --inputs 1000000

attacks: binary $(VENV)/.attacks ## What strangers may send to a node. ARGS="-k memory"
	PLEXUS_BINARY=$(PLEXUS) $(VENV)/bin/python -m pytest -q -p no:cacheprovider tests/attacks $(ARGS)

slt: binary python ## All of DataFusion's own tests, on one node and spread over three
	PLEXUS_SLT_PARTS=1 PLEXUS_BINARY=$(PLEXUS) \
	$(VENV)/bin/python -m pytest -q -p no:cacheprovider tests/python/test_datafusion.py

binary: system-packages ## Build the plexus binary alone
	cargo build --release --package plexus-node --bin plexus

quick: system-packages ## Build the binary in a few minutes, less optimized, to try a change
	CARGO_INCREMENTAL=1 cargo build --release --package plexus-node --bin plexus $(QUICK)

build: system-packages ## Build the binary, the tests and the benches
	cargo build --release --workspace --all-targets

bench: build $(VENV)/.bench ## Measure, and print a table. ARGS="--only dml" for parts
	-cargo build --release --locked --manifest-path bench/peers/Cargo.toml --target-dir $(CARGO_TARGET_DIR)/peers
	PLEXUS_BENCH_PYTHON=$(VENV)/bin/python \
	PLEXUS_BENCH_PEERS=$(CARGO_TARGET_DIR)/peers/release/plexus-bench-peers \
	$(CARGO_TARGET_DIR)/release/plexus-bench $(ARGS)

lint: system-packages ## Formatting, line width, lints, and licenses where cargo-deny is installed
	cargo fmt --all --check
	cargo fmt --manifest-path bench/peers/Cargo.toml --check
	scripts/check-width
	cargo clippy --workspace --all-targets -- -D warnings
	cargo clippy --manifest-path bench/peers/Cargo.toml --target-dir $(CARGO_TARGET_DIR)/peers -- -D warnings
	@if command -v cargo-deny >/dev/null 2>&1; then cargo deny check; \
	else echo "cargo-deny is not installed: licenses and advisories were not checked" >&2; fi

system-packages: # libclang, which a dependency of the columnar format needs to build
	@scripts/system-packages

python: $(VENV)/.installed

$(VENV)/.installed: tests/python/requirements.txt
	python3 -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --requirement tests/python/requirements.txt
	touch $@

$(VENV)/.attacks: tests/attacks/requirements.txt $(VENV)/.installed
	$(VENV)/bin/python -m pip install --quiet --requirement tests/attacks/requirements.txt
	touch $@

# What is measured beside Plexus.
$(VENV)/.bench: bench/requirements.txt $(VENV)/.installed
	$(VENV)/bin/python -m pip install --quiet --requirement bench/requirements.txt
	touch $@
