# Works on a machine with git, make and Python >= 3.11 (with venv) and nothing else.
# One environment, .venv, is shared by every target.
PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/.installed
RUN := $(VENV)/bin
export PYTHONUNBUFFERED := 1
# Without its byte code every start of Python would compile torch again: half a minute each.
unexport PYTHONDONTWRITEBYTECODE
.PHONY: help demo test examples test-slow check check-types bench bench-quality env clean
.DEFAULT_GOAL := help

help:  ## show these targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

env: $(STAMP)  ## make the environment in .venv

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "onevec needs Python >= 3.11, found $$($(PYTHON) --version 2>&1): run  make $(MAKECMDGOALS) PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || \
	  { echo "Python's venv module is missing: run  sudo apt install python3-venv  (Debian, Ubuntu), then again"; exit 1; }
	@echo "making the environment in $(VENV) (the registry's torch for Linux brings CUDA: about 3 GB to load)"
	@start=$$(date +%s); \
	if command -v uv >/dev/null 2>&1; then uv=uv; [ -x $(RUN)/python ] || uv venv -q --python $(PYTHON) $(VENV); \
	else [ -x $(RUN)/python ] || $(PYTHON) -m venv $(VENV); $(RUN)/python -m pip install -q --disable-pip-version-check uv 2>/dev/null; uv=$(RUN)/uv; fi && \
	$$uv pip install -q --python $(RUN)/python -c constraints.txt -e '.[hf,files,report,onnx,search,eval]' --group dev && \
	touch $(STAMP) && echo "environment ready in $$(( $$(date +%s) - start )) s"

demo: $(STAMP)  ## the main job on real data: a verdict, a table against the mean, report.html
	@start=$$(date +%s); $(RUN)/onevec demo --out report.html && echo "demo took $$(( $$(date +%s) - start )) s"

# A process a core, of one thread each; more than four would want more memory than laptops have.
test: $(STAMP)  ## the fast tests
	@OMP_NUM_THREADS=1 $(RUN)/python -m pytest -q -n auto --maxprocesses 4 --dist loadfile

examples: $(STAMP)  ## every script of examples/
	@$(RUN)/python -m pytest -q -m slow tests/test_examples.py

test-slow: $(STAMP)  ## the slow ones: memory limits, the examples, the wheel
	@$(RUN)/python -m pytest -q -m slow

check: $(STAMP)  ## format, lint, types, import order
	@$(RUN)/ruff format --check src tests benchmarks examples
	@$(RUN)/ruff check src tests benchmarks examples
	@$(RUN)/pyright
	@$(RUN)/python -m pytest -q tests/test_imports.py

# Exports are left out: a check of shapes reads sizes, which a graph must leave open.
TYPED := onevec.poolers,onevec.objectives,onevec.project,onevec.vector,onevec.judge,onevec.ragged,onevec.segment,onevec.views,onevec.train
check-types: $(STAMP)  ## annotations and array shapes, checked while the tests of the numeric packages run
	@OMP_NUM_THREADS=1 $(RUN)/python -m pytest -q --jaxtyping-packages=$(TYPED),tests.typed.checked tests/contracts tests/parity tests/test_vector.py tests/test_parts.py tests/test_train.py tests/test_estimator.py

bench: $(STAMP)  ## the demo's figures in the README again
	@$(RUN)/python benchmarks/readme.py --demo

$(VENV)/.peers: $(STAMP) benchmarks/overrides.txt
	@echo "adding the packages of the peers"
	@if command -v uv >/dev/null 2>&1; then uv=uv; else uv=$(RUN)/uv; fi && \
	$$uv pip install -q --python $(RUN)/python -c constraints.txt --override benchmarks/overrides.txt -e '.[hf,files,report,onnx,search,eval,bench]' --group dev && touch $@

bench-quality: $(VENV)/.peers  ## the quality benchmark (QUICK=1: some minutes, from the clone alone; else needs ONEVEC_DATA; BASELINES=1: peers, hours)
	@$(RUN)/python benchmarks/quality.py $(if $(QUICK),--quick) $(if $(BASELINES),--baselines) $(if $(TASKS),--tasks $(TASKS)) $(if $(METHODS),--methods $(METHODS))

clean:  ## remove the environment and caches
	@rm -rf $(VENV) dist .pytest_cache .ruff_cache .hypothesis
