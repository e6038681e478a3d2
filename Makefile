# Perilune. `make help` lists what can be made; MODE=release|debug|asan|tsan chooses how.
# What is needed of Debian is in 3rd/packages.txt, what is built from its sources in 3rd/build.

MODE ?= release
B := build/$(MODE)
PREFIX ?= /usr/local
VERSION := 0.1.0

# make -n; before anything is added to MAKEFLAGS
DRY_RUN := $(findstring n,$(firstword -$(MAKEFLAGS)))

.DEFAULT_GOAL := build
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules --no-print-directory

# ---- set-up: before anything is compiled, Debian's packages and 3rd/ must be there ----

WITHOUT_SETUP := help clean distclean packages lint format bench-smoke asan tsan test test-install test-web
GOALS := $(or $(MAKECMDGOALS),$(.DEFAULT_GOAL))
ifneq ($(filter-out $(WITHOUT_SETUP),$(GOALS)),)
ifeq ($(DRY_RUN),) # what is included is made even then
include build/3rd/flags.mk
endif
build/3rd/flags.mk: FORCE # both scripts do nothing, quickly, when nothing is missing
	@3rd/install build
	@3rd/build
endif

# ---- flags ----

MODE_release := -O2
MODE_debug := -O0
MODE_asan := -O1 -fno-omit-frame-pointer -fsanitize=address,undefined \
	-fno-sanitize-recover=all -DPERILUNE_ASAN
MODE_tsan := -O1 -fno-omit-frame-pointer -fsanitize=thread -DPERILUNE_TSAN \
	-Wno-tsan # asio's fences, which ThreadSanitizer doesn't know; we use none
ifndef MODE_$(MODE)
$(error MODE=$(MODE) is unknown: release, debug, asan or tsan)
endif

CXX := g++
CXXFLAGS := -std=c++20 -g -Wall -Wextra -Wshadow -Werror -pthread $(MODE_$(MODE))
CPPFLAGS := -Iengine/include -Iengine -isystem build/3rd/include \
	-DASIO_STANDALONE -DASIO_NO_DEPRECATED -DSPDLOG_COMPILED_LIB -DSPDLOG_SHARED_LIB \
	-DSPDLOG_FMT_EXTERNAL -DPERILUNE_VERSION='"$(VERSION)"' $(THIRD_DEFINES)
# -rdynamic: Lua modules in shared libraries find the Lua API in the program.
LDFLAGS := -rdynamic -pthread
LDLIBS := -lspdlog -lfmt -lhttp_parser -lssl -lcrypto -largon2 -lenet -lhiredis -lmariadb -lsqlite3 -ldl -lm

# ---- what there is: files are found, not listed ----

