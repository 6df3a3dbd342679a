# Every target wraps one command; `make help` prints the comments behind `##`.
# Values may hold spaces and quotes: they reach the commands through the environment, not through the recipe's text.
#   make translate CKPT="runs/my run" IN=photo.jpg OUT=out.png PROMPT="driving in dense fog"
# ARGS is the exception: it is split into words, as typed in a shell.

SHELL := /bin/bash
PYTHON ?= python3
PY := .venv/bin/python

KNOWN := EXP BASE DATA MEMORY INIT RUN CKPT IN OUT PROMPT DIRECTION N STRENGTH SEED SIZE RESOLUTION PREPROCESS BATCH PRECISION EXT DEPTH GREY STRICT PORT HOST TOKEN TRUST FORMAT NAME ARCHIVE GRID QUICK RESUME ADDRESS YES LOGDIR SEEDS A B REPO PRIVATE LICENCE ARGS
# A variable of that name in the user's shell (DATA, OUT, SEED ...) is no setting of ours: only `make X DATA=...` is.
$(foreach v,$(KNOWN),$(if $(filter environment,$(origin $(v))),$(eval $(v) :=)))
# make itself would ignore a misspelt name.
typed := $(foreach v,$(.VARIABLES),$(if $(filter command,$(origin $(v))),$(v)))
unknown := $(filter-out $(KNOWN) PYTHON PY,$(typed))
$(if $(unknown),$(error Unknown variable $(unknown). Known: $(KNOWN)))

# $(call need,EXP,example): one line and exit code 2 where EXP= is missing
need = $(if $($(1)),,$(error $(1)= is missing. Example: $(2)))
# $(call flags,EXP:--exp DATA:--data): --exp="$EXP" --data="$DATA", each only where it was given; values may begin with a dash
flags = $(strip $(foreach p,$(1),$(call flag,$(word 1,$(subst :, ,$(p))),$(word 2,$(subst :, ,$(p))))))
flag = $(if $($(1)),$(2)="$$$(1)")
# $(call switch,QUICK:--quick): --quick where QUICK is given and not 0
switch = $(strip $(foreach p,$(1),$(if $(filter-out 0,$($(word 1,$(subst :, ,$(p))))),$(word 2,$(subst :, ,$(p))))))
# The variables that a target takes are read from its help; any other one would be ignored silently.
takes = $(shell sed -n 's/^$@:.*## //p' $(firstword $(MAKEFILE_LIST)) | grep -o '[A-Z][A-Z]*=' | tr -d = | grep -v ARGS) ARGS
foreign = $(sort $(filter-out $(takes) PYTHON PY,$(typed)))
# the interpreter, or one line that says what is wrong
run = $(if $(foreign),$(error `make $@` takes no $(foreign), only $(takes)))$(if $(wildcard $(firstword $(PY))),$(PY),$(error $(firstword $(PY)) is not there: run `make setup` first))

.DEFAULT_GOAL := help
.PHONY: help setup lock doctor train resume translate serve demo export publish evaluate compare estimate ablate data check-data tensorboard test test-lowest test-long test-slow test-browser test-chaos lint format docs bench bench-step bench-base bench-supervised bench-scenes bench-memory bench-evaluation bench-translate bench-serve bench-resolution bench-video bench-edit bench-folder bench-files pocket adapters pictures

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(firstword $(MAKEFILE_LIST)) | awk -F '\t' '{ printf "%-12s %s\n", $$1, $$2 }'

setup: .venv/.installed ## create .venv with what constraints.txt pins; quick when nothing changed [PYTHON=python3]
	@echo "Ready: .venv holds $$(.venv/bin/python --version) and the packages of constraints.txt."

.venv/.installed: constraints.txt
.venv-lowest/.installed: constraints-lowest.txt
.venv/.installed .venv-lowest/.installed: setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; (3, 10) <= v < (3, 13) or sys.exit("Python 3.10 to 3.12 is needed, $(PYTHON) is %d.%d. Example: make setup PYTHON=python3.11" % v)'
	@$(PYTHON) -m venv $(@D)
	@$(@D)/bin/python -m pip install --quiet --disable-pip-version-check -c $(filter constraints%,$^) -e '.[dev,export,video,serve,demo,docs]'
	@touch $@

compile = uv pip compile setup.cfg --extra dev --extra export --extra video --extra serve --extra demo --extra docs --universal --fork-strategy fewest --python-version 3.10 \
  --no-annotate --custom-compile-command "make lock" --quiet $(ARGS)
lock: ## resolve the versions that setup.cfg allows, the newest into constraints.txt and the lowest into constraints-lowest.txt (needs uv) [ARGS=--upgrade]
	@$(compile) -o constraints.txt
	@$(compile) --resolution lowest-direct -o constraints-lowest.txt

doctor: ## check that training can run here: versions, devices, weights on disk
	@$(run) -m commands.doctor

train: ## train a model: EXP=clear2foggy|my.yaml [BASE=pocket] [DATA=folder | A=folder B=folder] [MEMORY=12gb] [INIT=adapter-or-.pkl] [ARGS="--model.init_args.max_images=2000"]
	$(call need,EXP,make train EXP=clear2foggy DATA=my-data)
	@$(run) -m commands.train $(call flags,EXP:--exp BASE:--base DATA:--data A:--a B:--b MEMORY:--memory INIT:--init) $(ARGS)

resume: ## resume a run from its last checkpoint, in the same folder: RUN=folder [TRUST=modules-of-your-own] [ARGS="--model.init_args.max_images=600"]
	$(call need,RUN,make resume RUN=runs/clear2foggy/pocket/version_0)
	@$(run) -m commands.resume $(call flags,RUN:--run TRUST:--trust) $(ARGS)

translate: ## translate images or a video: CKPT= IN= OUT= [BASE= PROMPT= DIRECTION=a2b STRENGTH=1.0 SEED=0 SIZE= RESOLUTION=auto PREPROCESS=none BATCH=auto PRECISION=auto EXT=png|jpg|webp DEPTH=8|16 GREY=rgb|keep STRICT=0 ADDRESS=]
	$(call need,CKPT,make translate CKPT=runs/clear2foggy/pocket/version_0 IN=photos OUT=foggy)
	$(call need,IN,make translate CKPT=$(CKPT) IN=photos OUT=foggy)
	$(call need,OUT,make translate CKPT=$(CKPT) IN=$(IN) OUT=foggy)
	@$(run) -m commands.translate $(call flags,CKPT:--ckpt IN:--in OUT:--out BASE:--base PROMPT:--prompt \
	  DIRECTION:--direction STRENGTH:--strength SEED:--seed SIZE:--size RESOLUTION:--resolution PREPROCESS:--preprocess \
	  BATCH:--batch PRECISION:--precision EXT:--ext DEPTH:--depth GREY:--grey STRICT:--strict \
	  ADDRESS:--address) $(ARGS)

# The token goes by the environment alone: arguments of a process can be read by others.
serve: ## answer requests for translations over HTTP: CKPT=adapter,another|runs [PORT=8000 HOST=127.0.0.1 PRECISION=auto BATCH=auto TOKEN= BASE=]
	$(call need,CKPT,make serve CKPT=runs/clear2foggy/pocket/version_0)
	@$(if $(TOKEN),ONE_STEP_TOKEN="$$TOKEN") $(run) -m commands.serve $(call flags,CKPT:--ckpt PORT:--port HOST:--host PRECISION:--precision \
	  BATCH:--batch BASE:--base) $(ARGS)

demo: ## show a web page that translates photographs: [CKPT=adapter,another|runs PORT=7860 HOST=127.0.0.1 PRECISION=auto BASE=]
	@$(run) -m commands.demo $(call flags,CKPT:--ckpt PORT:--port HOST:--host PRECISION:--precision BASE:--base) $(ARGS)

export: ## write an adapter in another format: CKPT= FORMAT=onnx|openvino|web|released|released-stochastic|diffusers OUT=folder [BASE=] [PRECISION=float32 DIRECTION=both N=16 DATA= PROMPT= TRUST=modules-of-your-own, of onnx, openvino and web]
	$(call need,CKPT,make export CKPT=runs/clear2foggy/pocket/version_0 FORMAT=openvino OUT=exported)
	$(call need,FORMAT,make export CKPT=$(CKPT) FORMAT=openvino OUT=exported)
	$(call need,OUT,make export CKPT=$(CKPT) FORMAT=$(FORMAT) OUT=exported)
	@$(run) -m commands.export $(call flags,CKPT:--ckpt FORMAT:--format OUT:--out BASE:--base PRECISION:--precision \
	  DIRECTION:--direction N:--n DATA:--data PROMPT:--prompt TRUST:--trust) $(ARGS)

