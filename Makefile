# language-finetune. `make help` lists the targets; CONTRIBUTING.md tells which one when.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c

CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/language-finetune
UV_VERSION := 0.13.9
UV_HOME := $(CACHE)/uv-$(UV_VERSION)
export UV := $(UV_HOME)/bin/uv
export UV_PYTHON_DOWNLOADS := never
# `import unsloth` takes 8 s with bytecode and half a minute without.
export UV_COMPILE_BYTECODE := 1
PYTHON ?= python3.11
VENV := .venv
RUN := $(UV) run --frozen --no-sync
LAB := python3 -m tests.cluster
CLUSTER ?= lab
SOURCES := operator trainer-image tests

.PHONY: help
help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/\1\t\2/' | expand -t 18

# --- The three commands ---------------------------------------------------------------------------

.PHONY: demo
demo: venv ## The main job on real input: cluster, S3, images, helm install, a Swahili adapter (CLUSTER=current: yours)
	$(VENV)/bin/python -m tests.demo up --cluster $(CLUSTER)

.PHONY: demo-down
demo-down: venv ## Remove all that `make demo` made
	$(VENV)/bin/python -m tests.demo down --cluster $(CLUSTER)

.PHONY: test
test: check core-coverage unit-newest torch-test ## All that needs no cluster and no root: checks, coverage, training on CPU

.PHONY: test-cluster
test-cluster: chart-test cluster-test ## The rest, as root: chart, real API server, real kubelet, real images

# --- Without root, Go or torch ----------------------------------------------------------------------

.PHONY: check
check: venv-check lint types contracts generated unit ## Lint, types, import contracts, generated files, unit and golden tests: a minute and a half on two cores

.PHONY: lint
lint:
	$(RUN) ruff check $(SOURCES)
	$(RUN) ruff format --check $(SOURCES)

.PHONY: types
types:
	$(RUN) mypy

.PHONY: contracts
contracts:
	$(RUN) lint-imports

.PHONY: generated
generated:
	$(RUN) python -m finetune_api.crd --check
	$(RUN) python -m finetune_resolver.parameters_page --check

.PHONY: generate
generate: venv-check ## Write CRD, chart copy and reference pages from models and rules
	$(RUN) python -m finetune_api.crd
	$(RUN) python -m finetune_resolver.parameters_page
	$(RUN) python -m tests.unit_layout.room_map
	$(RUN) python -m tests.unit_operator.decide.state_machine

.PHONY: unit
unit:
	$(RUN) pytest -q -n auto --dist loadfile -m "not cluster and not e2e and not torch and not slow" tests

.PHONY: core-coverage
core-coverage: venv ## Every line and branch of resolver and decisions is tested (two minutes)
	$(RUN) pytest -q -n auto --dist loadfile -m "not cluster and not e2e and not torch and not slow" \
	  tests/unit_resolver tests/unit_operator --cov

NEWEST := $(shell for minor in 14 13 12; do for python in python3.$$minor \
  $(HOME)/.pyenv/versions/3.$$minor.*/bin/python; do \
  if $$python -c '' 2>/dev/null; then echo $$python; exit; fi; done; done)
NEWEST_VENV := $(CACHE)/venv-newest

.PHONY: unit-newest
unit-newest: $(UV) ## The unit tests on the newest Python that is installed and supported
	@if [ -z "$(NEWEST)" ]; then echo "unit-newest: no Python from 3.12 to 3.14 is installed; nothing to run"; exit 0; fi; \
	set -x; UV_PROJECT_ENVIRONMENT=$(NEWEST_VENV) $(UV) sync --frozen --quiet --python $(NEWEST) \
	  --extra operator --extra cli --group lab --group trainer-light; \
	$(NEWEST_VENV)/bin/pytest -q -n auto --dist loadfile -p no:cacheprovider \
	  -m "not cluster and not e2e and not torch and not slow" tests

# --- With torch, root, Go ---------------------------------------------------------------------------

.PHONY: chart-test
chart-test: venv cluster-tools
	eval "$$($(LAB) env 2>/dev/null || true)"; $(RUN) pytest -q tests/unit_chart

.PHONY: torch-test
torch-test: venv ## Training on CPU with a tiny model, and slow unit tests
	$(RUN) pytest -q -m "(torch or slow) and not cluster and not e2e" tests

.PHONY: cluster-test
cluster-test: venv cluster-up images ## Integration and end to end on the lab
	$(RUN) pytest -q -m cluster --ignore tests/e2e tests
	@# By itself and last: the operator that it installs would answer the other tests' resources.
	$(RUN) pytest -q tests/e2e --ignore tests/e2e/test_e2e_queue.py
	@# Kueue's webhook sees every Job of the cluster, so the queue has a pytest of its own.
	$(RUN) pytest -q tests/e2e/test_e2e_queue.py

.PHONY: queue-test
queue-test: venv cluster-up images ## Runs in a queue of the real Kueue, which is built from its Go module once
	$(RUN) pytest -q tests/e2e/test_e2e_queue.py

.PHONY: bench
bench: venv cluster-up ## Measure the operator on the lab; prints JSON
	eval "$$($(LAB) env)"; $(RUN) python -m tests.bench.operator_latency --kubeconfig "$$KUBECONFIG"

.PHONY: soak
soak: venv cluster-up images ## 50 small runs on the lab while pods, operator, S3 and node agent are killed (an hour)
	$(RUN) python -m tests.bench.soak --runs 50

.PHONY: bench-gpu
bench-gpu: ## Measure training on this machine's GPUs against TRL and Unsloth (no network needed)
	$(RUN) python tests/bench/gpu/run.py --suite full

# --- The lab ----------------------------------------------------------------------------------------

.PHONY: cluster-tools
cluster-tools: ## Build and install what the lab needs (8 minutes the first time)
	$(LAB) tools

.PHONY: cluster-up
cluster-up: ## Bring up a real one-node Kubernetes and S3 on this machine (root)
	$(LAB) up

.PHONY: cluster-down
cluster-down: ## Stop the lab and remove all that it made
	$(LAB) down

.PHONY: images
images: cluster-up ## Build operator and trainer images from their Dockerfiles and give them to the lab
	$(LAB) build-image operator operator/Dockerfile
	$(LAB) load-image operator
	$(LAB) build-image trainer trainer-image/Dockerfile --build-arg SYSTEM_PACKAGES=
	$(LAB) load-image trainer

# --- The environment --------------------------------------------------------------------------------

.PHONY: venv
venv: $(UV) ## Python environment with everything, torch included (from uv.lock)
	$(UV) sync --frozen --quiet --python $(PYTHON) --all-extras --all-groups

.PHONY: venv-check
venv-check: $(UV) # Without torch, unless it is there already
	@test -d $(VENV)/lib/python3.11/site-packages/torch || \
	  $(UV) sync --frozen --quiet --python $(PYTHON) --extra operator --extra cli --group lab --group trainer-light

$(UV):
	@$(PYTHON) -m venv $(UV_HOME) 2>/dev/null || { apt-get update -q && apt-get install -yq --no-install-recommends python3-venv && $(PYTHON) -m venv --clear $(UV_HOME); }
	$(UV_HOME)/bin/pip install --quiet uv==$(UV_VERSION)