LIBRARY_SOURCES := $(wildcard $(addprefix engine/,$(addsuffix /*.cpp,core net data game lua node)))
MAIN_SOURCES := $(wildcard engine/main.cpp engine/cli/*.cpp)
TEST_SOURCES := $(wildcard test/core/*.cpp test/net/*.cpp test/data/*.cpp test/embed/*.cpp)
# Each of these files is a program: examples/embed/embed.cpp -> build/<mode>/examples/embed/embed
PROGRAM_SOURCES := $(wildcard examples/*/*.cpp)
BENCH_SOURCES := $(wildcard test/bench/*.cpp)
FUZZ_SOURCES := $(wildcard test/fuzz/*.cpp)
SOAK_SOURCES := $(wildcard test/soak/*.cpp)
LUA_TESTS := $(wildcard test/lua test/data test/service test/regress examples)

object = $(patsubst %.cpp,$(B)/obj/%.o,$(1))
SOURCES := $(LIBRARY_SOURCES) $(MAIN_SOURCES) $(TEST_SOURCES) $(PROGRAM_SOURCES) $(BENCH_SOURCES) \
	$(FUZZ_SOURCES) $(SOAK_SOURCES)
NODE := $(if $(MAIN_SOURCES),$(B)/perilune)
CORE_TESTS := $(if $(TEST_SOURCES),$(B)/core_tests)
PROGRAMS := $(patsubst %.cpp,$(B)/%,$(PROGRAM_SOURCES))
BENCHES := $(patsubst test/%.cpp,$(B)/%,$(BENCH_SOURCES))
FUZZERS := $(patsubst test/%.cpp,$(B)/%,$(FUZZ_SOURCES))
SOAK_TESTS := $(if $(SOAK_SOURCES),$(B)/soak_tests)

# ---- building ----

build: $(B)/libperilune.a $(NODE) $(PROGRAMS) ## builds the library, the node and the examples
	@:

$(B)/obj/%.o: %.cpp $(B)/flags
	@mkdir -p $(@D)
	@echo "  c++  $<"
	@$(CXX) $(CPPFLAGS) $(CXXFLAGS) -MMD -MP -c $< -o $@

# The library knows where it will be installed: a host program elsewhere finds lualib/ there.
DATA := $(PREFIX)/share/perilune
$(B)/obj/engine/node/folders.o: private CPPFLAGS += -DPERILUNE_DATA='"$(DATA)"'
$(B)/obj/engine/node/folders.o: $(B)/data
$(B)/data: FORCE
	@mkdir -p $(@D)
	@echo '$(DATA)' | cmp -s - $@ || echo '$(DATA)' > $@

# Other flags than last time: everything is compiled again.
$(B)/flags: FORCE
	@mkdir -p $(@D)
	@echo '$(CXX) $(CPPFLAGS) $(CXXFLAGS)' | cmp -s - $@ || \
		echo '$(CXX) $(CPPFLAGS) $(CXXFLAGS)' > $@

# LuaJIT, lua-cjson and lpeg go into our library, so that a host links one.
THIRD := $(addprefix build/3rd/lib/,libluajit.a libcjson.a liblpeg.a)
$(B)/libperilune.a: $(call object,$(LIBRARY_SOURCES)) $(THIRD)
	@echo "  ar   $@"
	@rm -f $@ $@.tmp
	@ar qc $@.tmp $(filter %.o,$^)
	@printf '%s\n' 'open $@.tmp' $(patsubst %,'addlib %',$(THIRD)) save end | ar -M
	@mv $@.tmp $@

define link
	@mkdir -p $(@D)
	@echo "  link $@"
	@$(CXX) $(CXXFLAGS) $(LDFLAGS) $(filter %.o,$^) $(B)/libperilune.a $(LDLIBS) $(1) -o $@
endef

$(B)/perilune: $(call object,$(MAIN_SOURCES)) $(B)/libperilune.a
	$(call link)

$(B)/core_tests: $(call object,$(TEST_SOURCES)) $(B)/libperilune.a
	$(call link,-lgtest -lgtest_main)

$(B)/soak_tests: $(call object,$(SOAK_SOURCES) test/embed/process.cpp) $(B)/libperilune.a
	$(call link,-lgtest -lgtest_main)

$(PROGRAMS): $(B)/%: $(B)/obj/%.o $(B)/libperilune.a
	$(call link)

$(BENCHES) $(FUZZERS): $(B)/%: $(B)/obj/test/%.o $(B)/libperilune.a
	$(call link)

-include $(patsubst %.o,%.d,$(call object,$(SOURCES)))

# ---- running ----

run: build ## installs what is missing, builds, and starts the node of ./config.lua
	@exec $(B)/perilune config.lua

# ---- tests ----

# Some kernels place memory where ThreadSanitizer can't have it; without randomness they don't.
LAUNCH_tsan := $(shell setarch -R true 2>/dev/null && echo setarch -R)
TEST_ENVIRONMENT := UBSAN_OPTIONS=print_stacktrace=1 PERILUNE_BUILD=$(B) \
	TSAN_OPTIONS="halt_on_error=1 second_deadlock_stack=1 $$TSAN_OPTIONS"

test: ## installs what is missing, builds, and runs all tests
	@3rd/install build test
	@$(MAKE) test-programs
	@failed=0; $(MAKE) test-core || failed=1; $(MAKE) test-lua || failed=1; exit $$failed

test-programs: build $(CORE_TESTS)
	@:

test-core: $(CORE_TESTS)
	@$(if $<,$(TEST_ENVIRONMENT) $(LAUNCH_$(MODE)) $< --gtest_brief=1)

test-lua: build
	@$(if $(and $(NODE),$(LUA_TESTS)),\
		$(TEST_ENVIRONMENT) $(LAUNCH_$(MODE)) $(NODE) test $(LUA_TESTS))

test-install: ## installs into build/installed, and builds and runs the README's host program with it
	@.ci/install

test-web: ## tests the JavaScript client and the page of examples/web in Node and Chromium
	@3rd/install build web $(if $(shell command -v npm),,node)
	@$(MAKE) build
	@PERILUNE=$(B)/perilune test/web/run

asan: ## builds with AddressSanitizer and UBSan, and runs the core and Lua tests
	@$(MAKE) MODE=asan test

tsan: ## the same with ThreadSanitizer
	@$(MAKE) MODE=tsan test

FUZZ_RUNS ?= 20000

fuzz: ## feeds the corpus and FUZZ_RUNS random inputs to each decoder, under AddressSanitizer and UBSan
	@$(MAKE) MODE=asan fuzz-run

fuzz-run: $(FUZZERS)
	@for fuzzer in $^; do \
		corpus=test/fuzz/corpus/$$(basename $$fuzzer _fuzz); \
		echo "$$fuzzer: $(FUZZ_RUNS) inputs" && \
			$$fuzzer $$([ ! -d $$corpus ] || echo $$corpus) $(FUZZ_RUNS) || exit 1; \
	done

bench: build $(BENCHES) ## prints the benchmarks with their targets and references
	@[ ! -x test/bench/run ] || PERILUNE_BUILD=$(B) test/bench/run

bench-smoke: ## every benchmark with small numbers, for correctness only
	@BENCH_SMOKE=1 $(MAKE) bench

soak: test-programs $(SOAK_TESTS) ## the promises at their full numbers: two hours, see CONTRIBUTING.md
	@PERILUNE_BUILD=$(B) test/soak/run $(PARTS)

# Most of the time they wait: several at a time.
soak-smoke: build $(SOAK_TESTS) ## the attacks of it with small numbers, for correctness only
	@failed=0; shards=; for shard in 0 1 2 3; do \
		PERILUNE_BUILD=$(B) GTEST_TOTAL_SHARDS=4 GTEST_SHARD_INDEX=$$shard \
			$(SOAK_TESTS) --gtest_brief=1 & shards="$$shards $$!"; \
	done; for shard in $$shards; do wait $$shard || failed=1; done; exit $$failed

# ---- what is not code ----

lint: ## clang-format, cppcheck, luacheck, include arrows, annotations
	@3rd/install lint
	@.ci/lint

format: ## lets clang-format rewrite the C++ files
	@3rd/install lint
	@git ls-files -co --exclude-standard '*.cpp' '*.h' | xargs -r clang-format -i

docs: build ## docs/api.md from the annotations in lualib
	@mkdir -p docs
	@build/3rd/bin/luajit .ci/annotations.lua docs > build/api.md && mv build/api.md docs/api.md
	@echo "docs/api.md written"

# ---- installing ----

D = $(DESTDIR)$(PREFIX)
install: build ## into PREFIX (/usr/local): binary, library, headers, pkg-config, lualib
	@[ '$(PREFIX)' != '' ] && [ "$$(echo '$(PREFIX)' | cut -c1)" = / ] || \
		{ echo "PREFIX has to be an absolute path" >&2; exit 1; }
	@install -d $(D)/bin $(D)/lib/pkgconfig $(D)/include/perilune/lua $(D)/share/perilune
	@install -m 755 $(B)/perilune $(D)/bin/
	@install -m 644 $(B)/libperilune.a $(D)/lib/
	@install -m 644 engine/include/perilune/*.h $(D)/include/perilune/
	@install -m 644 build/3rd/include/* $(D)/include/perilune/lua/
	@sed 's|@PREFIX@|$(PREFIX)|; s|@VERSION@|$(VERSION)|' 3rd/perilune.pc.in \
		> $(D)/lib/pkgconfig/perilune.pc
	@rm -rf $(D)/share/perilune/lualib $(D)/share/perilune/service
	@cp -r $(wildcard lualib service) $(D)/share/perilune/
	@echo "installed into $(D)"

packages: ## installs all Debian packages that anything here needs
	@3rd/install build test lint

clean: ## removes what was built of our own code
	rm -rf build/release build/debug build/asan build/tsan build/cppcheck

distclean: ## removes build/ as a whole, LuaJIT too
	rm -rf build

help:
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1|\2/p' Makefile | \
		while IFS='|' read -r goal text; do printf '%-20s %s\n' "$$goal" "$$text"; done

FORCE:
.PHONY: FORCE build run test fuzz fuzz-run test-programs test-core test-lua test-web test-install asan tsan bench bench-smoke soak soak-smoke \
	lint format docs install packages clean distclean help
