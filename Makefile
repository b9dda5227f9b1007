# make demo       train, sample and score twice on the embedded digits (no download, two processes)
# make lint       ruff, its formatter and mypy
# make test       the test suite, on two cores; JOBS=8 for eight; it ends with its ten slowest
# make test-slow  the tests that are slow by nature
# make test-cluster  whole runs on a real SLURM of two nodes, as root
# make lock       compile requirements.lock from pyproject.toml, where dependencies are declared
PYTHON ?= python3
BIN := .venv/bin
JOBS ?= 2
EXTRAS := --extra experiments --extra dev

.PHONY: demo lint test test-slow test-cluster lock clean

demo: .venv/ready
	$(BIN)/python scripts/demo.py

lint: .venv/ready
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

test: .venv/ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --durations 10

test-slow: .venv/ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow -n $(JOBS) --dist loadfile --durations 10

test-cluster: .venv/ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m cluster --durations 10

# Everything comes hash-checked from the lock file: first uv alone, which then installs the rest.
.venv/ready: requirements.lock
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(v < (3, 11) and \
	"Python 3.11 or newer is needed, $(PYTHON) is %d.%d: make PYTHON=/path/to/python3.11" % v)'
	$(PYTHON) -m venv .venv
	@awk '/^[^ ]/ {wanted = /^uv==/} wanted' requirements.lock > .venv/uv.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r .venv/uv.lock
	$(BIN)/uv pip sync --python $(BIN)/python --require-hashes --compile-bytecode requirements.lock
	@touch $@

lock:
	$(BIN)/uv pip compile pyproject.toml $(EXTRAS) --universal --python-version 3.11 \
		--generate-hashes --no-header --quiet --output-file requirements.lock

clean:
	rm -rf .venv
