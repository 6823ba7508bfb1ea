# Each target installs its packages into .work/, which `make clean` removes. All targets need Python 3.11 or 3.12.
AIRFLOW_2 := 2.11.2
AIRFLOW_3 := 3.3.2
DATE := $(shell sed -n 's/^NEWEST = "\(.*\)"$$/\1/p' tests/matrix.py)

# Airflow 2 includes the SQLite provider; in the tests of Airflow 3, the metadata connection needs it. The tests that
# install the DAG from a Git repository need the Git provider.
ENV_2 = scripts/airflow-env $(AIRFLOW_2) $(DATE)
ENV_3 = scripts/airflow-env $(AIRFLOW_3) $(DATE) apache-airflow-providers-sqlite apache-airflow-providers-git

# Drivers for other databases, in separate environments, so that a change here does not rebuild the others.
REAL := apache-airflow-providers-postgres apache-airflow-providers-mysql
ENV_REAL_2 = ENV_SUFFIX=-real scripts/airflow-env $(AIRFLOW_2) $(DATE) $(REAL)
ENV_REAL_3 = ENV_SUFFIX=-real scripts/airflow-env $(AIRFLOW_3) $(DATE) $(REAL)

# The FAB auth manager supports users with few permissions.
FAB := apache-airflow-providers-sqlite apache-airflow-providers-fab
ENV_REST_3 = ENV_SUFFIX=-rest scripts/airflow-env $(AIRFLOW_3) $(DATE) $(FAB)
ENV_REST_3_0 = ENV_SUFFIX=-rest scripts/airflow-env 3.0.6 2025-09-15 $(FAB)

# The benchmarks' packages, in separate environments.
BENCH_PACKAGES = $(shell sed '/^\#/d' bench/requirements.txt)

# All tests but the unit tests spend half of their time waiting. Each process has its own Airflow, servers and ports.
PROCESSES ?= 3
PARALLEL = -n $(PROCESSES) --dist loadfile --no-loadscope-reorder

# Container images often set this variable. Each of the hundreds of Airflow processes would then spend ten seconds on
# compiling the same modules.
unexport PYTHONDONTWRITEBYTECODE

# A tier runs on both generations of Airflow, or only on the one that AIRFLOW=3 or AIRFLOW=2 selects.
GENERATIONS = $(or $(AIRFLOW),3 2)

.PHONY: help check unit lint types format demo cluster control-plane test test-servers test-thorough test-matrix \
	test-cluster test-rest test-real test-install test-ui pictures explore dist bench clean

help:
	@echo "Everyday"
	@echo "  make check          lint, types, and unit with the test coverage of include/: before every commit"
	@echo "  make unit           the tests that need neither Airflow nor a server"
	@echo "  make test           all tests on Airflow $(AIRFLOW_2) and $(AIRFLOW_3) that need no external server"
	@echo "  make lint types format"
	@echo "  make demo           watch zombie pods being deleted while live ones stay (KEEP=1 leaves the UI running;"
	@echo "                      KUBECONFIG=… NAMESPACE=… uses your own cluster)"
	@echo "  make cluster        run the embedded cluster for kubectl"
	@echo "  make clean          remove .work/ and dist/"
	@echo "Tiers ('on both': Airflow 2 and 3, or the one that AIRFLOW=2 or AIRFLOW=3 selects)"
	@echo "  T=path K=expression ARGS=--lf select tests, also of unit, test-servers, test-airflow-3 and test-airflow-2, but"
	@echo "  not of test-matrix"
	@echo "  make test-matrix    the DAG's tests on every supported Airflow (ROWS=… selects rows)"
	@echo "  make test-cluster   the tests against a real kube-apiserver (built with Go the first time)"
	@echo "  make test-rest      the REST API as the source, with real API servers of the oldest and the newest Airflow 3"
	@echo "                      (test-rest-3: the newest only)"
	@echo "  make test-real      a real Airflow with PostgreSQL, killed workers and a restart; MariaDB; on both"
	@echo "  make test-install   install the DAG in each documented way, and run it; on both"
	@echo "  make test-ui        Airflow's UI in a browser, on both"
	@echo "  make explore        20,000 random histories, on Airflow 3 or AIRFLOW=2 (MACHINE=operator drives the real"
	@echo "                      operator; HISTORIES=… SEED=…)"
	@echo "Release"
	@echo "  make test-thorough  all of the above with random seeds and without retries; takes hours (SEED=… repeats a run)"
	@echo "  make pictures       docs/images/*.png, from the tests of Airflow 3's UI and the dashboard's queries"
	@echo "  make bench          figures and plots in docs/benchmarks/ (BENCH=\"--sizes 1000 listing\" measures a part)"
	@echo "  make dist           the files of a release: a zip for the dags folder, and a wheel"

# Only values on make's command line count, so that an exported KUBECONFIG does not run the demo on a real cluster.
given = $(if $(filter command line,$(origin $(1))),$(2))

# The tests that T, K and ARGS select, or else all tests of a tier.
selected = $(or $(call given,T,"$(T)"),$(1)) $(call given,K,-k "$(K)") $(call given,ARGS,$(ARGS))

demo:
	@python=$$($(ENV_3)) && exec $$python -m demo $(call given,KEEP,--keep) \
		$(call given,KUBECONFIG,--kubeconfig "$(KUBECONFIG)") $(call given,NAMESPACE,--namespace "$(NAMESPACE)")

cluster:
	@python=$$($(ENV_3)) && echo "KUBECONFIG is .work/kubeconfig.yaml; interrupt to stop the cluster" && \
		exec $$python -m demo.cluster --kubeconfig .work/kubeconfig.yaml

