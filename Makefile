# `make` lists what can be done. Only Python and make are assumed; everything else is installed into .venv.
# What is given to make (EXPERIMENT=…, REASON=…) reaches the shell as an exported variable, in quotes: "$$REASON". It is
# taken literally: what it holds is run neither by make nor by the shell.
GIVEN      := BASE CAMPAIGN CLUSTER CRON DATA DATA_IMAGE DOCKER EVERY EXPERIMENT IMAGE MINUTES PYTHON REASON REGISTRY RUN \
              RUNNER SET SWEEP VERSION
$(foreach name,$(GIVEN) $(.VARIABLES),$(if $(or $(filter command,$(firstword $(origin $(name)))),\
    $(and $(filter $(name),$(GIVEN)),$(filter environment,$(origin $(name))))),\
    $(eval override $(name) := $$(value $(name)))))
EXPERIMENT ?= demo
DOCKER     ?= docker
export $(GIVEN)

override UV      := $(shell uv --version >/dev/null 2>&1 && echo uv || echo .venv/bin/uv)
override PIP     := $(UV) pip install --quiet --build-constraint requirements-build.lock --python .venv/bin/python
override COMPILE := $(UV) pip compile --quiet --python-version 3.11 --universal --generate-hashes --no-annotate \
                    --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" --emit-build-options
# Two packages come as source only; no other one is built here. The other locks take that over from the first.
override WHEELS  := --only-binary :all: --no-binary antlr4-python3-runtime --no-binary kfp-server-api
override IMAGES  := data train mlflow
# The first of these that is one of the versions in pyproject.toml, and can make an environment, makes .venv; that of
# the images comes first.
override PYTHONS := python3.11 python3.12 python3.13 python3 python
override SUITS   := import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info < (3, 14))

# These gather the arguments of a command, "$$@".
override CHOICE   = set -f; set -- --experiment "$$EXPERIMENT"; \
                    for row in $$SWEEP; do set -- "$$@" --sweep "$$row"; done; \
                    for change in $$SET; do set -- "$$@" --set "$$change"; done;
override PLACE    = set -- "$$@" $${CLUSTER:+--cluster "$$CLUSTER"} $${IMAGE:+--image "$$IMAGE"} \
                    $${DATA_IMAGE:+--data-image "$$DATA_IMAGE"};
override SOURCE   = set -- "$$@" $${DATA:+--data "$$DATA"};
override DIRTY    = test -z "$$(git status --porcelain)" || echo
override TAGGED   = tag=$$(git rev-parse --short=12 HEAD)$$($(DIRTY) -dirty);
override PIPELINE = .venv/bin/python -m pipelines
export PATH := $(CURDIR)/.venv/bin:$(PATH)

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev pipeline compile submit upload schedule status cancel mlflow models promote rollback data test test-all \
        torture lint format bench pictures lock sbom audit images tag push clean

help: ## list what can be done
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .venv/.runtime-stamp ## install what the pipeline needs
setup-dev: .venv/.dev-stamp ## install what tests and lint need too

pipeline: setup $(if $(filter docker,$(RUNNER)),images) ## run all five steps [EXPERIMENT=demo | SWEEP=improved] [DATA=folder] [SET="finetune.epochs=3 …"] [RUNNER=docker]
	@$(if $(filter docker,$(RUNNER)),$(TAGGED) export SIMIPU_IMAGE="$${REGISTRY}simipu-train:$$tag" SIMIPU_DATA_IMAGE="$${REGISTRY}simipu-data:$$tag";) \
	    $(CHOICE) $(SOURCE) exec $(PIPELINE) local "$$@" $${RUNNER:+--runner "$$RUNNER"}

compile: setup ## write build/pipeline-EXPERIMENT.yaml for Kubeflow [EXPERIMENT=demo] [SET=…] [CLUSTER=cluster.yaml IMAGE=…]
	@$(CHOICE) $(PLACE) $(PIPELINE) compile "$$@"

