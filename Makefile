# `make` alone says what there is. Everything is installed into .venv; stamps in it record what has been done.

PYTHON ?= python3
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
RUST := Cargo.toml $(wildcard Cargo.lock) $(shell find crates -name '*.rs' -o -name Cargo.toml)
SOURCES := $(RUST) pyproject.toml $(shell find python -name '*.py' -o -name '*.pyi')

# Prints what pyproject.toml asks for under some headings: the build system's own needs, or an extra's.
NEEDS := import sys, tomllib; data = tomllib.load(open("pyproject.toml", "rb")); \
	lists = {"build": data["build-system"]["requires"], **data["project"]["optional-dependencies"]}; \
	print(*sorted({need for name in sys.argv[1:] for need in lists[name]}), sep=chr(10))

# Crates ask this interpreter what to build for, so that changing shells does not mean building again.
export PYO3_PYTHON := $(CURDIR)/$(BIN)/python
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Also where maturin runs it.
export PIP_QUIET := 1

# What make says of its jobs is not for others: cargo would complain that it was not asked.
CARGO := env -u MAKEFLAGS -u MFLAGS cargo

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help build demo test test-rust test-python test-clusters bench faults chaos fuzz soak docs wheel
.PHONY: lint lint-rust lint-python fmt clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' $(MAKEFILE_LIST) | while IFS='|' read -r name words; do \
		printf '  make %-12s %s\n' "$$name" "$$words"; done

build: $(VENV)/.built ## forklift, optimised, into .venv

demo: $(VENV)/.built $(VENV)/.needs-demo ## the main job on real photographs and texts, beside multiprocessing.Pool
	$(BIN)/python examples/demo.py $(ARGS)

# First what leaves a core idle by itself: pip beside the checks of crates, then the optimised build beside mypy. What
# they say is shown when each is done. The tests of Python want all cores.
test: $(VENV)/.made ## all checks and all tests, of Rust and of Python
	@$(MAKE) --no-print-directory --jobs=3 --output-sync=target $(VENV)/.needs-checks lint-rust test-rust
	@$(MAKE) --no-print-directory --jobs=3 --output-sync=target $(VENV)/.built $(VENV)/.compiled lint-python
	@$(MAKE) --no-print-directory test-python
	@$(MAKE) --no-print-directory test-clusters

test-rust: $(VENV)/.made ## the crates' tests
	@if cargo nextest --version >/dev/null 2>&1; then \
		set -ex; $(CARGO) nextest run --workspace --no-fail-fast; $(CARGO) test --workspace --doc --quiet; \
	else \
		set -ex; $(CARGO) test --workspace --no-fail-fast; \
	fi

test-python: $(VENV)/.built $(VENV)/.needs-test $(VENV)/.compiled ## the package's tests; ARGS='-k word' for some of them
	$(BIN)/python -m pytest --ignore tests/clusters $(ARGS)

# By themselves, two at a time: Ray and Dask change how their process pickles exceptions, and want memory and cores.
test-clusters: $(VENV)/.built $(VENV)/.needs-test $(VENV)/.compiled ## the package's tests on real clusters of Ray and Dask, on loopback
	$(BIN)/python -m pytest -n 2 tests/clusters $(ARGS)

bench: $(VENV)/.built $(VENV)/.needs-bench ## forklift and its rivals; writes the tables of README and docs; ARGS=--quick for a look
	$(BIN)/python -m benchmarks.run $(ARGS)
	$(BIN)/python -m benchmarks.blocks $(filter --quick,$(ARGS))
	$(if $(filter --quick,$(ARGS)),,$(BIN)/python -m benchmarks.evolution)
	$(if $(filter --quick,$(ARGS)),,$(BIN)/python -m benchmarks.joblib_backend)
	$(if $(filter --quick,$(ARGS)),,$(BIN)/python -m benchmarks.clusters)

faults: $(VENV)/.built $(VENV)/.needs-bench ## the same faults in forklift and its rivals; writes docs/failures.md
	$(BIN)/python -m benchmarks.faults $(ARGS)

chaos: $(VENV)/.built $(VENV)/.needs-test ## maps under a random killer for two minutes; ARGS='--seconds 20 --seed 7'
	$(BIN)/python -m benchmarks.chaos $(ARGS)

fuzz: $(VENV)/.built $(VENV)/.needs-test ## random calls beside the oracle for two minutes; ARGS='--seconds 600 --seed 7'
	$(BIN)/python -m tests.fuzz.run $(ARGS)

soak: $(VENV)/.built $(VENV)/.needs-test ## 100,000 calls of all kinds, after which nothing has grown; ARGS='--calls 1000000 --minutes 60'
	$(BIN)/python -m tests.soak.run $(ARGS)

docs: $(VENV)/.built $(VENV)/.needs-docs ## the documentation, as a site, into site/
	$(BIN)/python -m mkdocs build --strict

# For glibc 2.17 and newer, and CPython 3.11 and newer; zig links against the old glibc. The sdist holds the sources.
wheel: $(VENV)/.needs-build $(VENV)/.needs-wheel ## a wheel and an sdist into dist/
	env -u CONDA_PREFIX VIRTUAL_ENV=$(CURDIR)/$(VENV) PATH=$(CURDIR)/$(BIN):$$PATH \
		$(BIN)/maturin build --release --strip --zig --compatibility manylinux_2_17 --out dist $(ARGS)
	env -u CONDA_PREFIX VIRTUAL_ENV=$(CURDIR)/$(VENV) $(BIN)/maturin sdist --out dist

lint: lint-rust lint-python ## formats, lints and types, without changing anything

lint-rust: $(VENV)/.made
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings

lint-python: $(VENV)/.needs-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

fmt: $(VENV)/.needs-dev ## bring all sources into shape
	$(CARGO) fmt --all
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean: ## remove all that was built or installed here
	rm -rf $(VENV) target build dist site .pytest_cache .mypy_cache .ruff_cache python/forklift/*.so
	find benchmarks examples python tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo 'Python 3.11 or newer is needed: make PYTHON=python3.12' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.needs-%: pyproject.toml $(VENV)/.made
	$(BIN)/python -c '$(NEEDS)' $* >$(VENV)/needs-$*.txt
	$(BIN)/python -m pip install --requirement $(VENV)/needs-$*.txt
	touch $@

# What all checks need, so that pip runs once and not three times.
$(VENV)/.needs-checks: pyproject.toml $(VENV)/.made
	$(BIN)/python -c '$(NEEDS)' build dev test >$(VENV)/needs-checks.txt
	$(BIN)/python -m pip install --requirement $(VENV)/needs-checks.txt
	touch $(VENV)/.needs-build $(VENV)/.needs-dev $(VENV)/.needs-test $@

# Installed in place: Python sources are used where they lie, only the extension module is built.
$(VENV)/.built: $(SOURCES) $(VENV)/.needs-build
	env -u CONDA_PREFIX -u MAKEFLAGS -u MFLAGS VIRTUAL_ENV=$(CURDIR)/$(VENV) $(BIN)/maturin develop --release --quiet
	touch $@

# Tests start thousands of interpreters. Some are told to write no bytecode, and would compile what they import.
$(VENV)/.compiled: $(shell find python tests -name '*.py') $(VENV)/.made
	$(BIN)/python -m compileall -q python tests
	touch $@
