# make demo    sets up .venv once and reconstructs the demo studies; ends by naming the page to open
# make test    sets up the same way with what the tests need, then runs checks and tests; as root on Debian and Ubuntu it
#              also installs the programs that tests compare with (.ci/install-tools), elsewhere their tests are skipped
# make bench   benchmarks ours against DDS and the classical methods on volumes that you name: make bench CT=... MR=...
# make clean   removes results and caches, keeps .venv

PYTHON ?= python3
CORES ?= all
VENV := .venv
BIN := $(VENV)/bin
RUNTIME := $(VENV)/.runtime-ready
DEV := $(VENV)/.dev-ready

.PHONY: demo test check tools bench clean
.DELETE_ON_ERROR:

demo: $(RUNTIME)
	$(BIN)/snakemake --cores $(CORES) --configfile configs/demo.yaml
	@echo "Open file://$(CURDIR)/results/index.html"

test: check tools
	$(BIN)/python -m pytest -q --numprocesses=auto --maxprocesses=8 --dist=loadfile

check: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/snakefmt --check Snakefile benchmarks/Snakefile pipeline/rules
	$(BIN)/snakemake --lint

tools:
	@.ci/install-tools

$(RUNTIME): requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed: make demo PYTHON=python3.12" if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

$(DEV): requirements-dev.txt $(RUNTIME)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@

bench: $(RUNTIME)
	$(BIN)/snakemake all -s benchmarks/Snakefile --cores $(CORES) --config ct=$(CT) mr=$(MR) tasks=ct30,mr4 methods=classical,ours,dds slices=8 samples=2 rival_samples=2 docs=results/bench/docs

clean:
	rm -rf results .snakemake .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +
