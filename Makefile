# Every target sets up what it needs: only Python 3.11+, make, git and a C compiler are assumed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: bench test lint format figures report sweeps soak clean help

help:
	@echo "make bench    set up, run the quick sweep on every device found, write CSVs and figures to build/quick"
	@echo "make test     set up, run the tests"
	@echo "make lint     set up, check style and types"
	@echo "make format   rewrite the code in the project's style"
	@echo "make figures  draw all committed figures again from the committed CSVs, and the table of the README"
	@echo "make report   write docs/report.html again from the committed CSVs"
	@echo "make soak     500 cases with faults at random, killed and resumed 20 times (about 10 minutes)"
	@echo "make sweeps   measure every sweep on this machine, into results/"

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $(READY)

bench: $(READY)
	$(BIN)/python bench.py run quick --out build/quick
	$(BIN)/python bench.py plot build/quick/quick.csv --out build/quick --format svg,png

test: $(READY)
	$(BIN)/python -m pytest

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

figures: $(READY)
	$(BIN)/python bench.py plot
	$(BIN)/python -m benchmarks.analysis.readme

report: $(READY)
	$(BIN)/python bench.py report --out docs/report.html

sweeps: $(READY)
	$(BIN)/python bench.py run quick depth inputs width outputs aspect batch bottleneck notebook square workloads regret

soak: $(READY)
	$(BIN)/python -m tests.faults.soak

clean:
	rm -rf $(VENV) build .pytest_cache .ruff_cache .hypothesis .benchmarks
