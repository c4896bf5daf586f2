# On a fresh Debian machine with Python 3.11 each of these does all the set-up itself.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SBOM := .venv-sbom
LOCK := --generate-hashes --python-version 3.11 --python-platform x86_64-manylinux_2_28 --no-header --no-annotate --quiet

.PHONY: transcribe serve check test lint format types lock sbom image-test clean

transcribe: $(VENV)/.core ## Transcribe the example recordings with OpenAI's whisper-base
	$(BIN)/tickertape transcribe examples/audio

serve: $(VENV)/.serve ## Start the page and the API on http://localhost:8080
	$(BIN)/tickertape serve

check: $(VENV)/.test lint types ## Lint, types and the fast tests: an answer within a minute
	$(BIN)/python -m pytest -n 2 -m "not ray and not browser and not reference and not slow and not real"

test: $(VENV)/.test $(SBOM)/.done lint types ## Everything that CI checks
	$(BIN)/python -m pytest

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.test
	$(BIN)/mypy

format: $(VENV)/.test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: $(VENV)/.test ## Lock the packages of the image anew
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile pyproject.toml --extra serve --output-file deploy/requirements.lock $(LOCK)
	echo 'hatchling>=1.27' | $(BIN)/uv pip compile - --output-file deploy/build.lock $(LOCK)
	printf 'nvidia-cublas-cu12>=12.4\nnvidia-cudnn-cu12>=9,<10\n' | \
		$(BIN)/uv pip compile - --output-file deploy/cuda.lock $(LOCK)

sbom: $(SBOM)/.done ## List what the image is made of, libraries inside wheels included: build/sbom.json
	rm -rf build/serving
	$(PYTHON) -m venv --without-pip build/serving
	$(SBOM)/bin/python -m pip --python build/serving/bin/python install --quiet --require-hashes --only-binary=:all: \
		--requirement deploy/requirements.lock
	$(SBOM)/bin/python -m pip --python build/serving/bin/python install --quiet --no-deps .
	$(SBOM)/bin/python deploy/sbom.py build/serving/bin/python > build/sbom.json.part
	mv build/sbom.json.part build/sbom.json

image-test: ## Build the image and try it, without Docker; needs root on Debian, and ten minutes
	MODEL="$(or $(MODEL),openai/whisper-base)" tests/image/build.sh

clean:
	[ ! -e build/image ] || tests/image/build.sh clean
	rm -rf $(VENV) $(SBOM) build dist

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
	$(BIN)/tickertape pull openai/whisper-base || echo 'Tests marked `real` will be skipped.'
	touch $@

$(SBOM)/.done: pyproject.toml
	$(PYTHON) -m venv $(SBOM)
	$(SBOM)/bin/python -m pip install --quiet --upgrade pip
	$(SBOM)/bin/python -m pip install --quiet --group sbom
	touch $@

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
