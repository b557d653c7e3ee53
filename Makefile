# The duties; what takes more than a few lines is a script in tools/.

PYTHON ?= python3
# Tests at a time: they wait for a third of their time, so half as many again as the two cores that are assumed.
WORKERS ?= 3

# The tools that are not Python, in the one place that names their versions.
BUF_VERSION := 1.75.0
GRPCURL_VERSION := 1.9.4
HELM_VERSION := 3.22.0
# Of Kubernetes 1: what helm takes a cluster for that it can't ask. Its own build takes it from the client that it has.
HELM_KUBERNETES := 37
KUBECONFORM_VERSION := 0.8.0
KUBE_SCORE_VERSION := 1.20.0
PROTOC_GEN_GO_VERSION := 1.36.12
PROTOC_GEN_GO_GRPC_VERSION := 1.6.0

VENV := .venv
PY := $(VENV)/bin/python
GENERATE := .cache/generate
LOCK := .cache/lock
TOOLS := .cache/tools
BUF := $(TOOLS)/bin/buf-$(BUF_VERSION)
GRPCURL := $(TOOLS)/bin/grpcurl-$(GRPCURL_VERSION)
PROMTOOL := $(TOOLS)/bin/promtool
HELM := $(TOOLS)/bin/helm-$(HELM_VERSION)
KUBECONFORM := $(TOOLS)/bin/kubeconform-$(KUBECONFORM_VERSION)
KUBE_SCORE := $(TOOLS)/bin/kube-score-$(KUBE_SCORE_VERSION)
SCHEMAS := $(TOOLS)/schemas
PROTOC_GEN_GO := $(TOOLS)/bin/protoc-gen-go-$(PROTOC_GEN_GO_VERSION)
PROTOC_GEN_GO_GRPC := $(TOOLS)/bin/protoc-gen-go-grpc-$(PROTOC_GEN_GO_GRPC_VERSION)
NODE_MODULES := clients/typescript/node_modules/.ready
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check

# Sources that exist: a folder may be yet to come.
TYPED := service clients/python/src clients/python/conformance $(wildcard tests bench)

export BUF GRPCURL PROTOC_GEN_GO PROTOC_GEN_GO_GRPC

# Compiled modules are kept beside their sources, also where the environment says otherwise: the tests start hundreds of
# processes, and each would compile all that it imports anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.SUFFIXES:

##@ Use

.PHONY: help
help: ## Show this list
	@awk 'BEGIN {FS = ":.*## "} \
	  /^##@ / {printf "\n%s\n", substr($$0, 5)} \
	  /^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: demo
demo: setup ## Survey the standard library with durable runs, and kill things meanwhile
	$(PY) examples/survey/demo.py

##@ Work

.PHONY: setup
setup: $(VENV)/.ready ## Make .venv: locked dependencies and both distributions, editable

.PHONY: tools
tools: $(BUF) $(GRPCURL) $(PROMTOOL) $(HELM) $(KUBECONFORM) $(KUBE_SCORE) $(SCHEMAS) $(PROTOC_GEN_GO) $(PROTOC_GEN_GO_GRPC) $(NODE_MODULES) ## Install, pinned, into .cache/tools what is not Python, and PgBouncer
	@sh tools/install_pgbouncer.sh

.PHONY: ends
ends: setup ## Make environments of the oldest and the newest versions that the client takes
	@$(PY) tools/ends.py

.PHONY: generate
generate: $(GENERATE)/.ready setup ## Write what is made from proto/: stubs, descriptors, docs; and dashboards, the schema of the chart's values
	$(GENERATE)/bin/python tools/generate.py
	$(GENERATE)/bin/python tools/clients.py
	$(PY) tools/states.py
	$(PY) tools/parity.py
	$(PY) tools/reference.py
	$(PY) tools/dashboards.py
	$(PY) tools/chart.py

.PHONY: format
format: setup ## Format the code and fix what can be fixed
	$(VENV)/bin/ruff check --fix --quiet || true
	$(VENV)/bin/ruff format

.PHONY: lock
lock: $(LOCK)/.ready ## Resolve the lock files anew (UPGRADE=1: to the newest versions)
	$(LOCK)/bin/python tools/lock.py $(if $(UPGRADE),--upgrade)

##@ Prove

.PHONY: check
check: setup ## Format, lint, types, import contracts, proto lint
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/ruff check
	$(VENV)/bin/mypy $(TYPED)
	cd examples/survey && ../../$(VENV)/bin/mypy --config-file ../../pyproject.toml .
	$(VENV)/bin/lint-imports --no-logo
	$(PY) tools/buf.py lint

.PHONY: verify
verify: setup $(GENERATE)/.ready ## Generated code is current, the protocol breaks nobody
	$(GENERATE)/bin/python tools/verify.py
	$(GENERATE)/bin/python tools/clients.py --check
	$(PY) tools/states.py --check
	$(PY) tools/parity.py --check
	$(PY) tools/reference.py --check
	$(PY) tools/dashboards.py --check
	$(PY) tools/chart.py --check
	$(PY) tools/conformance.py --check
	$(PY) tools/buf.py breaking

