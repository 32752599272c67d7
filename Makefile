# Everything a fresh machine needs: `make release` and `make test` set up .venv by themselves.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
RECIPE ?= tiny

export HUBKIT_HOME ?= $(CURDIR)/.hubkit

.PHONY: release test browser lint soak llama-cpp conformance bench real faults pictures architecture clean install

release: $(STAMP)  ## train, measure, gate and publish the tiny release on the embedded Hub, with its Space
	$(BIN)/hubkit release $(RECIPE)

test: $(STAMP) browser lint  ## lint and the whole suite (under 30 minutes on 2 cores)
	$(BIN)/pytest -m "not soak" -n logical --maxprocesses 4 --dist loadscope

browser:  ## Debian's chromium for the browser tests, where it is missing and may be installed
	@command -v chromium >/dev/null && exit 0; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  echo "Installing Debian's chromium for the browser tests."; \
	  install="apt-get install -qq -y chromium fonts-dejavu-core"; export DEBIAN_FRONTEND=noninteractive; \
	  $$install >/dev/null 2>&1 || { apt-get update -qq && $$install; } >/dev/null 2>&1 && exit 0; \
	fi; \
	echo "The browser tests will be SKIPPED: there is no chromium, and it cannot be installed here."

lint: $(STAMP)  ## style, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

soak: $(STAMP) llama-cpp  ## long fault and endurance runs, the upstream conformance suite, and new cases for the property tests
	$(BIN)/pytest -m soak --timeout 3600
	$(BIN)/pytest -m "hypothesis and not soak" --hypothesis-profile=new -n logical --maxprocesses 4 --dist loadscope

llama-cpp: $(STAMP)  ## llama-cpp-python, compiled from its source distribution (7 minutes of processor time, once)
	@$(BIN)/python -c "import llama_cpp" 2>/dev/null || { \
	  command -v c++ >/dev/null || { echo "A C++ compiler is needed, such as Debian's package build-essential."; exit 1; }; \
	  echo "Compiling llama-cpp-python: some minutes, once."; \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[llama-cpp]'; }

conformance: $(STAMP)  ## huggingface_hub's whole own suite on the embedded Hub, with Xet and without, and datasets' Hub tests; writes docs/conformance.md
	$(BIN)/python tests/conformance/run.py --both --work $(HUBKIT_HOME)/conformance --report docs/conformance.md
	$(BIN)/python tests/conformance/run_datasets.py --work $(HUBKIT_HOME)/conformance
	$(BIN)/python tests/conformance/run_datasets.py --work $(HUBKIT_HOME)/conformance --xet

bench: $(STAMP)  ## what a release, merging, publishing 2 GiB beside `hf upload`, data, measuring, training, cards, starting, a Space and the server cost; writes docs/bench*.md
	$(BIN)/python tests/benchmarks/release.py
	$(BIN)/python tests/benchmarks/merging.py
	$(BIN)/python tests/benchmarks/publish.py
	$(BIN)/python tests/benchmarks/xet.py
	$(BIN)/python tests/benchmarks/data.py
	$(BIN)/python tests/benchmarks/evaluation.py
	$(BIN)/python tests/benchmarks/training.py
	$(BIN)/python tests/benchmarks/cards.py
	$(BIN)/python tests/benchmarks/startup.py
	$(BIN)/python tests/benchmarks/space.py
	$(BIN)/python tests/benchmarks/git_transfers.py
	$(BIN)/python tests/benchmarks/gguf.py
	$(BIN)/python tests/benchmarks/server.py

DTYPE ?= bfloat16
RATE ?= gentle
real: $(STAMP)  ## a real model the whole way: SmolLM2-135M-Instruct; DTYPE=float32, RATE=sharp (under 25 minutes on 2 cores)
	$(BIN)/python examples/smollm2/make_real.py --dtype $(DTYPE) --rate $(RATE)

faults: $(STAMP)  ## the faults that a release survives, injected for real; writes docs/faults.md
	HUBKIT_TEST_MATRIX=docs/faults.md $(BIN)/pytest -m "fault and not soak" -n logical --maxprocesses 4 --dist loadscope

pictures: $(STAMP) browser  ## the pictures of docs/, taken of a fresh release
	HUBKIT_TEST_PICTURES=$(CURDIR)/docs $(BIN)/pytest tests/e2e/test_in_browser.py
	HUBKIT_TEST_PICTURES=$(CURDIR)/docs $(BIN)/pytest tests/browser/test_repo_pages.py -k pictures

architecture:  ## rewrite the tree in docs/architecture.md
	$(PYTHON) tests/support/architecture.py

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@echo "Setting up $(VENV): about two minutes the first time (PyTorch and its friends, 2.3 GB on disk)."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check "pip>=26"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[all]' --group dev
	@touch $@

clean:  ## remove what was built and run, but not .venv
	-test -x $(BIN)/hubkit && $(BIN)/hubkit hub stop
	rm -rf .hubkit .mypy_cache .ruff_cache .pytest_cache .hypothesis dist build
