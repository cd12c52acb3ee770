# make demo: the whole method on drawn images, from nothing.  make test: all tests.  make pipeline: the five stages on VOC.
PYTHON ?= python3
PY = .venv/bin/python
SEED ?= 0
VENV = .venv/.installed

.PHONY: venv demo test test-long lint bench clean
.DELETE_ON_ERROR:

venv: $(VENV)

$(VENV): requirements.txt requirements-dev.txt
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet -r requirements-dev.txt
	touch $@

demo: $(VENV)
	$(PY) tool/demo.py --seed $(SEED)

test: $(VENV)
	$(PY) -m pytest -m "not slow"

test-long: $(VENV)
	$(PY) -m pytest -m slow

lint: $(VENV)
	.venv/bin/ruff check .

bench: $(VENV)
	$(PY) -m tests.bench.run

clean:
	rm -rf .venv experiment data/toy
