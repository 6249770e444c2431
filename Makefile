# Two commands on a machine that has Python 3.11 or later: `make scan` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
# Processes that run the tests. Their threads sleep while they wait, for they share the cores.
WORKERS ?= 2
SOURCES := astroray benchmarks jobs kernels tests setup.py
NATIVE := setup.py $(wildcard kernels/astroray_kernels/native/*)
# 1: the native kernels must compile, or the installation fails. CI asks for it.
export ASTRORAY_REQUIRE_NATIVE ?= 0
# What is compiled is kept: else each of the hundreds of processes that the tests start compiles all.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: scan test check lint types sanitize soak soak-nodes clean help

scan: $(VENV)/installed  ## scan the Hubble Deep Field and write runs/hdf/report/index.html
	$(BIN)/astroray scan hdf --out runs/hdf

# Types take a minute of one core, as tests begin to be collected: what is said of them comes last.
test: $(VENV)/installed-dev lint  ## everything that CI runs
	@said=$$(mktemp); nice -n 5 $(MAKE) --no-print-directory types >"$$said" 2>&1 & types=$$!; \
	  OMP_WAIT_POLICY=passive $(BIN)/python -m pytest --numprocesses $(WORKERS) \
	  --dist loadgroup --no-loadscope-reorder; tests=$$?; \
	  wait $$types; types=$$?; cat "$$said"; rm "$$said"; exit $$((tests ? tests : types))

check: lint types  ## format, lint, types and imports, without the tests

lint: $(VENV)/installed-dev
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)

types: $(VENV)/installed-dev
	$(BIN)/mypy
	$(BIN)/lint-imports

# The library is built again afterwards, as it was. pytest must not hold back what a sanitizer says
# as it ends the process.
SANITIZER := -g -fsanitize=address,undefined -fno-sanitize-recover=undefined
NATIVE_TESTS := $(addprefix tests/test_,knn_native.py native_avx2.py native_hostile.py vfa_native.py osc_linear.py osc_mlp.py)
sanitize: $(VENV)/installed-dev  ## the native kernels' tests under the sanitizers of addresses and of undefined behavior
	CXX="$(CXX) $(SANITIZER)" $(BIN)/python setup.py --quiet build_ext --inplace
	LD_PRELOAD=$$($(CXX) -print-file-name=libasan.so) ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 \
	  $(BIN)/python -m pytest --capture sys -p no:cacheprovider --timeout 600 $(NATIVE_TESTS); \
	  found=$$?; $(BIN)/python setup.py --quiet build_ext --inplace && exit $$found

soak: $(VENV)/installed-dev  ## kill driver, workers and storage at every named point, 20 times
	$(BIN)/python -m tests.soak --rounds 20 --s3 --night

soak-nodes: $(VENV)/installed-dev  ## take machines from a cluster of several, 5 times
	$(BIN)/python -m tests.soak --rounds 5 --no-scan --nodes

# One installation for each, since building the kernels twice takes half a minute. What pip would
# compile to bytecode on one core all cores do, but for what hardly anything imports; the few files
# that are no Python 3 stay as they are.
$(VENV)/installed: EXTRAS := cpu
$(VENV)/installed-dev: EXTRAS := cpu,dev
$(VENV)/installed $(VENV)/installed-dev: pyproject.toml constraints.txt $(NATIVE)
	$(PYTHON) -m venv $(VENV)
	$(PIP) --no-compile --editable ".[$(EXTRAS)]"
	$(BIN)/python -m compileall -qq -j 0 -x '/tests?/|/transformers/models/' $(VENV)/lib || true
	touch $(VENV)/installed $@

clean:  ## take away the environment and what was built
	rm -rf $(VENV) build *.egg-info kernels/astroray_kernels/*.so

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "%-12s%s\n", $$1, $$2}' $(MAKEFILE_LIST)
