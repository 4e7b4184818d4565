# Every target brings what it needs: the virtual environment, and as root the Debian packages.
# `make demo` needs neither root nor a Debian package.

PYTHON ?= python3
VENV := .venv
# Trust what this machine trusts, as pip does: a company's proxy may have a certificate authority of its own.
export UV_NATIVE_TLS := 1
BIN := $(VENV)/bin
UV := UV_PYTHON_DOWNLOADS=never $(BIN)/uv pip install --quiet --python $(BIN)/python

SERVERS := openssl rabbitmq-server redis-server
WATCHERS := chromium prometheus
GUESTS := debootstrap iproute2 systemd-container zstd

.PHONY: demo test matrix lint docs box bench-boot bench-burst bench-confirm bench-cost bench-deciding bench-launch bench-policy bench-queues bench-simulate \
	bench-startup chaos-launch docs-policy endings screenshots soak clean

demo: $(VENV)/.installed
	$(BIN)/python examples/demo.py

test: $(VENV)/.tools
	.ci/debian $(SERVERS) $(WATCHERS) $(GUESTS) shellcheck
	$(BIN)/python -m tests.stages $(STAGES)

# every Python with every Celery, unit and integration, and Celery's own tests of its autoscaler: hours
matrix: $(VENV)/.tools
	.ci/debian $(SERVERS) $(WATCHERS)
	$(BIN)/python -m tests.stages matrix

lint: $(VENV)/.tools
	.ci/debian shellcheck
	$(BIN)/tox run -e lint

# the site, from the Markdown in docs/
docs: $(VENV)/.tools
	$(BIN)/tox run -q -e docs --notest
	$(BIN)/tox exec -q -e docs -- sphinx-build --fresh-env --fail-on-warning --keep-going --nitpicky --quiet docs build/docs
	@echo file://$(CURDIR)/build/docs/index.html

box: $(VENV)/.tools
	.ci/debian $(SERVERS) $(GUESTS)
	$(BIN)/python -m tests.box

bench-burst: $(VENV)/.tools
	.ci/debian $(SERVERS) $(GUESTS)
	$(BIN)/python -m benchmarks.burst $(if $(JSON),--json $(JSON))

# from user data to the worker's process: ours, FlameEC2's way and `curl | tar x`, in the box: ROUNDS=n
bench-boot: $(VENV)/.tools
	.ci/debian $(SERVERS) $(GUESTS)
	$(BIN)/python -m benchmarks.boot --rounds $(or $(ROUNDS),5) $(if $(JSON),--json $(JSON))

bench-confirm: $(VENV)/.tools
	.ci/debian $(SERVERS)
	$(BIN)/python -m benchmarks.confirm $(if $(JSON),--json $(JSON))

# what the plugin adds to `celery --help`, to a worker's start and to its memory, beside Celery alone: TURNS=n
bench-cost: $(VENV)/.tools
	.ci/debian $(SERVERS)
	$(BIN)/python -m benchmarks.cost --turns $(or $(TURNS),7) $(if $(JSON),--json $(JSON))

# CPU time of one round's learning and planning, at 1,000 queues and 10,000 runners
bench-deciding: $(VENV)/.tools
	$(BIN)/python -m benchmarks.policy.cost $(if $(JSON),--json $(JSON))

bench-launch: $(VENV)/.tools
	.ci/debian $(SERVERS)
	$(BIN)/python -m benchmarks.launch $(if $(JSON),--json $(JSON))

# this policy and those of other tools on all loads, simulated: TRACES="file ..." for further loads; for a part of the
# table LOADS="word ..." and POLICIES="word ..."; for other machines BOOT=seconds, SLOTS=n; ARGS=--help tells the rest
bench-policy: $(VENV)/.tools
	$(BIN)/python -m benchmarks.policy $(if $(TRACES),--traces $(TRACES)) $(if $(LOADS),--loads $(LOADS)) \
		$(if $(POLICIES),--policies $(POLICIES)) $(if $(BOOT),--boot $(BOOT)) $(if $(SLOTS),--slots $(SLOTS)) \
		$(if $(JSON),--json $(JSON)) $(ARGS)

bench-queues: $(VENV)/.tools
	.ci/debian $(SERVERS)
	$(BIN)/python -m benchmarks.queues $(if $(JSON),--json $(JSON))

# from exec of bin/<app> start to the worker's hello, by phases, beside plain Celery
bench-startup: $(VENV)/.tools
	.ci/debian $(SERVERS)
	$(BIN)/python -m benchmarks.startup $(if $(JSON),--json $(JSON))

# how long 200,000 tasks over 11 days take to simulate, on one core
bench-simulate: $(VENV)/.tools
	$(BIN)/python -m benchmarks.simulate $(if $(JSON),--json $(JSON))

# the parent's rounds against a virtual EC2, by a state machine: SCHEDULES=n of 50 steps each
chaos-launch: $(VENV)/.tools
	SCHEDULES=$(or $(SCHEDULES),1000) $(BIN)/python -m pytest -q -n 2 tests/chaos

# docs/policy-benchmark.md and its pictures: the whole table, the aims, and how much each constant matters
docs-policy: $(VENV)/.tools
	$(BIN)/python -m benchmarks.policy --docs docs/policy-benchmark.md $(if $(LOADS),--loads $(LOADS))

# what every ending does to tasks, on real brokers: ENDINGS=n in each cell CELLS="redis/late/idle sqs/*/told" JSON=file
endings: $(VENV)/.tools
	.ci/debian $(SERVERS)
	$(BIN)/tox run -q -e endings --notest
	$(BIN)/tox exec -q -e endings -- python -m tests.endings --endings $(or $(ENDINGS),50) \
		$(if $(JSON),--json $(JSON)) $(foreach cell,$(CELLS),'$(cell)')

# pictures of the status page for docs/, taken of a burst
screenshots: $(VENV)/.tools
	.ci/debian $(SERVERS) $(WATCHERS)
	$(BIN)/python -m tests.screenshots

# waves of tasks, and something that goes wrong every few seconds, in the box: MINUTES=n SEED=n BROKER=rabbitmq
soak: $(VENV)/.tools
	.ci/debian $(SERVERS) $(GUESTS)
	$(BIN)/python -m tests.box.soak --minutes $(or $(MINUTES),10) $(if $(SEED),--seed $(SEED)) \
		$(if $(BROKER),--broker $(BROKER))

clean:
	rm -rf $(VENV) .tox .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist *.egg-info
	find . -name __pycache__ -prune -exec rm -rf {} +

$(VENV)/.installed: setup.cfg setup.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "$(PYTHON) is not Python 3.10 or later: make PYTHON=python3.11 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || .ci/debian python3-venv
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || \
		{ echo "$(PYTHON) cannot make virtual environments; as root: apt-get install python3-venv" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(UV) --editable '.[redis,release]'
	@touch $@

$(VENV)/.tools: $(VENV)/.installed
	$(UV) --editable '.[redis,release,test]' tox tox-uv
	@touch $@
