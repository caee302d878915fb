# Needs python3 with venv, and make. Another Python: make test PYTHON=python3.12
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
# What tools/install installs with; pip, where there is none.
export UV ?= $(shell command -v uv)
# The benchmarks' peers need many packages, and have a Python of their own for them.
PEERS  ?= $(VENV)-bench
# How many tests run at once. Most of their time they wait for processes that they started.
WORKERS ?= $(shell expr 2 '*' $$(nproc))
# The Python that the venv was made by is in the stamp's name, so another one makes it anew.
MADE   := $(VENV)/.made-$(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
SAY     = @printf '\n=== %s\n'

# Tests start thousands of processes, and none of them should compile everything anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo test lint unit simulate cluster grid_engine slurm faults chaos bench bench-local bench-cluster bench-slurm bench-scale bench-report bench-smoke docs clean
help:
	@echo 'make demo     installs GridMap in $(VENV) and counts words with it, on this machine'
	@echo 'make test     checks and tests everything; says what it skipped'
	@echo 'make lint     ruff, mypy, lint-imports, docs'
	@echo 'make docs     builds the documentation in build/docs; a warning is an error'
	@echo 'make unit     the tests that need no cluster'
	@echo 'make simulate 20,000 random histories of a cluster, without one'
	@echo 'make cluster  the tests on a real Grid Engine and on a real Slurm (Debian, root); either alone:'
	@echo '              make grid_engine, make slurm'
	@echo 'make faults   the fault matrix: breaks things on one and on three hosts (Debian, root; over an hour)'
	@echo 'make chaos    random faults on three hosts: SEED=1 CHAOS_S=600 CHAOS_CALLS=20000; SCHEDULER=slurm'
	@echo 'make bench    measures all there is in docs/performance.rst (2 h): bench-local beside its peers,'
	@echo '              which are installed in $(PEERS), bench-cluster, bench-slurm beside its peers, bench-scale;'
	@echo '              bench-report'
	@echo 'make bench-smoke  the same with small sizes: does it run, are the results right'
	@echo 'make clean    removes what these made'

demo: $(VENV)/.installed
	$(SAY) 'examples/map_reduce.py --local'
	$(BIN)/python examples/map_reduce.py --local

# What failed first must not hide what fails next, so each part runs and the summary adds up.
test: $(VENV)/.installed-lint
	@PYTHON=$(abspath $(BIN))/python tools/summary \
	    lint    '$(MAKE) --no-print-directory lint' \
	    unit    '$(MAKE) --no-print-directory unit' \
	    grid_engine '$(MAKE) --no-print-directory grid_engine' \
	    slurm   '$(MAKE) --no-print-directory slurm' \
	    bench   '$(MAKE) --no-print-directory bench-smoke'

lint: $(VENV)/.installed-lint
	@status=0; \
	for check in 'ruff check .' 'ruff format --check .' mypy lint-imports; do \
	    echo "$$check"; $(BIN)/$$check || status=1; \
	done; $(MAKE) --no-print-directory docs || status=1; exit $$status

# All of it each time: what was read before is not read again, and so not warned of again.
docs: $(VENV)/.installed-lint
	$(BIN)/python -m sphinx -q -E -W --keep-going -b html -d build/doctrees docs build/docs

UNIT ?= not cluster
UNITS ?= tests
unit: $(VENV)/.installed-test
	$(BIN)/python -m pytest -q -rs -n $(WORKERS) -m '$(UNIT)' --ignore=tests/cluster --ignore=tests/faults --ignore=tests/slurm_faults $(UNITS)

simulate: $(VENV)/.installed-test
	GRIDMAP_HISTORIES=20000 $(BIN)/python -m pytest -q -n $(WORKERS) tests/core/test_simulation.py

cluster: $(VENV)/.installed-test
	@PYTHON=$(abspath $(BIN))/python tools/summary \
	    grid_engine '$(MAKE) --no-print-directory grid_engine' \
	    slurm '$(MAKE) --no-print-directory slurm'

# What is enough to know that a scheduler's description is right.
OF_A_BACKEND := test_backend or test_described

# Here, too, no part hides another.
grid_engine: export SCHEDULER := grid_engine
grid_engine: $(VENV)/.installed-test
	@PYTHON=$(abspath $(BIN))/python tools/summary \
	    'one host' 'tools/cluster_tests' \
	    'by a file' "BACKEND=grid_engine_commands tools/cluster_tests -k '$(OF_A_BACKEND)'" \
	    'three hosts' "tools/fault_tests -m 'not slow'"

slurm: export SCHEDULER := slurm
slurm: $(VENV)/.installed-test
	@PYTHON=$(abspath $(BIN))/python tools/summary \
	    accounting 'tools/cluster_tests' \
	    'by a file' "BACKEND=slurm_commands tools/cluster_tests -k '$(OF_A_BACKEND)'" \
	    faults "tools/fault_tests -m 'not slow'" \
	    'no accounting' 'SLURM_TEST_ACCOUNTING=0 tools/cluster_tests -m endings'

# Each part runs, whatever the one before has come to; what they measured is in docs/faults.json then.
RECORD := $(VENV)/faults.record
faults: $(VENV)/.installed-test
	@rm -f $(RECORD)
	@FAULTS_RECORD=$(abspath $(RECORD)) PYTHON=$(abspath $(BIN))/python tools/summary \
	    'one host' "tools/cluster_tests -m fault" \
	    'three hosts' "tools/fault_tests -k 'not chaos'" \
	    slurm 'SCHEDULER=slurm tools/cluster_tests -m fault' \
	    'slurm broken' "SCHEDULER=slurm tools/fault_tests -k 'not chaos'" \
	    chaos 'tools/fault_tests -s -k chaos' \
	    'slurm chaos' 'SCHEDULER=slurm tools/fault_tests -s -k chaos' \
	    table 'tools/fault_table --record $(RECORD) && tools/fault_table --print'

SEED ?= 1
faults chaos: export CHAOS_SEED := $(SEED)
faults chaos: export CHAOS_S ?= 600
faults chaos: export CHAOS_CALLS ?= 20000
chaos:
	tools/fault_tests -s -k chaos

# All that is measured; what it comes to is in docs/performance.rst then.
bench: bench-local bench-cluster bench-slurm bench-scale

bench-cluster: $(VENV)/.installed-test
	SCHEDULER=grid_engine tools/cluster_bench
	SCHEDULER=slurm tools/cluster_bench
	$(BIN)/python -m benchmarks report

bench-slurm: $(VENV)/.installed-test
	PEERS=1 tools/cluster_bench
	$(BIN)/python -m benchmarks report

bench-local: $(PEERS)/.installed
	$(PEERS)/bin/python -m benchmarks local --record
	$(PEERS)/bin/python -m benchmarks report

bench-scale: $(VENV)/.installed-test
	$(BIN)/python -m benchmarks scale --record
	$(BIN)/python -m benchmarks report

bench-report: $(VENV)/.installed-test
	$(BIN)/python -m benchmarks report

bench-smoke: $(VENV)/.installed-test
	$(BIN)/python -m benchmarks smoke

$(MADE):
	$(SAY) 'a Python of its own in $(VENV)'
	$(PYTHON) -m venv --clear $(VENV)
	touch $@

$(VENV)/.installed: $(MADE) pyproject.toml
	$(SAY) 'installing gridmap in $(VENV)'
	tools/install $(BIN)/python -e .
	touch $@

$(VENV)/.installed-test: $(MADE) pyproject.toml
	$(SAY) 'installing gridmap and what its tests need in $(VENV)'
	tools/install $(BIN)/python -e '.[test]'
	touch $@ $(VENV)/.installed

$(VENV)/.installed-lint: $(VENV)/.installed-test
	tools/install $(BIN)/python -e '.[lint,docs]'
	touch $@

# GridMap as users have it: what is installed in editable mode takes longer to import.
$(PEERS)/.installed: $(PEERS)/.peers $(shell find gridmap -name '*.py') pyproject.toml
	$(SAY) 'installing gridmap in $(PEERS)'
	rm -rf build
	tools/install $(PEERS)/bin/python --force-reinstall --no-deps .
	touch $@

# A peer that cannot be installed is one that the tables say so of.
$(PEERS)/.peers: benchmarks/peers.txt pyproject.toml
	$(SAY) 'installing the peers in $(PEERS)'
	$(PYTHON) -m venv --clear $(PEERS)
	tools/install $(PEERS)/bin/python .
	grep -v '^#' $< | while read -r peer; do \
	    tools/install $(PEERS)/bin/python "$$peer" || true; \
	done
	touch $@

clean:
	rm -rf $(VENV) $(PEERS) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -prune -exec rm -rf {} +
