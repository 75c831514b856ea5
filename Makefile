# make demo   train on synthetic speech and evaluate zero-shot on unseen speakers
# make test   the test suite (make slow: with the long checks)
# make lint   style and spelling
# make docs   the documentation as a site, site/index.html
# make page   the web page for the model of `make demo`
# make extras everything that tests of optional parts need; without it they are skipped

PYTHON ?= python3
VENV ?= .venv
DEMO ?= demo
WORKERS ?= 2
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint requirements.txt
export HF_HUB_DISABLE_TELEMETRY = 1

.PHONY: demo docs page test slow extras lint clean

demo: $(VENV)/.installed
	$(BIN)/python preprocessing/synthetic_corpus.py -o $(DEMO)/corpus
	$(BIN)/python features.py $(DEMO)/corpus -o $(DEMO)/features.parquet --workers $(WORKERS) \
		--feature-set captions
	$(BIN)/python preprocessing/template_creation.py $(DEMO)/features.parquet -o $(DEMO)/captions.parquet
	$(BIN)/python train.py configs/demo.yaml data.root=$(DEMO)/corpus \
		data.captions=$(DEMO)/captions.parquet output=$(DEMO)/run
	$(BIN)/python evaluate.py $(DEMO)/run $(DEMO)/corpus --split test --prompts sentence \
		--targets emotion gender -o $(DEMO)/results

page: $(VENV)/.installed-demo
	$(BIN)/python app.py $(DEMO)/run --edges $(DEMO)/captions.edges.json \
		--features $(DEMO)/features.parquet

# Two processes of one thread each: the models of the tests are tiny, and more threads slow them down.
TESTS := HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -P -m pytest --numprocesses 2 --dist loadfile
test: $(VENV)/.installed-dev
	$(TESTS) -m "not slow"

slow: $(VENV)/.installed-dev
	$(TESTS)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell

docs: $(VENV)/.installed-dev
	$(BIN)/mkdocs build

extras: $(VENV)/.installed-dev $(VENV)/.installed-all
	@if command -v chromium || command -v chromium-browser || command -v google-chrome; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null && apt-get update -qq && \
		DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends chromium \
		> /dev/null; then :; \
	else echo "no Chromium, and none could be installed: tests in a browser will be skipped"; fi

clean:
	rm -rf $(VENV) $(DEMO)

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "ParaCLAP needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: requirements.txt | $(BIN)/python
	$(INSTALL) --requirement requirements.txt
	touch $@

# demo, dev, all: the extras of pyproject.toml
$(VENV)/.installed-%: requirements.txt pyproject.toml | $(VENV)/.installed
	$(INSTALL) --editable ".[$*]"
	touch $@
