# `make serve` runs the service, `make test` runs all checks. Both install what they need.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Inference backend: torch on an NVIDIA GPU, ONNX Runtime on a CPU. The open weights are downloaded with npm.
BACKEND ?= $(if $(shell sh -c 'command -v nvidia-smi'),gpu,cpu)
comma := ,
NPM := $(if $(shell sh -c 'command -v npm'),,$(comma)npm)

# Parallel test processes, each with its own servers; with an external database or queue, which all would share, there
# is only one. Each process runs its networks on one core, since networks that use all cores would slow each other
# down.
WORKERS ?= $(if $(DATABASE_URL)$(REDIS_URL),0,3)

# If this is set, every test process compiles torch, SQLAlchemy and the other packages again, which doubles its start-up
# time.
unexport PYTHONDONTWRITEBYTECODE

HOST ?= 127.0.0.1
PORT ?= 8000

.PHONY: help install serve test test-fast pytest lint format docs bench quality browser promtool clean lock audit sbom dist site

help:
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/'

install: $(VENV)/.installed-$(BACKEND) ## install Cutout and its dependencies into .venv

# The pip bundled with Python may be years old; a current one resolves in less than half the time. --no-compile saves a
# minute: modules are compiled when they are first imported.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Cutout needs Python 3.11 or newer; run: make PYTHON=python3.11 install")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --no-compile --progress-bar off -c constraints.txt --upgrade pip

$(VENV)/.installed-$(BACKEND): pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --no-compile --progress-bar off -c constraints.txt -e '.[$(BACKEND)$(NPM)]'
	touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --no-compile --progress-bar off -c constraints.txt -e '.[$(BACKEND)$(NPM),dev,docs]'
	touch $@ $(VENV)/.installed-$(BACKEND)

serve: install ## run the service on http://127.0.0.1:8000 without authentication: every local user is its admin
	CUTOUT_AUTH=off $(BIN)/cutout serve --host $(HOST) --port $(PORT)

# mypy keeps one core busy for a minute, so the tests run in parallel with it.
test: $(VENV)/.installed-dev ## run everything that CI runs: linters, type checks, import contracts, tests
	$(BIN)/cutout models pull isnet-general u2netp
	$(MAKE) --no-print-directory --jobs=2 lint pytest

# `make test COVERAGE=1` also shows which lines no test reaches; it takes half as long again.
pytest: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) $(if $(COVERAGE),--cov=app --cov=inference --cov=models --cov=worker --cov=cutout --cov-report=term:skip-covered)

test-fast: $(VENV)/.installed-dev ## the tests of a minute: no weights, browser, kills or other slow parts
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) -m 'not weights and not browser and not gpu and not slow' -q

format: $(VENV)/.installed-dev ## format the code and fix what ruff can fix
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.installed-dev ## write the pages of the documentation that follow from the code
	$(BIN)/python -m tools.reference

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	deploy/prometheus/check.sh
	$(BIN)/bandit --quiet --recursive --configfile pyproject.toml app inference models worker cutout/*.py tools
	PATH=$(CURDIR)/$(BIN):$$PATH deploy/lint.sh
	$(BIN)/zizmor --quiet --offline .github
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.dependabot .github/dependabot.yml

lock: $(VENV)/.installed-dev ## write requirements/*.lock, the exact packages of an image, from pyproject.toml and constraints.txt
	$(BIN)/python -m tools.lock

# Asks the service of the package index for known vulnerabilities. --strict: an error if it cannot be asked.
audit: $(VENV)/.installed-dev ## look up known vulnerabilities of the packages in requirements/*.lock
	for lock in requirements/*.lock; do $(BIN)/pip-audit --strict --disable-pip --require-hashes -r $$lock || exit 1; done

sbom: $(VENV)/.installed-dev ## write dist/cutout-VERSION.cdx.json, the bill of materials
	$(BIN)/python -m tools.sbom

dist: $(VENV)/.installed-dev ## build a release of what is committed into dist/: wheel, sdist, bill of materials, notes, checksums
	$(BIN)/python -m tools.dist

site: $(VENV)/.installed-dev ## build the documentation into build/site
	$(BIN)/python -m tools.site

# The page is tested in a real browser. As root, Debian's Chromium is installed if there is none.
browser:
	@command -v chromium >/dev/null || command -v google-chrome >/dev/null || \
	{ [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -q && apt-get install -y -q --no-install-recommends chromium; } || \
	echo 'No Chromium here and no right to install one: the browser tests will be skipped.'

# promtool checks the alerts. As root, it is taken from Debian's package of Prometheus, which is not installed: that would
# start a Prometheus.
promtool:
	@command -v promtool >/dev/null || \
	{ [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -q && cd "$$(mktemp -d)" && \
	  apt-get download -q prometheus && dpkg-deb --fsys-tarfile prometheus_*.deb | tar -x ./usr/bin/promtool && \
	  install usr/bin/promtool /usr/local/bin/ && rm -r "$$PWD"; } || \
	echo 'No promtool here and no right to install one: the alerts will not be checked.'

bench: $(VENV)/.installed-dev ## run the benchmarks; prints tables and writes them to benchmarks/results
	$(BIN)/python -m benchmarks

# --no-deps: pysodmetrics pins an older numpy than it needs, and requires a second OpenCV package.
quality: $(VENV)/.installed-dev ## measure the quality of the cut-outs; takes an hour
	$(BIN)/python -m pip install --no-compile --progress-bar off -c constraints.txt -e '.[quality]'
	$(BIN)/python -m pip install --no-compile --progress-bar off -c constraints.txt --no-deps pysodmetrics
	$(BIN)/python -m pytest -q tests/benchmarks
	$(BIN)/python -m benchmarks quality

clean: ## remove the virtual environment, caches and var/ (results of the embedded service)
	rm -rf $(VENV) var .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
