# Three commands do everything on a fresh machine with Python 3.11+ and a C++ compiler:
#   make demo      reconstruct a made scene offline, without torch
#   make test      install what the tests need, build the kernels, lint, type-check, test
#   make plugins   build the CUDA kernels; needs no GPU and no CUDA toolkit
# While one works on the code, `make quick` checks style and types and runs the fast tests.
# uv is used where it is on the path, else the standard library's venv and pip.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := $(shell command -v uv 2>/dev/null)
ifneq ($(UV),)
  make_venv = $(UV) venv --quiet --allow-existing --python "$(PYTHON)" $(VENV)
  install = $(UV) pip install --quiet --python $(BIN)/python
else
  make_venv = $(PYTHON) -m venv $(VENV)
  install = $(BIN)/python -m pip install --quiet --disable-pip-version-check
endif
SOURCES := $(shell git ls-files 'plugins/*' CMakeLists.txt pyproject.toml 2>/dev/null)

.PHONY: demo test quick lint style types imports unit trt emulated install docs floors plugins clean

# Test processes at a time. One each core is right: each computes with one thread.
WORKERS ?= 2
PYTEST = $(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal
# Traces of the tiny models, which the unit tests and those of TensorRT share, of one run of `test`.
TRACES := $(CURDIR)/build/test-traces

demo: $(VENV)/.runtime
	$(BIN)/covis demo --out out/demo --force

# Each of these uses every core, so they follow one another; the kernels first, which tests need.
test: $(VENV)/.dev
	@rm -rf $(TRACES)
	@$(MAKE) --no-print-directory emulated
	@$(MAKE) --no-print-directory lint
	@COVIS_TEST_TRACES=$(TRACES) $(MAKE) --no-print-directory unit
	@COVIS_TEST_TRACES=$(TRACES) $(MAKE) --no-print-directory trt
	@rm -rf $(TRACES)

# Style, types, and the tests outside of THOROUGH in tests/conftest.py.
quick: $(VENV)/.dev
	@$(MAKE) --no-print-directory -j2 --output-sync style types
	$(PYTEST) --quick -m "not slow and not gpu and not trt"

# An editable install: Python code is taken from this checkout, native code is built into the
# environment and built anew when its sources change.
$(VENV)/.runtime: $(SOURCES)
	@test -x $(BIN)/python || $(make_venv)
	$(install) -e '.[cpu]'
	@touch $@

$(VENV)/.dev: $(SOURCES)
	@test -x $(BIN)/python || $(make_venv)
	$(install) -e '.[cpu,export,view,eval,dev]'
	@touch $@ $(VENV)/.runtime

install: $(VENV)/.dev

lint: $(VENV)/.dev
	@$(MAKE) --no-print-directory -j2 --output-sync style types imports

style: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/mypy

imports: $(VENV)/.dev
	$(BIN)/lint-imports

unit: $(VENV)/.dev
	$(PYTEST) -m "not slow and not gpu and not trt"

# The documentation site, in build/site. A warning, a broken link or a failing notebook ends it.
$(VENV)/.docs: pyproject.toml | $(VENV)/.dev
	$(BIN)/python -c "import tomllib; \
	  extras = tomllib.load(open('pyproject.toml', 'rb'))['project']['optional-dependencies']; \
	  print(*extras['docs'], sep='\n')" > $@.txt
	$(install) -r $@.txt
	@touch $@

docs: $(VENV)/.docs
	@rm -rf build/site
	$(BIN)/python -m sphinx -E -W --keep-going -q -j auto -b html -d build/site-doctrees docs build/site

# The lowest versions that pyproject.toml allows, Python's too, read from there: what it promises is
# tried. Of the tests those that meet other packages most: the ops, a whole export, a whole run.
FLOORS := build/floors
LOWEST = $(FLOORS)/venv/bin/python
floors: $(VENV)/.dev
	@rm -rf $(FLOORS)/venv
	$(BIN)/uv venv --quiet --no-python-downloads $(FLOORS)/venv \
	  --python "$$(sed -n 's/^requires-python = ">=\(.*\)"/\1/p' pyproject.toml)"
	$(BIN)/uv pip install --quiet --python $(LOWEST) --resolution lowest-direct \
	  --config-setting build-dir=$(FLOORS)/native -e '.[cpu,export,view,eval,dev]'
	$(LOWEST) -m covis doctor
	$(LOWEST) -m pytest -q tests/vectors tests/plugins/test_cpu_vectors.py tests/test_demo.py \
	  tests/export/test_exporter.py tests/engines/graphs \
	  tests/engines/tensorrt/test_parser_graph.py tests/runtime/scene/test_writers.py

# The kernels, which the emulator of tests/emulator runs among the unit tests.
emulated: $(VENV)/.dev
	@$(MAKE) --no-print-directory plugins || \
	  echo "make test: no CUDA kernels can be built here; their emulation is left out"

# NVIDIA's own TensorRT and TensorRT-RTX on the CPU, 1.1 GB in a folder of their own; in a process of
# its own too, for which TensorRT is installed. What cannot be had is said in a line and skipped.
TENSORRT := $(VENV)/tensorrt
$(TENSORRT)/.installed: $(addprefix tests/tensorrt/,requirements.txt install.py layout.py)
	@rm -rf $(TENSORRT)
	@$(install) --no-deps --target $(TENSORRT) -r $< || true
	@$(BIN)/python -m tests.tensorrt.install $(TENSORRT) && touch $@ || true

trt: $(VENV)/.dev
	@$(MAKE) --no-print-directory $(TENSORRT)/.installed
	@! test -d $(TENSORRT)/tensorrt_rtx_bindings || PYTHONPATH=$(TENSORRT) \
	  $(PYTEST) -m "trt and not slow and not gpu" tests/tensorrt tests/engines tests/runtime

# The toolkit and CUTLASS come as wheels, in a folder of their own: torch pins other versions of
# some. With an own toolkit on the path: make plugins CUTLASS=<folder of cute/tensor.hpp>
# JOBS: one compile needs up to 1.8 GiB.
CUTLASS ?=
JOBS ?= 2
CUDA_WHEELS := $(VENV)/cuda/.installed
$(CUDA_WHEELS): plugins/requirements-cuda.txt
	@test -x $(BIN)/python || $(make_venv)
	@rm -rf $(VENV)/cuda
	$(install) 'cmake>=3.25' ninja
ifeq ($(CUTLASS),)
	$(install) --target $(VENV)/cuda -r $<
endif
	@mkdir -p $(@D) && touch $@

plugins: $(CUDA_WHEELS)
	PATH="$(CURDIR)/$(BIN):$$PATH" cmake --preset kernels --log-level=WARNING \
	  -DPython3_EXECUTABLE="$(CURDIR)/$(BIN)/python" -DCOVIS_CUTLASS_INCLUDE="$(CUTLASS)"
	PATH="$(CURDIR)/$(BIN):$$PATH" cmake --build --preset kernels -j$(JOBS)
	@test -f build/cuda/libcovis_kernels.so

clean:
	rm -rf build out .mypy_cache .ruff_cache .pytest_cache