publish: ## share an adapter on the Hugging Face hub: CKPT=run-or-adapter REPO=owner/name [PRIVATE=1] [BASE=, where a folder was trained on] [LICENCE=apache-2.0]
	$(call need,CKPT,make publish CKPT=runs/clear2foggy/pocket/version_0 REPO=owner/name)
	$(call need,REPO,make publish CKPT=$(CKPT) REPO=owner/name)
	@$(run) -m commands.publish $(call flags,CKPT:--ckpt REPO:--repo BASE:--base LICENCE:--licence) $(call switch,PRIVATE:--private) $(ARGS)

evaluate: ## write metrics.json and report.html for a checkpoint: CKPT= [DATA=] [BASE=] [OUT=] [EXP=, where CKPT is no run] [PRECISION=float32] [SIZE= RESOLUTION=auto] [TRUST=modules-of-your-own]
	$(call need,CKPT,make evaluate CKPT=runs/clear2foggy/pocket/version_0)
	@$(run) -m commands.evaluate $(call flags,CKPT:--ckpt DATA:--data BASE:--base OUT:--out EXP:--exp PRECISION:--precision SIZE:--size \
	  RESOLUTION:--resolution TRUST:--trust) $(ARGS)

compare: ## compare runs in one table: A=run B=run [ARGS="further runs"]
	$(call need,A,make compare A=runs/clear2foggy/pocket/version_0 B=runs/clear2foggy/pocket/version_1)
	$(call need,B,make compare A=$(A) B=runs/clear2foggy/pocket/version_1)
	@$(run) -m commands.compare "$$A" "$$B" $(ARGS)

estimate: ## estimate the memory of a training without running it: EXP= [BASE=pocket SIZE= BATCH= MEMORY=] [ARGS=--trainer.precision=bf16-mixed]
	$(call need,EXP,make estimate EXP=clear2foggy BASE=sd-turbo SIZE=512 BATCH=1)
	@$(run) -m commands.estimate $(call flags,EXP:--exp BASE:--base SIZE:--size BATCH:--batch MEMORY:--memory) $(ARGS)

ablate: ## train a grid of settings and compare the results: [GRID=design EXP= BASE= DATA= SEEDS= QUICK=1 RESUME=1 OUT= ADDRESS= YES=1]
	@$(run) -m commands.ablate $(call flags,GRID:--grid EXP:--exp BASE:--base DATA:--data SEEDS:--seeds OUT:--out ADDRESS:--address) \
	  $(call switch,QUICK:--quick RESUME:--resume YES:--yes) $(ARGS)

data: ## download a public data set, or print where to get it: NAME=horse2zebra [ARCHIVE=downloaded-file] [OUT=folder]
	$(call need,NAME,make data NAME=horse2zebra)
	@$(run) -m commands.data $(call flags,NAME:--name ARCHIVE:--archive OUT:--out) $(ARGS)

check-data: ## check the images before training: EXP= DATA=folder [OUT=sheet.png], or A=folder B=folder in place of DATA
	$(call need,EXP,make check-data EXP=clear2foggy DATA=my-data)
	$(if $(A)$(B),,$(call need,DATA,make check-data EXP=$(EXP) DATA=my-data))
	@$(run) -m commands.check_data $(call flags,EXP:--exp DATA:--data A:--a B:--b OUT:--out) $(ARGS)

tensorboard: ## show runs/ in the browser [LOGDIR=runs]
	@$(run) -m tensorboard.main $(if $(LOGDIR),$(call flags,LOGDIR:--logdir),--logdir=runs) $(ARGS)

# Tests are tiny: more threads only slow each other down.
test test-long test-slow test-browser test-chaos: export OMP_NUM_THREADS ?= 1

# In parallel, each file on one core, so that its fixtures are made once.
parallel = --numprocesses=auto --maxprocesses=4 --dist=loadfile
test: ## run the quick tests [ARGS="-k words"]
	@$(run) -m pytest $(parallel) $(ARGS)

test-long: ## run the tests marked long, most of those of ten seconds or more [ARGS="-k words"]
	@$(run) -m pytest $(parallel) -m "long and not slow" $(ARGS)

test-lowest: .venv-lowest/.installed ## run the quick tests on the lowest versions that setup.cfg allows, in .venv-lowest [PYTHON=python3] [ARGS="-k words"]
	@$(MAKE) --no-print-directory test PY=.venv-lowest/bin/python

