# `make serve` and `make test` work in a fresh clone that has Python 3.11 to 3.13, make, a C compiler and a package index.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
# What `make serve` installs. requirements.lock, without torch, is enough on a CPU where the networks are made already.
LOCK ?= requirements-gpu.lock
VENV ?= .venv
BIN := $(VENV)/bin
COMPILE := build/lock/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --output-file
HOST ?= 127.0.0.1
PORT ?= 3000
LYNCEUS_GRPC_PORT ?= $(shell expr $(PORT) + 1)
# Of each port its own: a server that starts empties the folder of its workers' metrics.
BENTOML_HOME ?= $(HOME)/.cache/lynceus/bentoml-$(PORT)
export BENTOML_DO_NOT_TRACK = True

.PHONY: serve test container-test lint format weights loadtest bench docs stubs lock bento clean
.DEFAULT_GOAL := serve

serve: $(VENV)/.runtime weights ## start the service on :3000 (HTTP) and :3001 (gRPC); PORT=3100 for another
	mkdir -p $(BENTOML_HOME)
	BENTOML_HOME=$(BENTOML_HOME) LYNCEUS_GRPC_HOST=$(HOST) LYNCEUS_GRPC_PORT=$(LYNCEUS_GRPC_PORT) \
		$(BIN)/bentoml serve service.bento:Lynceus --host $(HOST) --port $(PORT)

# Three processes: on two cores one computes while another waits. The load test's own tests compare two figures of the machine.
test: export PYTHONDONTWRITEBYTECODE = # hundreds of processes, which need not compile everything anew
test: $(VENV)/.dev weights
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 3 --ignore tests/container --ignore tests/e2e/test_loadtest.py
	$(BIN)/python -m pytest tests/e2e/test_loadtest.py

container-test: $(VENV)/.dev ## build the image for a CPU and run it; takes root, buildah and debootstrap, and minutes
	$(BIN)/python -m pytest tests/container

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy service models loadtests

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

weights: $(VENV)/.runtime ## fetch what the configured models need, verify it, convert it for OpenVINO
	@$(BIN)/python -m service.host.fetch
	@$(BIN)/python -m service.check --unmade

loadtest: $(VENV)/.dev weights ## load the service for a minute and judge it by loadtests/slo.toml
	$(BIN)/python -m loadtests

bench: $(VENV)/.dev weights ## measure everything that docs/benchmarks.md has a mark for; takes half an hour
	$(BIN)/python -m loadtests.bench

docs: $(VENV)/.dev ## write the tables of the documents, and NOTICE, from the code
	$(BIN)/python -m service.documents

stubs: $(VENV)/.dev ## generate the gRPC modules from their protos
	$(BIN)/python -m grpc_tools.protoc -I . --python_out=. --pyi_out=. --grpc_python_out=. service/*/stubs/*.proto

bento: $(VENV)/.dev ## package the service and its weights, for `bentoml containerize`
	LYNCEUS_WEIGHTS_DIR=build/weights $(BIN)/python -m service.host.fetch
	$(BIN)/bentoml build

lock: ## resolve pyproject.toml's dependencies anew, for every Python from 3.11 on; a version that still fits is kept
	$(PYTHON) -m venv build/lock && build/lock/bin/pip install --quiet uv
	$(COMPILE) requirements.lock pyproject.toml
	$(COMPILE) requirements-gpu.lock --constraints requirements.lock --extra gpu pyproject.toml
	$(COMPILE) requirements-dev.lock --constraints requirements-gpu.lock --group dev

# The environment is kept as long as its lock is the same.
$(VENV)/.runtime: $(LOCK)
	$(if $(shell $(PYTHON) -c 'import sys; print(sys.version_info >= (3, 11) or "")'),,\
		$(error Lynceus needs Python 3.11 or later, and $(PYTHON) is none: make PYTHON=...))
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r $(LOCK)
	touch $@

$(VENV)/.dev: requirements-gpu.lock requirements-dev.lock $(VENV)/.runtime
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-gpu.lock -r requirements-dev.lock
	touch $@

clean:
	rm -rf $(VENV) build
