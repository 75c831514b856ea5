# make demo   a model learns from synthetic speech and is asked about speakers it never heard
# make test   the test suite (make slow: with the long checks)
# make lint   style and spelling
# make page   the web page about the model of `make demo`
# make browser  what the tests of the web page need; without it they are skipped

PYTHON ?= python3
VENV ?= .venv
DEMO ?= demo
WORKERS ?= 2
BIN := $(VENV)/bin
export HF_HUB_DISABLE_TELEMETRY = 1

.PHONY: demo page test slow browser lint clean

demo: $(VENV)/.installed
	$(BIN)/python preprocessing/synthetic_corpus.py -o $(DEMO)/corpus
	$(BIN)/python features.py $(DEMO)/corpus -o $(DEMO)/features.parquet --workers $(WORKERS)
	$(BIN)/python preprocessing/template_creation.py $(DEMO)/features.parquet -o $(DEMO)/captions.parquet
	$(BIN)/python train.py configs/demo.yaml data.root=$(DEMO)/corpus \
		data.captions=$(DEMO)/captions.parquet output=$(DEMO)/run
	$(BIN)/python evaluate.py $(DEMO)/run $(DEMO)/corpus --split test --prompts sentence \
		--targets emotion gender -o $(DEMO)/results

page: $(VENV)/.installed-demo
	$(BIN)/python app.py $(DEMO)/run --edges $(DEMO)/captions.edges.json \
		--features $(DEMO)/features.parquet

# Two processes of one thread: towers of tests are tiny, and threads that wait for each other cost more
# than they do.
TESTS := HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile
test: $(VENV)/.installed-dev
	$(TESTS) -m "not slow"

slow: $(VENV)/.installed-dev
	$(TESTS)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell

browser: $(VENV)/.installed-browser
	@if command -v chromium || command -v chromium-browser || command -v google-chrome; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null && apt-get update -qq && \
		DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends chromium \
		> /dev/null; then :; \
	else echo "no Chromium, and none could be installed: tests in a browser will be skipped"; fi

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

$(VENV)/.installed-demo: requirements.txt requirements-demo.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-demo.txt
	touch $@

$(VENV)/.installed-browser: requirements.txt requirements-demo.txt requirements-browser.txt \
		| $(VENV)/.installed-dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-browser.txt
	touch $@ $(VENV)/.installed-demo
