# make demo | test | lint | readme: each sets up its own environment in .venv first.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CLS := experiments/classification
DEMO := demo
DEMO_KEY := 1312
DEMO_NET := -dataset shapes10 -checkpoint_dir $(DEMO)/checkpoints

.PHONY: demo test lint readme

demo: $(VENV)/.runtime
	$(BIN)/python $(CLS)/train_cifar10.py -net vgg16 -preset fast -epochs 2 -warm 0.5 -b 128 -muon_lr 0.05 -cutout 0 -save_weights -log_dir $(DEMO)/runs $(DEMO_NET)
	@echo "--- plain images"
	$(BIN)/python $(CLS)/test_cifar10.py -net vgg16 -out $(DEMO)/plain.json $(DEMO_NET)
	@echo "--- scrambled images, with the key"
	$(BIN)/python $(CLS)/test_cifar10.py -net vgg16_permuted -permute -seed $(DEMO_KEY) -out $(DEMO)/keyed.json $(DEMO_NET)
	@echo "--- scrambled images, without the key"
	$(BIN)/python $(CLS)/test_cifar10.py -net vgg16_permuted -permute -wrong_key -seed $(DEMO_KEY) -out $(DEMO)/wrong_key.json $(DEMO_NET)
	@echo "--- one scrambled picture"
	$(BIN)/python $(CLS)/inference.py -net vgg16_permuted -permute -seed $(DEMO_KEY) -image static/shape.png -out_dir $(DEMO)/pictures $(DEMO_NET)

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

readme: $(VENV)/.runtime
	$(BIN)/python -m experiments.readme

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

$(VENV)/.runtime: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --requirement requirements.txt
	touch $@

$(VENV)/.dev: requirements-dev.txt $(VENV)/.runtime
	$(BIN)/python -m pip install --quiet --requirement requirements-dev.txt
	touch $@