.PHONY: test
test: setup ends ## Everything but what takes long: check, verify, tests
	$(MAKE) --no-print-directory --jobs 2 check verify
	$(VENV)/bin/pytest -n $(WORKERS) -m "not long" $(PYTEST_ARGS)

.PHONY: test-long
test-long: setup ## The tests that take long
	$(VENV)/bin/pytest -m long $(PYTEST_ARGS)

.PHONY: conformance
conformance: setup ## Hold each client's worker against the worker protocol, and write the table (LANGUAGES="go java": only these)
	$(PY) tools/conformance.py $(LANGUAGES)

.PHONY: mutants
mutants: setup ## Take each guard out and see that some test notices
	$(PY) tests/mutants/run.py --workers $(WORKERS)

.PHONY: bench
bench: setup ## Measure capacity, delays and peers: 25 minutes (BENCH="--case NAME": one case)
	$(PY) -m bench run $(BENCH)

.PHONY: bench-long
bench-long: setup ## Measure what takes long: grown tables, snapshots, backlogs, long runs, many streams
	$(PY) -m bench run --long $(BENCH)

.PHONY: bench-quick
bench-quick: setup ## Measure the first three rows once: two minutes; fails below 3/4 of the last results
	$(PY) -m bench quick

.PHONY: wheels
wheels: setup ## Build both wheels and try them in clean environments, new and old
	$(PY) tools/wheels.py

.PHONY: baseline
baseline: verify $(BUF) ## Make the protocol as it is the released one, which later ones must not break
	$(PY) tools/buf.py baseline

.PHONY: clean
clean: ## Remove what make made
	rm -rf $(VENV) .cache dist

# --------------------------------------------------------------------------------------------------

# A stamp is newer than all that it stands for, so an environment that is up to date costs nothing.

$(VENV)/.ready: $(VENV)/.locked pyproject.toml clients/python/pyproject.toml
	$(PY) $(PIP_INSTALL) --no-deps --no-build-isolation --editable clients/python --editable .
	@touch $@

$(VENV)/.locked: requirements-dev.lock
	@$(PYTHON) tools/python_version.py
	@echo "setting up $(VENV)"
	$(PYTHON) -m venv $(VENV)
	$(PY) $(PIP_INSTALL) --require-hashes --requirement requirements-dev.lock
	@touch $@

$(GENERATE)/.ready: requirements-generate.lock
	@$(PYTHON) tools/python_version.py
	@echo "setting up $(GENERATE)"
	$(PYTHON) -m venv $(GENERATE)
	$(GENERATE)/bin/python $(PIP_INSTALL) --require-hashes --only-binary :all: --requirement requirements-generate.lock
	@touch $@

$(LOCK)/.ready: pyproject.toml
	$(PYTHON) -m venv $(LOCK)
	$(LOCK)/bin/python $(PIP_INSTALL) $$(sed -n 's/^lock = \["\(.*\)"\]$$/\1/p' pyproject.toml)
	@touch $@

$(BUF):
	@sh tools/install_buf.sh $(BUF_VERSION) $(TOOLS)

$(GRPCURL):
	@sh tools/install_go.sh grpcurl $(GRPCURL_VERSION) github.com/fullstorydev/grpcurl/cmd/grpcurl $(TOOLS)

$(PROMTOOL):
	@sh tools/install_promtool.sh $(TOOLS)

$(HELM):
	@sh tools/install_go.sh helm $(HELM_VERSION) helm.sh/helm/v3/cmd/helm $(TOOLS) \
	  $(foreach part,lint/rules chartutil,$(foreach which,Major=1 Minor=$(HELM_KUBERNETES),helm.sh/helm/v3/pkg/$(part).k8sVersion$(which)))

$(KUBECONFORM):
	@sh tools/install_go.sh kubeconform $(KUBECONFORM_VERSION) github.com/yannh/kubeconform/cmd/kubeconform $(TOOLS)

$(KUBE_SCORE):
	@sh tools/install_go.sh kube-score $(KUBE_SCORE_VERSION) github.com/zegl/kube-score/cmd/kube-score $(TOOLS)

$(PROTOC_GEN_GO):
	@sh tools/install_go.sh protoc-gen-go $(PROTOC_GEN_GO_VERSION) google.golang.org/protobuf/cmd/protoc-gen-go $(TOOLS)

$(PROTOC_GEN_GO_GRPC):
	@sh tools/install_go.sh protoc-gen-go-grpc $(PROTOC_GEN_GO_GRPC_VERSION) google.golang.org/grpc/cmd/protoc-gen-go-grpc $(TOOLS)

$(NODE_MODULES): clients/typescript/package-lock.json
	@sh tools/install_npm.sh clients/typescript

$(SCHEMAS): tools/install_schemas.py
	@$(PYTHON) tools/install_schemas.py $@
	@touch $@
