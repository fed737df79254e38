# The commands a newcomer needs. `make up` and `make test` install what is missing on a Debian or
# Ubuntu machine and say so; everything else is cargo's.

CARGO ?= cargo
# Further arguments for `make up` (for troupe) and `make test` (for cargo), such as
# ARGS="--port 8001".
ARGS ?=

# Where tests/clients.rs and tests/deploy.rs look for Python.
CLIENTS := target/clients
MANIFESTS := target/manifests
# And where gpu/tests/kernels looks for NVIDIA's compiler.
NVRTC := target/nvrtc

AS_ROOT := $(if $(filter 0,$(shell id -u)),,sudo)

# $(call need,command,packages,test): installs the packages if the command is missing, or if the
# test fails where one is given.
define need
	@$(or $(3),command -v $(1)) >/dev/null 2>&1 || { \
		command -v apt-get >/dev/null 2>&1 || { \
			echo "$(1) is missing; install it with this system's package manager" >&2; exit 1; }; \
		echo "$(1) is missing: installing $(2) with $(strip $(AS_ROOT) apt-get)"; \
		$(AS_ROOT) apt-get update -qq && \
		$(AS_ROOT) env DEBIAN_FRONTEND=noninteractive \
			apt-get install -y -qq --no-install-recommends $(2); }
endef

.PHONY: help up build test soak seed chaos storm soak-real lint audit image manifests tools test-tools \
	host-tools

help:
	@echo "make up     build, then serve the demo model on port 8000"
	@echo "make test   run every test"
	@echo "make soak   run thousands of simulated clusters; SEEDS=100000 runs more"
	@echo "make chaos  play faults on real processes; RUNS=5 plays each less often"
	@echo "make seed   run one of them again, with every event: SEED=17"
	@echo "make storm  a thousand streams while groups are killed; ARGS=\"--streams 64 --seconds 10\""
	@echo "make soak-real  a mixed load on real processes for an hour, with faults; MINUTES=300"
	@echo "make lint   check formatting and lints"
	@echo "make audit  check licenses, sources and known faults of what is built in"
	@echo "make build  build target/release/troupe"
	@echo "make image  build the container images troupe and troupe-etcd"

up: build
	@target/release/troupe up $(ARGS)

build: tools
	@$(CARGO) build --release

# Most tests of whole clusters wait for processes most of the time: twice as many at once as there
# are cores (on the smallest machine that is meant) take two thirds of the time.
test: export RUST_TEST_THREADS ?= 4
test: test-tools
	$(CARGO) test --release --workspace --no-fail-fast $(ARGS)

SEEDS ?= 10000
SEED ?= 0

soak: tools
	TROUPE_SEEDS=$(SEEDS) $(CARGO) test --release --test simulation -- --nocapture seeds_are_clean

seed: tools
	TROUPE_SEED=$(SEED) $(CARGO) test --release --test simulation -- --ignored --nocapture replay

storm: tools
	$(call need,etcd,etcd-server)
	$(CARGO) bench --bench storm -- $(ARGS)

MINUTES ?= 60

soak-real: tools
	$(call need,etcd,etcd-server)
	$(CARGO) bench --bench soak -- --minutes $(MINUTES) $(ARGS)

# Needs root and the machine to itself, and writes the table of docs/reliability.md; FAULTS=frozen,cut
# plays some only, and writes nothing. Three quarters of an hour.
RUNS ?= 20
FAULTS ?=

chaos: tools host-tools
	RUNS=$(RUNS) FAULTS="$(FAULTS)" $(CARGO) test --release --test chaos -- --ignored --nocapture whole_table

lint: tools
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings

# deny.toml says what may come in. Fetches RustSec's list of faults from GitHub; where that cannot be
# reached, AUDIT_DB=DIR is a copy of it (for cargo-audit), and advisories are left out of cargo-deny.
AUDIT_DB ?=

audit: target/audit/installed
	target/audit/bin/cargo-deny --log-level error check $(if $(AUDIT_DB),bans licenses sources)
	target/audit/bin/cargo-audit audit --deny warnings --ignore RUSTSEC-2024-0436 \
		$(if $(AUDIT_DB),--db $(AUDIT_DB) --no-fetch)

# Needs a Docker engine; pulls nothing.
image: build
	$(call need,etcd,etcd-server)
	deploy/image.sh --etcd

# Writes deploy/kubernetes/group.yaml, which is what the chart makes.
manifests: $(MANIFESTS)/installed
	$(MANIFESTS)/bin/python -B deploy/kubernetes/render.py

# What compiling needs: a C compiler and linker (ring), protoc and its standard files (etcd-client).
tools:
	$(call need,cc,gcc libc6-dev)
	$(call need,protoc,protobuf-compiler libprotobuf-dev)

# Tests of discovery start a real etcd of their own, on a free port. Tests of the API run the
# clients that users have, in a virtual environment; those of manifests have another. Hosts of their
# own are made with ip, cut off with nft, and relayed over tunnels that ethtool makes plain. CUDA
# kernels are compiled as C++, and by NVIDIA's compiler if it can be fetched: without it the tests
# that need it say so.
test-tools: tools host-tools $(CLIENTS)/installed $(MANIFESTS)/installed
	$(call need,c++,g++)
	@$(MAKE) --no-print-directory $(NVRTC)/installed || echo "NVRTC could not be fetched" >&2
	$(call need,shellcheck,shellcheck)

host-tools:
	$(call need,etcd,etcd-server)
	$(call need,ip,iproute2)
	$(call need,nft,nftables)
	$(call need,ethtool,ethtool)

# From nothing each time, so that what is no longer listed is no longer there.
target/%/installed: tests/%/requirements.txt
	$(call need,python3-venv,python3 python3-venv,python3 -c "import ensurepip")
	python3 -m venv --clear target/$*
	target/$*/bin/python -m pip install -q --disable-pip-version-check -r $<
	@touch $@
