# The two commands of the README's first screen, and those that developers use. Everything else is in tools/.
PY := .venv/bin/python

.PHONY: demo test setup lint unit bench fuzz soak matrix shims top60 service constraints clean

demo: setup
	@$(PY) tools/demo.py

test: setup lint unit

setup:
	@python3 tools/bootstrap.py

lint:
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	.venv/bin/lint-imports

unit:
	$(PY) -m tests.again

bench: setup
	$(PY) -m tests.bench $(SECTION)

# TARGET: canonical, h1 or h2. Writes what it kept to tests/fuzz/corpus, which `make unit` runs again.
TARGET ?= canonical
SECONDS ?= 60
fuzz: setup
	$(PY) -m tests.fuzz $(TARGET) $(SECONDS)

# Real clients, bad origins, killed gates and daemons, reloads; then the three books are compared (tests/soak/judge.py).
MINUTES ?= 30
soak: setup
	$(PY) -m tests.soak $(MINUTES)

# Every network library, old and new, in every way of running it, in a jail; writes docs/matrix.md.
matrix: setup
	$(PY) -m tests.matrix

# The most downloaded packages that use the network, each with a call of its own in a jail; writes docs/top60.md. ONLY="boto3 redis": these.
top60: setup
	$(PY) -m tests.top60 $(ONLY)

# The shim's whole suite on every Python from 3.9 on that is found here.
shims: setup
	$(PY) -m tests.shim.pythons

# A FastAPI service with its SDKs and its own tests behind outpass (tests/service). Wants a PostgreSQL on 127.0.0.1:5432.
service: setup
	$(PY) -m pytest -q tests/service/end_to_end.py

constraints:
	@python3 tools/bootstrap.py --constraints

clean:
	rm -rf .venv .bootstrap dist
