# On a fresh Debian machine with Python 3.11 each of these does all the set-up itself.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: transcribe serve test lint format types clean

transcribe: $(VENV)/.core ## Transcribe the example recordings
	$(BIN)/tickertape transcribe examples/audio

serve: $(VENV)/.serve ## Start the page and the API on http://localhost:8080
	$(BIN)/tickertape serve

test: $(VENV)/.test lint types ## Everything that CI checks
	$(BIN)/python -m pytest

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.test
	$(BIN)/mypy

format: $(VENV)/.test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist

# A stamp for each set of packages: made anew when pyproject.toml changes.
$(VENV)/.core: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/.serve: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[serve]'
	touch $@

$(VENV)/.test: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python -m pip install --quiet --editable '.[serve,test,schemas,lint,reference]'
	touch $@

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