submit: setup ## run it on Kubeflow and follow it [EXPERIMENT=demo] [DATA=s3://…] [SET=…] [CLUSTER=… IMAGE=…]; KFP_ENDPOINT, KFP_TOKEN say where
	@$(CHOICE) $(PLACE) $(SOURCE) $(PIPELINE) submit --wait "$$@"

upload: setup ## make it a version of the pipeline on Kubeflow [EXPERIMENT=demo] [SET=…] [CLUSTER=… IMAGE=…]
	@$(CHOICE) $(PLACE) $(PIPELINE) upload "$$@"

schedule: setup ## start runs on Kubeflow again and again: CRON="30 3 * * 1" or EVERY=1d [EXPERIMENT=demo] [DATA=s3://…] [SET=…] [CLUSTER=… IMAGE=…]
	@$(CHOICE) $(PLACE) $(SOURCE) $(PIPELINE) schedule "$$@" $${CRON:+--cron "$$CRON"} $${EVERY:+--every "$$EVERY"}

status: setup ## list the latest runs on Kubeflow, or the steps of one: RUN=id
	@$(PIPELINE) status $${RUN:+-- "$$RUN"}

cancel: setup ## stop a run on Kubeflow: RUN=id
	@test -n "$$RUN" || { echo "error: say which, RUN=id; make status lists them." >&2; exit 2; }
	@$(PIPELINE) cancel -- "$$RUN"

mlflow: setup ## show runs and models at http://127.0.0.1:5000
	@MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false .venv/bin/python -m simipu_core.tracking.ui

models: setup ## list the registered model versions: aliases, scores, when and by whom
	@.venv/bin/simipu models --experiment "$$EXPERIMENT"

promote: setup ## make a registered model version the champion: VERSION=3 [REASON="why, if the gate said no"]
	@test -n "$$VERSION" || { echo "error: say which, e.g. VERSION=3; make models lists them." >&2; exit 2; }
	@.venv/bin/simipu promote --experiment "$$EXPERIMENT" $${REASON:+--reason "$$REASON"} -- "$$VERSION"

rollback: setup ## make the champion before this one champion again [REASON=why]
	@.venv/bin/simipu rollback --experiment "$$EXPERIMENT" $${REASON:+--reason "$$REASON"}

data: setup ## make the shards of an experiment as dvc.yaml says [EXPERIMENT=demo]
	@.venv/bin/dvc repro -- "pairs@$$EXPERIMENT" "depth@$$EXPERIMENT"

test: setup-dev ## fast tests
	@.venv/bin/pytest -q -n 2 --dist loadfile -m "not slow"

test-all: test ## fast tests, then whole runs, real servers and images
	@.venv/bin/pytest -q -n 2 --dist loadfile --no-loadscope-reorder -m slow --durations 20

torture: setup-dev ## kill, corrupt, fuzz and disturb for a while, on from the last time [MINUTES=10] [CAMPAIGN=kills | corruptions | fuzz | faults]
	@.venv/bin/python -m tests.torture $${MINUTES:+--minutes "$$MINUTES"} $${CAMPAIGN:+--campaign "$$CAMPAIGN"}

lint: setup-dev ## check format, style, layers and types
	@.venv/bin/ruff format --check . && .venv/bin/ruff check . && .venv/bin/lint-imports --no-logo --no-cache && .venv/bin/mypy

format: setup-dev ## format the code and mend what can be mended
	@.venv/bin/ruff format . && .venv/bin/ruff check --fix .

bench: setup ## measure speed; results go to benchmarks/results/
	@export OMP_NUM_THREADS=1; for file in benchmarks/bench_*.py; do .venv/bin/python -m benchmarks.$$(basename $$file .py) || exit; done

pictures: setup ## draw the README's pictures from the demo's results, after make pipeline; Chromium shows MLflow's page
	@.venv/bin/python -m pipelines compile --experiment demo > /dev/null && .venv/bin/python docs/make_pictures.py

lock: $(filter .venv/%,$(UV)) ## pin every dependency again
	@$(COMPILE) $(WHEELS) pyproject.toml -o requirements.lock && for group in build data mlflow dev; do \
	    $(COMPILE) --group $$group -c requirements.lock -o requirements-$$group.lock || exit; done

