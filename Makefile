# Every target makes what it needs: a virtual environment from PYTHON alone (by uv where it is found, else by venv and
# pip), and in it the extra that the target uses. What is up to date is left alone.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
UV := $(shell command -v uv 2>/dev/null)
SOURCES := $(shell find src docs tests/plugins -type f -not -name '*.pyc') mkdocs.yml pyproject.toml README.md

INSTALL = $(if $(UV),uv pip install --python $(BIN)/python,$(BIN)/python -m pip install --quiet)
ORACLES := .venv-oracles
# The peers of the benchmark: those on JAX in Python 3.12 where there is one, as one of them wants it.
BENCH := .venv-bench
BENCH_PYTHON ?= $(shell for python in python3.12 $(HOME)/.pyenv/versions/3.12.*/bin/python $(PYTHON); do \
	"$$python" -c '' 2>/dev/null && echo "$$python" && break; done)
OUT ?= benchmark
# What pytest is told besides: TESTS="-m versions" for the tests that depend on the version of Python or JAX.
TESTS ?=
# What pip needs of a clone, without an environment.
WALK := .cache/walk

.PHONY: demo test test-oracles walk bench bench-quick check docs clean
.DELETE_ON_ERROR:

demo: $(VENV)/demo.installed
	$(BIN)/vitrail demo

test: $(VENV)/test.installed
	$(BIN)/python -m pytest $(TESTS)

# Against the original libraries, in an environment of their own: the package is never tested with torch beside it.
test-oracles:
	$(MAKE) VENV=$(ORACLES) $(ORACLES)/oracles.installed
	HF_HUB_OFFLINE=1 $(ORACLES)/bin/python -m pytest tests/oracles

# What a newcomer does: the commands and the code of Getting started, in an environment of what that page installs.
walk: $(BIN)/python
	rm -rf $(WALK)
	mkdir -p $(WALK)
	cp -R src pyproject.toml README.md LICENSE $(WALK)
	$(BIN)/python tests/run_page.py docs/getting-started.md $(WALK) --fresh
	rm -rf $(WALK)

# Against the other implementations, each kind in an environment of its own: OUT.json and OUT.md. Leave the machine alone.
bench bench-quick:
	$(MAKE) VENV=$(BENCH)-jax PYTHON=$(BENCH_PYTHON) $(BENCH)-jax/jax-peers.installed
	$(MAKE) VENV=$(BENCH)-torch $(BENCH)-torch/torch-peers.installed
	$(BENCH)-jax/bin/python tests/benchmarks/run.py --torch $(BENCH)-torch/bin/python --out $(OUT) \
		$(if $(filter bench-quick,$@),--quick)

check: $(VENV)/dev.installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/pyright
	$(BIN)/python -m pytest -q -p no:cacheprovider tests/test_typing.py tests/test_design.py

docs: site/index.html

site/index.html: $(SOURCES) | $(VENV)/docs.installed
	$(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) $(ORACLES) $(BENCH)-jax $(BENCH)-torch .cache .pytest_cache site

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "vitrail needs Python 3.11 or newer, got $$($(PYTHON) --version): make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	rm -f $(VENV)/*.installed
	$(if $(UV),uv venv --clear --python "$$(command -v $(PYTHON))" $(VENV),$(PYTHON) -m venv --clear $(VENV))

$(VENV)/%.installed: pyproject.toml | $(BIN)/python
	$(INSTALL) --editable '.[$*]'
	touch $@

$(VENV)/oracles.installed: $(VENV)/test.installed tests/oracles/requirements.txt tests/oracles/originals.txt
	$(INSTALL) -r tests/oracles/requirements.txt
	$(INSTALL) --no-deps -r tests/oracles/originals.txt
	touch $@

$(VENV)/jax-peers.installed: tests/benchmarks/jax.txt pyproject.toml | $(BIN)/python
	$(INSTALL) --editable . -r tests/benchmarks/jax.txt $(if $(shell command -v nvidia-smi),'jax[cuda12]')
	touch $@

$(VENV)/torch-peers.installed: tests/benchmarks/torch.txt tests/benchmarks/originals.txt | $(BIN)/python
	$(INSTALL) -r tests/benchmarks/torch.txt
	$(INSTALL) --no-deps -r tests/benchmarks/originals.txt
	touch $@
