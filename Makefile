# Every target wraps one command; `make help` prints the comments behind `##`.
# Values may hold spaces and quotes: they reach the commands through the environment, never through the recipe's text.
#   make translate CKPT="runs/my run" IN=photo.jpg OUT=out.png PROMPT="driving in dense fog"
# ARGS is the exception: it is split into words, as typed in a shell.

SHELL := /bin/bash
PYTHON ?= python3
PY := .venv/bin/python

KNOWN := EXP BASE DATA MEMORY INIT RUN CKPT IN OUT PROMPT DIRECTION STRENGTH SEED SIZE PREPROCESS BATCH FORMAT NAME ARCHIVE GRID QUICK RESUME ADDRESS YES LOGDIR SEEDS A B ARGS
# A variable of that name in the user's shell (DATA, OUT, SEED ...) is no setting of ours: only `make X DATA=...` is.
$(foreach v,$(KNOWN),$(if $(filter environment,$(origin $(v))),$(eval $(v) :=)))
# make itself would ignore a misspelt name.
typed := $(foreach v,$(.VARIABLES),$(if $(filter command,$(origin $(v))),$(v)))
unknown := $(filter-out $(KNOWN) PYTHON PY,$(typed))
$(if $(unknown),$(error Unknown variable $(unknown). Known: $(KNOWN)))

# $(call need,EXP,example): one line and exit code 2 where EXP= is missing
need = $(if $($(1)),,$(error $(1)= is missing. Example: $(2)))
# $(call flags,EXP:--exp DATA:--data): --exp "$EXP" --data "$DATA", each only where it was given
flags = $(strip $(foreach p,$(1),$(call flag,$(word 1,$(subst :, ,$(p))),$(word 2,$(subst :, ,$(p))))))
flag = $(if $($(1)),$(2) "$$$(1)")
# $(call switch,QUICK:--quick): --quick where QUICK is given and not 0
switch = $(strip $(foreach p,$(1),$(if $(filter-out 0,$($(word 1,$(subst :, ,$(p))))),$(word 2,$(subst :, ,$(p))))))
# What a target takes stands in its help; what else is typed would be dropped without a word.
takes = $(shell sed -n 's/^$@:.*## //p' $(firstword $(MAKEFILE_LIST)) | grep -o '[A-Z][A-Z]*=' | tr -d = | grep -v ARGS) ARGS
foreign = $(sort $(filter-out $(takes) PYTHON PY,$(typed)))
# the interpreter, or one line that says what is wrong
run = $(if $(foreign),$(error `make $@` takes no $(foreign), only $(takes)))$(if $(wildcard $(firstword $(PY))),$(PY),$(error $(firstword $(PY)) is not there: run `make setup` first))

.DEFAULT_GOAL := help
.PHONY: help setup lock doctor train resume translate export evaluate compare estimate ablate data check-data tensorboard test test-slow test-browser lint format bench bench-base bench-supervised bench-scenes bench-memory bench-evaluation pocket

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(firstword $(MAKEFILE_LIST)) | awk -F '\t' '{ printf "%-12s %s\n", $$1, $$2 }'

setup: .venv/.installed ## create .venv with what constraints.txt pins; quick when nothing changed [PYTHON=python3]
	@echo "Ready: .venv holds $$(.venv/bin/python --version) and the packages of constraints.txt."

.venv/.installed: setup.cfg pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; (3, 10) <= v < (3, 13) or sys.exit("Python 3.10 to 3.12 is needed, $(PYTHON) is %d.%d. Example: make setup PYTHON=python3.11" % v)'
	@$(PYTHON) -m venv .venv
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

lock: ## pin anew what setup.cfg allows (needs uv) [ARGS=--upgrade]
	@uv pip compile setup.cfg --extra dev --universal --fork-strategy fewest --python-version 3.10 --no-annotate \
	  --custom-compile-command "make lock" --quiet -o constraints.txt $(ARGS)

doctor: ## print versions, devices, and which weights are found
	@$(run) -m commands.doctor

train: ## train: EXP=clear2foggy [BASE=pocket] [DATA=folder] [MEMORY=12gb] [INIT=adapter-or-.pkl] [ARGS="--model.init_args.max_images=2000"]
	$(call need,EXP,make train EXP=clear2foggy DATA=my-data)
	@$(run) -m commands.train $(call flags,EXP:--exp BASE:--base DATA:--data MEMORY:--memory INIT:--init) $(ARGS)

resume: ## go on where a run stopped, in the same folder: RUN=folder [ARGS="--model.init_args.max_images=600"]
	$(call need,RUN,make resume RUN=runs/clear2foggy/pocket/version_0)
	@$(run) -m commands.resume $(call flags,RUN:--run) $(ARGS)

translate: ## translate pictures: CKPT= IN= OUT= [BASE= PROMPT= DIRECTION=a2b STRENGTH=1.0 SEED=0 SIZE= PREPROCESS=none BATCH=]
	$(call need,CKPT,make translate CKPT=runs/clear2foggy/pocket/version_0 IN=photos OUT=foggy)
	$(call need,IN,make translate CKPT=$(CKPT) IN=photos OUT=foggy)
	$(call need,OUT,make translate CKPT=$(CKPT) IN=$(IN) OUT=foggy)
	@$(run) -m commands.translate $(call flags,CKPT:--ckpt IN:--in OUT:--out BASE:--base PROMPT:--prompt \
	  DIRECTION:--direction STRENGTH:--strength SEED:--seed SIZE:--size PREPROCESS:--preprocess BATCH:--batch) $(ARGS)

