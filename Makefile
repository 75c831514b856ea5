# make demo   a model learns from synthetic speech and is asked about speakers it never heard
# make test   the test suite (make slow: with the long checks)
# make lint   style and spelling

PYTHON ?= python3
VENV ?= .venv
DEMO ?= demo
WORKERS ?= 2
BIN := $(VENV)/bin
export HF_HUB_DISABLE_TELEMETRY = 1

.PHONY: demo test slow lint clean

demo: $(VENV)/.installed
	$(BIN)/python preprocessing/synthetic_corpus.py -o $(DEMO)/corpus
	$(BIN)/python features.py $(DEMO)/corpus -o $(DEMO)/features.parquet --workers $(WORKERS)
	$(BIN)/python preprocessing/template_creation.py $(DEMO)/features.parquet -o $(DEMO)/captions.parquet
	$(BIN)/python train.py configs/demo.yaml data.root=$(DEMO)/corpus \
		data.captions=$(DEMO)/captions.parquet output=$(DEMO)/run
	$(BIN)/python evaluate.py $(DEMO)/run $(DEMO)/corpus --split test --queries sentence \
		--targets emotion gender -o $(DEMO)/results

# One thread: towers of tests are tiny, and threads that wait for each other cost more than they do.
test: $(VENV)/.installed-dev
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow"

slow: $(VENV)/.installed-dev
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell

clean:
	rm -rf $(VENV) $(DEMO)

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "ParaCLAP needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: requirements.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

$(VENV)/.installed-dev: requirements.txt requirements-dev.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@ $(VENV)/.installed
