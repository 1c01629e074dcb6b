# Plexus. `make demo` and `make test` are all that a new user needs.
#
# One command builds everything that the demo, the tests and the benches run, with one set of features:
# building less at a time would build the dependencies again for each choice.

# A build cache outside the checkout is used when there is one.
CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/plexus
export CARGO_TARGET_DIR ?= $(if $(wildcard $(CACHE)/target),$(CACHE)/target,$(CURDIR)/target)
PLEXUS := $(CARGO_TARGET_DIR)/release/plexus
VENV := $(CURDIR)/.venv

ARGS ?=
FILES ?=

.PHONY: help demo test build bench lint system-packages python

help: ## Show what there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

demo: build ## Boot three nodes, load TPC-H, open a SQL shell. ARGS="--no-shell" FILES="a.csv b.parquet"
	@$(PLEXUS) demo $(ARGS) $(FILES)

test: build python ## Run every test there is
	scripts/run-tests
	PLEXUS_BINARY=$(PLEXUS) $(VENV)/bin/python -m pytest -q -p no:cacheprovider tests/python

build: system-packages ## Build the binary, the tests and the benches
	cargo build --release --workspace --all-targets

bench: build $(VENV)/.bench ## Measure, and print a table. ARGS="--only changes" for parts
	-cargo build --release --locked --manifest-path bench/peers/Cargo.toml --target-dir $(CARGO_TARGET_DIR)/peers
	PLEXUS_BENCH_PYTHON=$(VENV)/bin/python \
	PLEXUS_BENCH_PEERS=$(CARGO_TARGET_DIR)/peers/release/plexus-bench-peers \
	$(CARGO_TARGET_DIR)/release/plexus-bench $(ARGS)

lint: system-packages ## Formatting, lints, and licences where cargo-deny is installed
	cargo fmt --all --check
	cargo clippy --release --workspace --all-targets -- -D warnings
	@if command -v cargo-deny >/dev/null 2>&1; then cargo deny check; \
	else echo "cargo-deny is not installed: licences and advisories were not checked" >&2; fi

system-packages: # libclang, which a dependency of the columnar format needs to build
	@scripts/system-packages

python: $(VENV)/.installed

$(VENV)/.installed: tests/python/requirements.txt
	python3 -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --requirement tests/python/requirements.txt
	touch $@

# What is measured beside Plexus.
$(VENV)/.bench: bench/requirements.txt $(VENV)/.installed
	$(VENV)/bin/python -m pip install --quiet --requirement bench/requirements.txt
	touch $@
