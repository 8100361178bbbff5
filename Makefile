# each target stands on a virtual environment of its own; nothing but Python 3.11, pip and make is needed
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

# bytecode is kept also where the environment forbids it, as images of containers like to: hundreds of processes that
# the tests start would each compile all modules anew
export PYTHONDONTWRITEBYTECODE :=

# three at a time on two cores, as many tests wait; those of one group, which share what is slow to make, in one process
PARALLEL := -n 3 --dist loadgroup --durations=10
# CI measures coverage on the way, see .ci/run
PYTEST ?= $(BIN)/pytest

.PHONY: run test quick coverage test-slow lint fix docs site build bench clean

run: $(VENV)/installed
	$(BIN)/qpipe run recipes/mobilenet_ssd.yaml

test: $(VENV)/installed-dev
	$(PYTEST) $(PARALLEL)

# which lines the quick tests run in their own processes
coverage: $(VENV)/installed-dev
	$(BIN)/python -m slipcover -m pytest $(PARALLEL) -m "not slow and not lab"

quick: $(VENV)/installed-dev
	$(PYTEST) $(PARALLEL) -m "not slow and not lab"

# all of them, also on virtual boards and through every fault: as root, an hour or two; what is missing here is said
test-slow: $(VENV)/installed-dev
	$(PYTEST) -m "lab or not lab"

lint: $(VENV)/installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/cog --check -I docs README.md docs/reference/*.md

fix: $(VENV)/installed-dev
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

docs: $(VENV)/installed-dev
	$(BIN)/cog -r -I docs README.md docs/reference/*.md

# build/site/index.html opens from disk; the notice that it leaves out is on mkdocs' future, not on these pages
site: $(VENV)/installed-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

build: $(VENV)/installed-dev
	rm -rf dist build/smoke
	$(BIN)/python -m build
	$(PYTHON) -m venv build/smoke
	build/smoke/bin/pip install --quiet dist/*.whl
	build/smoke/bin/qpipe --help > /dev/null
	build/smoke/bin/qpipe plugins > /dev/null

bench: $(VENV)/installed-dev
	$(BIN)/python tests/bench/run.py

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/pip install --quiet -e .
	touch $@

$(VENV)/installed-dev: $(VENV)/installed pyproject.toml
	$(BIN)/pip install --quiet --group dev
	touch $@

clean:
	rm -rf $(VENV) build dist