sbom: setup-dev ## write build/sbom/: CycloneDX bills of materials of wheel and images, and the licences of all packages
	@mkdir -p build/sbom; export PYTHONWARNINGS=ignore; \
	for each in train= data=-data mlflow=-mlflow; do .venv/bin/cyclonedx-py requirements --output-reproducible \
	    --pyproject pyproject.toml -o "build/sbom/simipu-$${each%=*}.cdx.json" "requirements$${each#*=}.lock" || exit; done; \
	cp build/sbom/simipu-train.cdx.json build/sbom/simipu-wheel.cdx.json; \
	.venv/bin/pip-licenses --format csv --with-urls --with-system --output-file build/sbom/licences.csv \
	    --packages $$(sed -n 's/^\([a-z0-9._-]*\)==.*/\1/p' requirements.lock requirements-mlflow.lock | sort -u)

audit: setup-dev ## ask PyPI's database for known vulnerabilities of what the locks hold; needs a network
	@for lock in requirements*.lock; do .venv/bin/pip-audit --strict --disable-pip --require-hashes -r "$$lock" || failed=1; done; test -z "$$failed"

images: ## build the images of the steps and of MLflow, tagged by git revision [REGISTRY=host/path/] [BASE=name@sha256:…]
	@$(TAGGED) revision=$$(git rev-parse HEAD)$$($(DIRTY) +dirty); \
	for target in $(IMAGES); do "$$DOCKER" build --file docker/Dockerfile --target $$target \
	    --build-arg REVISION=$$revision $${BASE:+--build-arg BASE="$$BASE"} --tag "$${REGISTRY}simipu-$$target:$$tag" . || exit; done; \
	"$$DOCKER" image ls --filter reference="$${REGISTRY}simipu-*:$$tag"

tag: # of the images
	@$(TAGGED) echo "$$tag"

push: ## push them and print their digests [REGISTRY=host/path/]
	@$(TAGGED) case "$$tag" in *dirty) echo "error: uncommitted changes; commit them, then run make images and make push." >&2; exit 1;; esac; \
	for target in $(IMAGES); do \
	    base=$$("$$DOCKER" inspect --format '{{index .Config.Labels "org.opencontainers.image.base.name"}}' "$${REGISTRY}simipu-$$target:$$tag") || exit; \
	    printf %s "$$base" | grep -Eq '@sha256:[0-9a-f]{64}$$' || { echo "error: simipu-$$target was built on $$base, which can change; run make images BASE=name@sha256:… (docs/supply_chain.md)." >&2; exit 1; }; done; \
	for target in $(IMAGES); do "$$DOCKER" push --quiet "$${REGISTRY}simipu-$$target:$$tag" > /dev/null \
	    && "$$DOCKER" inspect --format '{{index .RepoDigests 0}}' "$${REGISTRY}simipu-$$target:$$tag" || exit; done

clean: ## remove build/ (step outputs, their cache, checkpoints); keeps data/ and mlruns/
	@rm -rf build

.venv/bin/python:
	@if test -n "$$PYTHON"; then set -- "$$PYTHON"; else set -- $(PYTHONS); fi; \
	for each in "$$@"; do if "$$each" -c '$(SUITS)' >/dev/null 2>&1; then exec "$$each" -m venv --clear .venv; fi; done; \
	echo "error: Python 3.11, 3.12 or 3.13 with its module venv is needed, and none of these is it: $$*; install one, or say where it is: PYTHON=/path/to/python3." >&2; exit 1

.venv/bin/uv: requirements-build.lock | .venv/bin/python
	@.venv/bin/python -m pip install --quiet --require-hashes -r requirements-build.lock && touch $@

.venv/.runtime-stamp: requirements.lock requirements-build.lock pyproject.toml | .venv/bin/python $(filter .venv/%,$(UV))
	@echo "installing into .venv (a few minutes the first time)"
	@$(PIP) --require-hashes -r requirements.lock && $(PIP) --no-deps --editable . && touch $@

.venv/.dev-stamp: requirements-dev.lock .venv/.runtime-stamp
	@$(PIP) --require-hashes -r requirements-dev.lock && touch $@
