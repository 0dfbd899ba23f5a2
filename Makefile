# `make serve` and `make test` work in a fresh clone that has Python 3.11, make, a C compiler and a package index.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
HOST ?= 127.0.0.1
PORT ?= 3000
export BENTOML_DO_NOT_TRACK = True

.PHONY: serve test lint format weights bench stubs lock bento clean
.DEFAULT_GOAL := serve

serve: $(VENV)/.runtime weights ## start the service on :3000 (HTTP) and :3001 (gRPC)
	LYNCEUS_GRPC_HOST=$(HOST) $(BIN)/bentoml serve service.bento:Lynceus --host $(HOST) --port $(PORT)

test: $(VENV)/.dev weights
	$(BIN)/python -m pytest

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy service models loadtests

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

weights: $(VENV)/.runtime ## fetch what the configured models need, and verify it
	@$(BIN)/python -m service.fetch

bench: $(VENV)/.dev weights ## served throughput against the in-process limit
	$(BIN)/python -m loadtests.ceiling

stubs: $(VENV)/.dev ## generate the gRPC modules from their protos
	$(BIN)/python -m grpc_tools.protoc -I . --python_out=. --pyi_out=. --grpc_python_out=. service/rpc/stubs/*.proto

bento: $(VENV)/.runtime weights ## package the service for `bentoml containerize`
	$(BIN)/bentoml build

lock: ## resolve the .in files anew
	$(PYTHON) -m venv build/lock && build/lock/bin/pip install --quiet pip-tools
	for name in requirements requirements-dev; do build/lock/bin/pip-compile --quiet --strip-extras --generate-hashes \
		--allow-unsafe --no-header --no-emit-index-url --no-emit-trusted-host --no-emit-find-links \
		--output-file $$name.lock $$name.in; done

# The environment is kept as long as its lock is the same.
$(VENV)/.runtime: requirements.lock
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	touch $@

$(VENV)/.dev: requirements-dev.lock $(VENV)/.runtime
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	touch $@

clean:
	rm -rf $(VENV) build
