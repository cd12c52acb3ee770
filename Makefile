# make demo: the whole method on drawn images, from nothing.  make test: all tests.  make pipeline: all stages on VOC.
PYTHON ?= python3
PY = .venv/bin/python
# The oldest numpy with a wheel for this Python, from before numpy 1.26; there is none for Python 3.12 and newer.
OLD_NUMPY = "numpy==1.21.2; python_version < '3.11'" "numpy==1.23.2; python_version == '3.11'"
# What builds pydensecrf2 on Python 3.13, for which the Cython that it asks for is too old.
NEWER_CYTHON = cython==3.1.6 setuptools wheel
PYDENSECRF = $(shell sed -n 's/^\(pydensecrf2[^;]*\).*/\1/p' requirements.txt)
SEED ?= 0
VENV = .venv/.installed

# make pipeline VOC=data/VOC2012 NAME=aeft: the paper's settings; interrupted, it goes on where it was.
# VOC may be any data set; without TRAIN_LIST and VAL_LIST its own lists are taken, for VOC train_aug.txt and train.txt.
# DATA_FLAGS (--classes FILE --cls_labels FILE) go to the stages that read labels; the others take them from the experiment.
# VAL_LIST=none, or no masks: nothing is scored. SEG_LIST: what the segmentation network labels in the end, by default the
# data set's ImageSets/Segmentation/val.txt; none, or no such list: no segmentation network. ARCH: another one.
VOC ?= data/VOC2012
NAME ?= aeft
EXPERIMENT ?= experiment
TRAIN_LIST ?=
VAL_LIST ?=
SEG_LIST ?= $(if $(wildcard $(VOC)/ImageSets/Segmentation/val.txt),val,none)
ARCH ?= deeplab_resnet38d
DATA_FLAGS ?=
EPOCHS ?= 40
LOW ?= 2
HIGH ?= 21
DUP ?= 19
COMMON = --name $(NAME) --experiment $(EXPERIMENT) --voc12_root $(VOC)
POWERS = --low $(LOW) --high $(HIGH) --dup $(DUP)
TRAIN = $(if $(TRAIN_LIST),--train_list $(TRAIN_LIST))
VAL = $(if $(VAL_LIST),--val_list $(VAL_LIST))
MASKS = $(if $(filter none,$(VAL_LIST)),,$(wildcard $(VOC)/SegmentationClass))
EVALUATE = $(if $(MASKS),$(PY) evaluation.py $(COMMON) $(VAL:--val_list%=--list%),@echo not scored, no masks:)
TWO = $(shell printf '%02d' $(1))
LABELS = rw/$(call TWO,$(LOW))_$(call TWO,$(HIGH))$(call TWO,$(DUP))
SEG = $(COMMON) --arch $(ARCH)

.PHONY: venv requirements pipeline photographs demo test test-long lint bench gpu clean
.DELETE_ON_ERROR:

venv: $(VENV)

$(VENV): requirements.txt requirements-dev.txt
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet -r requirements-dev.txt || { \
		sed -e '/^pydensecrf2/d' -e '/^-r/d' requirements.txt requirements-dev.txt > .venv/no_crf.txt && \
		.venv/bin/pip install --quiet -r .venv/no_crf.txt; }
	$(PY) -c "import pydensecrf" 2>/dev/null || { .venv/bin/pip install --quiet $(NEWER_CYTHON) && \
		.venv/bin/pip install --quiet --no-build-isolation $(PYDENSECRF); } || \
		echo "installed without pydensecrf2, which needs a C++ compiler: everything but CRF works"
	.venv/bin/pip install --quiet --upgrade --no-deps --only-binary :all: --target .venv/old-numpy $(OLD_NUMPY) \
		|| echo "no old numpy: the test that it reads our files is skipped"
	touch $@

requirements: $(VENV)
	$(PY) .ci/requirements.py

demo: $(VENV)
	$(PY) demo.py --seed $(SEED)

pipeline: $(VENV)
	$(PY) train.py $(COMMON) $(DATA_FLAGS) $(TRAIN) $(VAL) --epochs $(EPOCHS) --resume $(TRAIN_FLAGS)
	$(PY) infer.py $(COMMON) $(DATA_FLAGS) $(TRAIN:--train_list%=--infer_list%) --load_epo $$(( $(EPOCHS) - 1 )) \
		--dict --crf --alphas $(LOW) $(DUP) $(HIGH) $(INFER_FLAGS)
	$(PY) train_aff.py $(COMMON) $(POWERS) $(TRAIN) $(VAL) --resume $(AFF_FLAGS)
	$(PY) infer_aff.py $(COMMON) $(POWERS) $(TRAIN) $(WALK_FLAGS)
	$(EVALUATE) --task cam --dict_dir dict
	$(EVALUATE) --task crf --dict_dir crf/$(call TWO,$(DUP))
	$(EVALUATE) --task png --dict_dir $(LABELS)
ifneq ($(SEG_LIST),none)
	$(PY) train_seg.py $(SEG) --labels $(LABELS) $(TRAIN) --val_list $(SEG_LIST) --resume $(SEG_FLAGS)
	$(PY) infer_seg.py $(SEG) --infer_list $(SEG_LIST) $(SEG_INFER_FLAGS)
	$(if $(MASKS),$(PY) evaluation.py $(COMMON) --list $(SEG_LIST),@echo not scored, no masks:) --task png --dict_dir seg/$(subst :,-,$(ARCH))
endif

# The parts of the method on photographs (docs/photographs.md says where to get them and how long it takes).
DATA ?= data/msrc12
SEEDS ?= 0 1 2
photographs: $(VENV)
	$(PY) ablation.py --data $(DATA) --seeds $(SEEDS) $(ABLATION_FLAGS)

# Two processes of one thread each: two torch processes of two threads would slow each other down on two cores.
test: $(VENV)
	OMP_NUM_THREADS=1 $(PY) -m pytest -m "not slow" -n 2 --dist loadfile

test-long: $(VENV)
	$(PY) -m pytest -m slow

lint: $(VENV)
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/lint-imports

bench: $(VENV)
	$(PY) -m tests.bench.run

# What runs on a GPU and how fast, into docs/gpu.md; says so and ends where there is none.
gpu: $(VENV)
	$(PY) -m tests.gpu.run $(GPU_FLAGS)

# Trained weights in experiment/ stay: they are no build output.
clean:
	rm -rf .venv data/toy .pytest_cache .hypothesis .ruff_cache .import_linter_cache