check: lint types
	@HYPOTHESIS_PROFILE=$${HYPOTHESIS_PROFILE:-default} $(MAKE) --no-print-directory unit ARGS=--cov

# Property tests run with few examples here, and with more in `make check`.
unit:
	@python=$$(scripts/unit-env $(DATE)) && HYPOTHESIS_PROFILE=$${HYPOTHESIS_PROFILE:-quick} \
		$$python -m pytest -n 2 $(call selected,tests/unit)

test: unit test-servers $(GENERATIONS:%=test-airflow-%)

# The tests of the embedded cluster and of network faults do not depend on Airflow, so one Airflow is enough.
test-servers:
	@python=$$($(ENV_3)) && echo "Tests of servers and faults on Airflow $(AIRFLOW_3)" && \
		$$python -m pytest $(PARALLEL) $(call selected,tests --ignore tests/unit --ignore tests/airflow --ignore tests/dag)

TESTS_3 := tests/airflow tests/dag
TESTS_2 := $(TESTS_3) tests/test_metrics.py tests/faults/test_operator_histories.py
test-airflow-%:
	@python=$$($(ENV_$*)) && echo "Tests on Airflow $(AIRFLOW_$*)" && \
		$$python -m pytest $(PARALLEL) $(call selected,$(TESTS_$*))

test-matrix:
	@python3 -m tests.matrix $(ROWS)

# Building takes minutes the first time. An empty CONTROLLER_MANAGER leaves out kube-controller-manager.
CONTROLLER_MANAGER ?= --controller-manager
control-plane:
	@python=$$($(ENV_3)) && $$python -m tests.control_plane $(CONTROLLER_MANAGER)

test-cluster: control-plane
	@python=$$($(ENV_3)) && $$python -m pytest $(PARALLEL) $(call selected,tests) -m cluster

# In one process, because starting the API servers takes longer than the tests.
test-rest: test-rest-3 test-rest-3_0
test-rest-%:
	@python=$$($(ENV_REST_$*)) && echo "REST API of Airflow $(subst _,.,$*)" && \
		$$python -m pytest $(call selected,tests/rest) -m rest

test-real: $(GENERATIONS:%=test-real-%)
test-real-%:
	@scripts/debian-packages '/usr/lib/postgresql/*/bin/initdb=postgresql' mariadbd=mariadb-server \
		mariadb_config=libmariadb-dev promtool=prometheus
	@python=$$($(ENV_REAL_$*)) && echo "Real runs on Airflow $(AIRFLOW_$*)" && \
		$$python -m pytest $(PARALLEL) $(call selected,tests/real) -m real

test-install: $(GENERATIONS:%=test-install-%)
test-install-%:
	@scripts/debian-packages git=git
	@python=$$($(ENV_$*)) && echo "Installing on Airflow $(AIRFLOW_$*)" && \
		$$python -m pytest $(PARALLEL) $(call selected,tests/install) -m install

# The tests take screenshots, which `make pictures` copies into the documentation.
test-ui: $(GENERATIONS:%=test-ui-%)
	@echo "The screenshots are in .work/screenshots/"
test-ui-%:
	@scripts/debian-packages chromium=chromium
	@python=$$($(ENV_$*)) && echo "The UI of Airflow $(AIRFLOW_$*)" && \
		$$python -m pytest $(call selected,tests/ui) -m ui

pictures: test-ui-3
	@cp .work/screenshots/$(AIRFLOW_3)/pictures/*.png docs/images/
	@scripts/debian-packages dot=graphviz && dot -Tsvg docs/images/data-flow.dot -o docs/images/data-flow.svg
	@scripts/debian-packages promtool=prometheus
	@python=$$(ENV_SUFFIX=-bench $(ENV_3) $(BENCH_PACKAGES)) && $$python -m tests.real.picture

# Property tests use random seeds, and failed tests are not retried. SEED=… repeats a run. All tiers run, even if
# one fails.
test-thorough: check
	@HYPOTHESIS_PROFILE=thorough REQUIRE_CLUSTER=1 $(MAKE) --keep-going --no-print-directory \
		test test-matrix test-cluster test-rest test-real test-install test-ui \
		thorough-histories-faults thorough-histories-operator demo
thorough-histories-%:
	@$(MAKE) --no-print-directory explore HISTORIES=2000 MACHINE=$*

explore:
	@python=$$($(ENV_$(or $(AIRFLOW),3))) && exec $$python -m tests.faults.explore $(if $(MACHINE),--machine $(MACHINE)) \
		$(if $(HISTORIES),--histories $(HISTORIES)) $(if $(SEED),--seed $(SEED))

dist:
	@python3 scripts/dist.py

bench:
	@scripts/debian-packages '/usr/lib/postgresql/*/bin/initdb=postgresql' mariadbd=mariadb-server \
		'/usr/include/mariadb/mysql.h=libmariadb-dev' pkg-config=pkg-config cc=gcc
	@other=$$(ENV_SUFFIX=-bench $(ENV_2) $(BENCH_PACKAGES)) && python=$$(ENV_SUFFIX=-bench $(ENV_3) $(BENCH_PACKAGES)) \
		&& $$python -m tests.control_plane && exec $$python -m bench --airflow-2 "$$other" $(BENCH)

lint:
	@python=$$($(ENV_3)) && $$python -m ruff check . && $$python -m ruff format --check .
	@scripts/actionlint

types:
	@python=$$($(ENV_3)) && $$python -m mypy include dags demo scripts tests bench

format:
	@python=$$($(ENV_3)) && $$python -m ruff check --fix . && $$python -m ruff format .

clean:
	rm -rf .work dist