export: ## write an adapter in another format: CKPT= FORMAT=released|released-stochastic|diffusers OUT=folder [BASE=]
	$(call need,CKPT,make export CKPT=runs/clear2foggy/pocket/version_0 FORMAT=diffusers OUT=exported)
	$(call need,FORMAT,make export CKPT=$(CKPT) FORMAT=diffusers OUT=exported)
	$(call need,OUT,make export CKPT=$(CKPT) FORMAT=$(FORMAT) OUT=exported)
	@$(run) -m commands.export $(call flags,CKPT:--ckpt FORMAT:--format OUT:--out BASE:--base) $(ARGS)

evaluate: ## write metrics.json and report.html for a checkpoint: CKPT= [DATA=] [BASE=] [OUT=] [EXP=, where CKPT is no run]
	$(call need,CKPT,make evaluate CKPT=runs/clear2foggy/pocket/version_0)
	@$(run) -m commands.evaluate $(call flags,CKPT:--ckpt DATA:--data BASE:--base OUT:--out EXP:--exp) $(ARGS)

compare: ## runs side by side in one table: A=run B=run [ARGS="further runs"]
	$(call need,A,make compare A=runs/clear2foggy/pocket/version_0 B=runs/clear2foggy/pocket/version_1)
	$(call need,B,make compare A=$(A) B=runs/clear2foggy/pocket/version_1)
	@$(run) -m commands.compare "$$A" "$$B" $(ARGS)

estimate: ## count the memory of training before any: EXP= [BASE=pocket SIZE= BATCH= MEMORY=] [ARGS=--trainer.precision=bf16-mixed]
	$(call need,EXP,make estimate EXP=clear2foggy BASE=sd-turbo SIZE=512 BATCH=1)
	@$(run) -m commands.estimate $(call flags,EXP:--exp BASE:--base SIZE:--size BATCH:--batch MEMORY:--memory) $(ARGS)

ablate: ## train a grid of settings and compare: [GRID=design EXP= BASE= DATA= SEEDS= QUICK=1 RESUME=1 OUT= ADDRESS= YES=1]
	@$(run) -m commands.ablate $(call flags,GRID:--grid EXP:--exp BASE:--base DATA:--data SEEDS:--seeds OUT:--out ADDRESS:--address) \
	  $(call switch,QUICK:--quick RESUME:--resume YES:--yes) $(ARGS)

data: ## get a public data set, or learn how: NAME=horse2zebra [ARCHIVE=downloaded-file] [OUT=folder]
	$(call need,NAME,make data NAME=horse2zebra)
	@$(run) -m commands.data $(call flags,NAME:--name ARCHIVE:--archive OUT:--out) $(ARGS)

check-data: ## look through a data folder before training: EXP= DATA= [OUT=picture.png]
	$(call need,EXP,make check-data EXP=clear2foggy DATA=my-data)
	$(call need,DATA,make check-data EXP=$(EXP) DATA=my-data)
	@$(run) -m commands.check_data $(call flags,EXP:--exp DATA:--data OUT:--out) $(ARGS)

tensorboard: ## watch runs/ in the browser [LOGDIR=runs]
	@$(run) -m tensorboard.main $(if $(LOGDIR),$(call flags,LOGDIR:--logdir),--logdir runs) $(ARGS)

# Tests are tiny: more threads only get into each other's way, much so on a busy machine.
test test-slow test-browser: export OMP_NUM_THREADS ?= 1

# Side by side, a file on one core: what its tests share is made once.
test: ## run the quick tests [ARGS="-k words"]
	@$(run) -m pytest --numprocesses=auto --maxprocesses=4 --dist=loadfile $(ARGS)

test-slow: ## run the tests marked slow
	@$(run) -m pytest -m slow $(ARGS)

test-browser: ## run the tests that look at a page (needs chromium)
	@$(run) -m pytest -m browser $(ARGS)

lint: ## check style (ruff) and types (mypy)
	@$(run) -m ruff check . && $(PY) -m ruff format --check --quiet . && $(PY) -m mypy

format: ## rewrite the code in the project's style
	@$(run) -m ruff check --fix . ; $(PY) -m ruff format .

pocket: ## make the packaged base from scratch, resumable [ARGS="--stage teacher --set teacher.steps=500"]
	@$(run) -m commands.pocket $(ARGS)

bench: ## time the fused against the sequential update
	@$(run) -m benchmarks.update_rule $(ARGS)

bench-base: ## train every task from pocket, from random weights and as a plain CycleGAN or pix2pix; hours [SEEDS=1]
	@$(run) -m benchmarks.base_models $(call flags,SEEDS:--seeds) $(ARGS)

bench-supervised: ## train the unpaired tasks on their true pairs: how near the truth a quick start can come; an hour
	@$(run) -m benchmarks.supervised $(ARGS)

bench-scenes: ## count the pictures per second that one core renders
	@$(run) -m benchmarks.scenes $(ARGS)

bench-evaluation: ## time the parts of an evaluation [ARGS="--pairs 200 --out benchmarks/results/evaluation_cost.json"]
	@$(run) -m benchmarks.evaluation_cost $(ARGS)

bench-memory: ## peak memory and seconds of training steps at full size [ARGS="--exp edge2image --sizes 512 --batches 1"]
	@$(run) -m benchmarks.training_memory $(ARGS)
