# make demo | make test: each sets itself up in .venv first.
VENV    ?= .venv
PYTHON  ?= python3
BIN     := $(VENV)/bin
# --no-compile: half of an installation compiles modules, most of which nothing here imports.
INSTALL := $(BIN)/python -m pip --disable-pip-version-check install -q --no-compile -c constraints.txt

.PHONY: help demo test test-cluster test-deploy lint docs faults clean

help:
	@echo "make demo   train LITE-LLM4Rec on ml-100k and compare it with popularity"
	@echo "make test   lint and tests"
	@echo "make faults kills, random settings and files, a long run, every model: half an hour (docs/robustness.md)"
	@echo "make test-cluster  jobs on two Ray nodes, one of which is killed (minutes)"
	@echo "make test-deploy  the container's image, or its build in a bare directory (minutes)"
	@echo "make docs   the documentation site, in site/"
	@echo "make clean  remove .venv and what runs have written"

demo: $(VENV)/.demo
	$(BIN)/python run_recbole_lite.py --model=LiteLLM4Rec --dataset=ml-100k --config_files=properties/demo.yaml

# torch and oneDNN choose kernels by the processor. These tests train and recommend with those of
# processors that have less, then all tests run with the machine's own.
KERNELS := tests/trainer/test_matmul_backend.py tests/trainer/test_trainer.py tests/evaluator/test_evaluator.py \
	tests/model/test_item_lm.py tests/inference/test_packed_encoder.py
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

test: lint
	ATEN_CPU_CAPABILITY=default $(PYTEST) -q $(KERNELS)
	! grep -qs avx2 /proc/cpuinfo || \
	ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 $(PYTEST) -q $(KERNELS)
	$(PYTEST) --dist loadfile --no-loadscope-reorder

faults: $(VENV)/.dev
	$(BIN)/python tests/faults/kill_and_resume.py --kills 30
	$(BIN)/python tests/faults/fuzz.py --settings 3000 --files 5000 --runs 500
	$(BIN)/python tests/faults/long_run.py --epochs 1000
	$(BIN)/python tests/faults/every_model.py
	$(BIN)/python -m pytest tests/faults

test-cluster: $(VENV)/.dev
	$(BIN)/python -m pytest -m cluster

test-deploy: $(VENV)/.dev
	$(BIN)/python -m pytest -m deploy

docs: $(VENV)/.docs
	$(BIN)/mkdocs build --strict

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo --no-cache
	$(BIN)/mypy

# RecBole's own requirements cannot be met (docs/recbole.md), so it comes without them.
$(VENV)/.demo: setup.py constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(INSTALL) -e ".[offline]"
	$(INSTALL) --no-deps recbole
	touch $@

$(VENV)/.dev: $(VENV)/.demo
	$(INSTALL) -e ".[offline,tune,optuna,dev]"
	touch $@

$(VENV)/.docs: $(VENV)/.demo
	$(INSTALL) -e ".[docs]"
	touch $@

clean:
	rm -rf $(VENV) .cache log log_tensorboard saved site
