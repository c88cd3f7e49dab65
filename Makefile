# Every target sets up what it needs: only Python 3.11+, make, git and a C compiler are assumed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Set up to measure, and to develop as well.
MEASURES := $(VENV)/.measures
READY := $(VENV)/.ready
comma := ,
MACHINE = $$($(BIN)/python -c 'from benchmarks.run.environment import machine_slug; print(machine_slug())')
# Says every five seconds that it still works; takes a message and a command.
define with_ticker
	@echo "$(1)"; ( while sleep 5; do echo "  still running"; done ) & ticker=$$!; trap "kill $$ticker 2>/dev/null" EXIT; $(2)
endef

.PHONY: bench test test-long test-all test-cuda test-slurm gpu lint format figures docs site report sweeps soak fuzz sanitize refresh wheel clean help

help:
	@echo "make bench    set up, run the quick sweep on every device found, write CSVs and figures to build/quick"
	@echo "make test     set up, run the unit tests"
	@echo "make test-all the unit tests, then those that take long: every committed figure, JAX compiled for each shape, real kills"
	@echo "make test-cuda  install Triton (a gigabyte), test its kernels in the interpreter and compile them ahead of time: needs no GPU"
	@echo "make test-slurm  a SLURM of two nodes on this machine, set up and taken down: runs over it, with failures (about 10 minutes; as root, needs slurm-wlm and munge)"
	@echo "make gpu      on a machine with an NVIDIA GPU: check it, measure what is worth most first, 40 minutes at most"
	@echo "make lint     set up, check style and types"
	@echo "make format   rewrite the code in the project's style"
	@echo "make figures  draw all committed figures again from the committed CSVs"
	@echo "make refresh  write all that is drawn from the committed CSVs again: figures, README, docs, report"
	@echo "make docs     write the tables of README and docs and the table of columns again"
	@echo "make site     build the reference of the library from its docstrings: build/site/index.html"
	@echo "make report   write docs/report.html again from the committed CSVs"
	@echo "make sweeps   measure every sweep on this machine, into results/<machine>"
	@echo "make soak     500 cases with faults at random, killed and resumed 20 times (about 10 minutes)"
	@echo "make fuzz     20,000 random networks, changes and calls against torch in float64"
	@echo "make sanitize the kernels under AddressSanitizer, UndefinedBehaviorSanitizer and ThreadSanitizer"
	@echo "make wheel    build the wheel, install it in an empty environment, compute a Jacobian there"

# The modules are compiled when they are first imported: pip would compile all of them, in half of the whole time.
define install
	$(PYTHON) -m venv $(VENV)
	@# The kernels need nothing that is installed here: they are compiled meanwhile, and who needs them first waits for the rest.
	@$(PYTHON) -I jacobians/kernels/native/compiler.py > /dev/null 2>&1 &
	$(call with_ticker,setting up $(VENV): about a minute and most of it PyTorch,$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check --constraint constraints.txt --editable '.[$(1)]')
	@touch $(2)
endef

$(READY): pyproject.toml constraints.txt
	$(call install,dev,$(READY) $(MEASURES))

$(MEASURES): pyproject.toml constraints.txt
	$(call install,bench$(comma)jax,$(MEASURES))

bench: $(MEASURES)
	$(BIN)/python bench.py run quick --out build/quick
	@echo "drawing the figures"
	$(BIN)/python bench.py plot build/quick/quick.csv --out build/quick --format svg,png
	@echo "the figures are in build/quick; open these two:"
	@echo "  build/quick/quick.png     the time of each mode, and of the best library, as the input grows"
	@echo "  build/quick/quick-2.png   the same on a small deep network"

# Threads that spin would take the other worker's core; the modules are compiled once and not in each of a hundred processes; and JAX
# optimises no machine code that runs once.
FOR_TESTS = OMP_WAIT_POLICY=passive PYTHONDONTWRITEBYTECODE= XLA_FLAGS=--xla_backend_optimization_level=0

test: $(READY)
	$(FOR_TESTS) $(BIN)/python -m pytest -n 2 --dist loadfile -m 'not long'

test-long: $(READY)
	$(FOR_TESTS) $(BIN)/python -m pytest -n 2 --dist loadfile -m long $(OPTIONS)

test-all: test test-long

test-cuda: $(READY)
	$(call with_ticker,installing Triton,$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps triton)
	TRITON_INTERPRET=1 $(BIN)/python -m pytest -n 2 tests/cuda
	$(BIN)/python -m pytest tests/cuda

test-slurm: $(READY)
	TEST_SLURM=1 $(BIN)/python -m pytest tests/cluster/test_slurm.py

gpu: $(READY)
	$(call with_ticker,installing Triton and JAX for CUDA,$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt triton 'jax[cuda13]')
	$(BIN)/python -m tools.gpu --minutes 40

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

figures: $(READY)
	$(BIN)/python bench.py plot

docs: $(READY)
	$(BIN)/python -m tools.docs

site: $(READY)
	$(BIN)/python -m pdoc --docformat google --no-search --output-directory build/site jacobians

report: $(READY)
	$(BIN)/python bench.py report --out docs/report.html

refresh: figures docs report

sweeps: $(READY)
	$(BIN)/python bench.py run quick,notebook,workloads,regret,square,wide-batches,random,batch,depth,inputs,width,outputs,bottleneck,aspect,gradients,gradients-growth,training-steps,gradient-norms,tangent-kernels,ggn,jacobian-training,jacobian-training-growth,laplacian,laplacian-growth,laplacian-training,laplacian-training-growth,hessian,hessian-growth --out results/$(MACHINE)

soak: $(READY)
	$(BIN)/python -m tests.faults.soak

fuzz: $(READY)
	FUZZ=20000 $(BIN)/python -m pytest -q -s tests/jacobians/test_fuzz.py

sanitize: $(READY)
	$(BIN)/python -m tests.sanitize address
	$(BIN)/python -m tests.sanitize narrow
	$(BIN)/python -m tests.sanitize thread

wheel: $(READY)
	rm -rf build/wheel
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir build/wheel/dist .
	$(PYTHON) -m venv build/wheel/env
	$(call with_ticker,installing the wheel in an empty environment,build/wheel/env/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt build/wheel/dist/*.whl)
	cd build/wheel && env/bin/python -c "import torch, jacobians as jac; m = jac.MLP.random(L=3, D=4, K=8, P=2); x = torch.randn(5, 4); assert torch.allclose(jac.jacobian(m, x), jac.jacobian(m, x, 'reverse:torch.func'), atol=1e-5); print('the wheel computes a Jacobian by', jac.plan(m, x).method)"
	! ( cd build/wheel && env/bin/python -P -c "import benchmarks" 2>/dev/null )

clean:
	rm -rf $(VENV) build .pytest_cache .ruff_cache .hypothesis .benchmarks
