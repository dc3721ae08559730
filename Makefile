# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
# Every target sets up what it needs in a fresh checkout: a virtual environment of its own, the build,
# the dependencies. PYTHON chooses the interpreter (3.10 or newer).

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
JOBS ?= $(shell nproc 2>/dev/null || echo 2)
export CMAKE_BUILD_PARALLEL_LEVEL ?= $(JOBS)
DEV_PYTHON ?= $(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON))
SOURCES := $(shell find csrc cuda pyloc_core cmake CMakeLists.txt pyproject.toml -type f -not -name '*.so' -not -path '*/__pycache__/*' 2>/dev/null)

.PHONY: demo test test-slow bench lint typecheck test-cpp consumer cuda sanitize wheel dev clean

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --upgrade "pip>=23.2"

# The package as a user installs it, with the extras of the demo.
$(VENV)/.demo: $(BIN)/python $(SOURCES)
	$(BIN)/python -m pip install -q ".[all]"
	@touch $@

# The tests' reference implementations run on torch; 2.13.0 is the version that has a CPU-only build
# without the CUDA packages where it is offered. Other Pythons run the tests that need NumPy alone.
$(VENV)/.torch: $(BIN)/python
	@if $(BIN)/python -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))'; then \
	  $(BIN)/python -m pip install -q torch==2.13.0 triton pytorch-metric-learning; \
	else echo "Python is not 3.11: torch is not installed, tests against the torch reference are skipped"; fi
	@touch $@

$(VENV)/.test: $(VENV)/.torch $(SOURCES)
	$(BIN)/python -m pip install -q ".[test]"
	@touch $@

demo: $(VENV)/.demo
	$(BIN)/pyloc-core demo --out demo_output

# `pytest`, not `python -m pytest`: that puts the source tree on sys.path, where it hides the built package.
test: $(VENV)/.test
	$(BIN)/pytest tests -m "not slow"

test-slow: $(VENV)/.test
	$(BIN)/pytest tests -m slow

bench: $(VENV)/.test
	$(BIN)/pytest benchmarks --benchmark-enable --benchmark-only -q

$(VENV)/.lint: $(VENV)/.test
	$(BIN)/python -m pip install -q "ruff==0.17.*" "mypy==2.4.*" "clang-format==23.1.*"
	@touch $@

lint: $(VENV)/.lint
	$(BIN)/ruff check pyloc_core tests benchmarks examples
	$(BIN)/ruff format --check pyloc_core tests benchmarks examples
	find csrc cuda tests \( -name '*.h' -o -name '*.cpp' -o -name '*.cu' \) -print0 2>/dev/null | xargs -0 $(BIN)/clang-format --dry-run --Werror

# The installed package, since that is where the generated stub of the native module lies.
typecheck: $(VENV)/.lint
	cd $(VENV) && bin/mypy --config-file $(abspath pyproject.toml) -p pyloc_core

$(VENV)/.cmake: $(BIN)/python
	$(BIN)/python -m pip install -q cmake ninja pybind11 cmeel-eigen
	@touch $@

# GTest from Debian's libgtest-dev or any package that find_package(GTest) sees.
test-cpp: $(VENV)/.cmake
	$(BIN)/cmake -S . -B build/cpp -G Ninja -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN))/ninja -DPYLOC_PYTHON=OFF -DPYLOC_TESTS=ON -DPYLOC_WERROR=ON -DPYLOC_CUDA=off -DPython_EXECUTABLE=$(abspath $(BIN))/python
	$(BIN)/cmake --build build/cpp -j $(JOBS)
	cd build/cpp && $(abspath $(BIN))/ctest --output-on-failure -j $(JOBS)
	$(BIN)/python tests/check_symbols.py build/cpp

# A program outside the repository that finds the installed headers with find_package(pyloc).
consumer: $(VENV)/.cmake
	$(BIN)/cmake -S . -B build/install -G Ninja -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN))/ninja -DPYLOC_PYTHON=OFF -DPYLOC_INSTALL_CXX=ON -DPYLOC_CUDA=off -DCMAKE_INSTALL_PREFIX=$(abspath build/prefix) -DPython_EXECUTABLE=$(abspath $(BIN))/python
	$(BIN)/cmake --build build/install -j $(JOBS) && $(BIN)/cmake --install build/install
	$(BIN)/cmake -S tests/consumer -B build/consumer -G Ninja -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN))/ninja -DCMAKE_PREFIX_PATH=$(abspath build/prefix)
	$(BIN)/cmake --build build/consumer && build/consumer/consumer

# Compile and link, no GPU is needed: every architecture of cmake/PylocCuda.cmake, or those of
# CUDA_ARCHITECTURES (90a-real while developing).
cuda: $(VENV)/.cmake
	$(BIN)/cmake -S . -B build/cuda -G Ninja -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN))/ninja -DPYLOC_CUDA=on -DPYLOC_WERROR=ON $(if $(CUDA_ARCHITECTURES),"-DCMAKE_CUDA_ARCHITECTURES=$(CUDA_ARCHITECTURES)") -DPython_EXECUTABLE=$(abspath $(BIN))/python
	$(BIN)/cmake --build build/cuda -j $(JOBS) --target pyloc_cuda

# AddressSanitizer and UndefinedBehaviorSanitizer over the C++ and the Python tests.
sanitize: $(VENV)/.test $(VENV)/.cmake
	$(BIN)/cmake -S . -B build/sanitize -G Ninja -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN))/ninja -DPYLOC_TESTS=ON -DPYLOC_CUDA=off -DPYLOC_SANITIZE=address,undefined -DCMAKE_BUILD_TYPE=RelWithDebInfo -DPython_EXECUTABLE=$(abspath $(BIN))/python
	$(BIN)/cmake --build build/sanitize -j $(JOBS)
	cd build/sanitize && $(abspath $(BIN))/ctest --output-on-failure
	$(BIN)/python tests/run_sanitized.py build/sanitize

wheel: $(BIN)/python
	$(BIN)/python -m pip install -q build
	$(BIN)/python -m build

# Developers: build the module into the source tree; use with PYTHONPATH=. (never in CI or in what ships).
PYLOC_CUDA ?= off
dev:
	cmake -S . -B build/dev -G Ninja -DPython_EXECUTABLE=$$($(DEV_PYTHON) -c 'import sys; print(sys.executable)') -DPYLOC_WERROR=ON -DPYLOC_CUDA=$(PYLOC_CUDA) -DCMAKE_LIBRARY_OUTPUT_DIRECTORY=$(abspath pyloc_core) $(if $(shell command -v ccache),-DCMAKE_CXX_COMPILER_LAUNCHER=ccache) >/dev/null
	cmake --build build/dev -j $(JOBS)
	PYTHONPATH=pyloc_core $(DEV_PYTHON) -m pybind11_stubgen _native -o pyloc_core >/dev/null 2>&1

clean:
	rm -rf build dist $(VENV) demo_output