test-slow: ## run the tests marked slow, but for those of test-chaos
	@$(run) -m pytest -m slow --ignore=tests/chaos $(ARGS)

test-chaos: ## kill, signal and feed bad files to the commands, and count faults; takes an hour [ARGS="-k images"]
	@$(run) -m pytest -m slow tests/chaos $(ARGS)

test-browser: ## run the tests that open a page in a browser (needs chromium)
	@$(run) -m pytest -m browser $(ARGS)

lint: ## check style (ruff) and types (mypy)
	@$(run) -m ruff check . && $(PY) -m ruff format --check --quiet . && $(PY) -m mypy

format: ## format the code (ruff)
	@$(run) -m ruff check --fix . ; $(PY) -m ruff format .

# The variable silences the theme's advertisement against mkdocs 2, which setup.cfg excludes.
docs: export NO_MKDOCS_2_WARNING := 1
docs: ## write the documentation's site to site/; every warning is an error (its diagrams need npm, once)
	@$(run) -c 'import material, mkdocstrings' 2>/dev/null || { echo "mkdocs is not in .venv: run \`make setup\` first" >&2; exit 2; }
	@$(run) -m mkdocs build --strict $(ARGS)
	@echo "Written to site/. To look at it: python3 -m http.server --directory site"

pocket: ## pretrain the packaged base from scratch, resumable [ARGS="--stage teacher --set teacher.steps=500"]
	@$(run) -m commands.pocket $(ARGS)

adapters: ## train the packaged adapters from scratch, resumable; takes hours [EXP=day2night]
	@$(run) -m commands.adapters $(call flags,EXP:--exp) $(ARGS)

pictures: ## draw the images of README and docs; after make adapters
	@$(run) -m docs_site.pictures $(ARGS)

bench: ## time a training step of pocket; bench-step has the larger table
	@$(run) -m benchmarks.step --bases pocket --exp clear2foggy --sizes 128 $(ARGS)

bench-step: ## time a training step by update rule, memory layout and precision; takes an hour [ARGS="--bases pocket"]
	@$(run) -m benchmarks.step $(ARGS)

bench-base: ## train every task on pocket, from random weights, and with a ResNet generator; takes hours [SEEDS=1]
	@$(run) -m benchmarks.base_models $(call flags,SEEDS:--seeds) $(ARGS)

bench-supervised: ## train the unpaired tasks on their ground-truth pairs, as an upper bound; takes an hour
	@$(run) -m benchmarks.supervised $(ARGS)

bench-scenes: ## measure rendered images per second on one core
	@$(run) -m benchmarks.scenes $(ARGS)

bench-evaluation: ## time the parts of an evaluation [ARGS="--pairs 200 --out benchmarks/results/evaluation_cost.json"]
	@$(run) -m benchmarks.evaluation_cost $(ARGS)

bench-serve: ## load the server with 64 clients for five minutes, beside the same images as a folder [ARGS="--clients 16 --seconds 60"]
	@$(run) -m benchmarks.serving $(ARGS)

bench-resolution: ## score lift, tiles and the whole image on scenes of 512 px and more, by the packaged adapters [ARGS="--sizes 512"]
	@$(run) -m benchmarks.resolution $(ARGS)

bench-folder: ## seconds to read, compute and write a folder of images, each alone and overlapped
	@$(run) -m benchmarks.translate_folder $(ARGS)

bench-files: ## measure time and memory of a training's start with many image files [ARGS="--files 1000000"]
	@$(run) -m benchmarks.many_files $(ARGS)

bench-video: ## flicker of translated videos, on drives whose motion is known, by the packaged adapters
	@$(run) -m benchmarks.video $(ARGS)

bench-edit: ## edits by words, by kind, beside single-task adapters, unseen combinations and words; trains four [ARGS="--ckpt pocket:edit", which trains none]
	@$(run) -m benchmarks.edits $(ARGS)

bench-memory: ## measure peak memory and time of training steps at full size [ARGS="--exp edge2image --sizes 512 --batches 1"]
	@$(run) -m benchmarks.training_memory $(ARGS)

bench-translate: ## time every backend and precision beside unmerged float32 [ARGS="--base sd-turbo --sizes 512 --batches 1"]
	@$(run) -m benchmarks.translate $(ARGS)
