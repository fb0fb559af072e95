# ferry: pretrain GPT-2 on your own text. `make help` lists the targets.
#
#   B=DIR      where everything built lands (build)
#   MODE=opt   opt | asan (address and undefined-behaviour sanitizers) | tsan (thread sanitizer) | fuzz (clang's libFuzzer)
#   V=1        print the commands
#   CC=clang CXX=clang++ work too.

B ?= build
MODE ?= opt
O := $(B)/$(MODE)
S := $(B)/shared
PREFIX ?= /usr/local
Q := $(if $(V),,@)
comma := ,
.DEFAULT_GOAL := all
.DELETE_ON_ERROR:
.SECONDARY:
ifeq ($(origin CC),default)
CC := gcc
endif
ifeq ($(origin CXX),default)
CXX := g++
endif

# What this machine has: installs missing Debian packages, then writes HAVE_* variables. See the script. MPI may come, or
# go, later: then they are written anew.
MPICC_HERE := $(firstword $(wildcard $(addsuffix /mpicc,$(subst :, ,$(PATH)))))
ifeq ($(filter help clean format,$(MAKECMDGOALS)),)
include $(B)/config.mk
ifneq ($(MPICC_THEN),$(MPICC_HERE))
$(B)/config.mk: anew
endif
endif
anew:
.PHONY: anew
$(B)/config.mk: tools/configure.sh
	@mkdir -p $(@D)
	@sh tools/configure.sh $@
	@echo "MPICC_THEN := $(MPICC_HERE)" >>$@
$(B)/config-tests.mk: tools/configure.sh # and what the tests need
	@mkdir -p $(@D)
	@sh tools/configure.sh $@ test
$(B)/config-fuzz.mk: tools/configure.sh # and what fuzzing needs
	@mkdir -p $(@D)
	@sh tools/configure.sh $@ fuzz

# ---- flags -----------------------------------------------------------------------------------------------

WARNINGS := -Wall -Wextra -Werror -Wshadow -Wpointer-arith -Wformat=2 -Wno-format-nonliteral -Wno-format-truncation -Wundef -Wvla -Wwrite-strings
C_WARNINGS := -Wstrict-prototypes -Wmissing-prototypes -Wold-style-definition
CPPFLAGS += -I. -D_GNU_SOURCE -DFERRY_VERSION='"$(shell cat VERSION)"'
# Floating point is IEEE as written (no contraction, no reassociation): results do not depend on the compiler's
# mood, and the same arithmetic runs on every backend.
MATH := -fno-math-errno -fno-trapping-math -ffp-contract=off
MACHINE := $(firstword $(subst -, ,$(shell $(CC) -dumpmachine 2>/dev/null)))
IS_CLANG := $(findstring clang,$(shell $(CC) --version 2>/dev/null))

# -g1: lines and functions for the sanitizers' reports, in three quarters of the time that -g takes.
OPTIMIZE_opt  := -O3
OPTIMIZE_asan := -O1 -g1 -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
OPTIMIZE_tsan := -O1 -g1 -fsanitize=thread
OPTIMIZE_fuzz := -O1 -g1 -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
# OpenMP because oneDNN brings libgomp; thread sanitizer cannot see into libgomp, clang would bring a second runtime.
ifneq ($(MODE),tsan)
ifeq ($(IS_CLANG),)
OPENMP := -fopenmp
endif
endif
ifeq ($(OPENMP),)
WARNINGS += -Wno-unknown-pragmas
endif
ifneq ($(IS_CLANG),)
WARNINGS += -Wno-unknown-warning-option
endif

GEMM := $(if $(OPENMP),$(if $(HAVE_DNNL),dnnl,$(if $(HAVE_BLAS),blas,plain)),plain)
GEMM_LIB_dnnl := -ldnnl
GEMM_LIB_blas := -lopenblas
GEMM_NAME_dnnl := oneDNN
GEMM_NAME_blas := OpenBLAS
GEMM_NAME_plain := plain C

CFLAGS_ALL = -std=gnu11 -g $(OPTIMIZE_$(MODE)) $(MATH) $(WARNINGS) $(C_WARNINGS) $(OPENMP) -pthread -MMD -MP $(CPPFLAGS) $(CFLAGS)
CXXFLAGS_ALL = -std=c++17 -g $(OPTIMIZE_$(MODE)) $(WARNINGS) -pthread -MMD -MP $(CPPFLAGS) $(CXXFLAGS)
LDLIBS_ALL = -Wl,--as-needed $(GEMM_LIB_$(GEMM)) -lcjson -lsimdjson -lzstd -lz -lxxhash -ldl -lm $(LDLIBS)
LINK = $(CXX) $(OPTIMIZE_$(MODE)) $(OPENMP) -pthread $(LDFLAGS)

# ---- sources: every folder is a library, and links with the ones below it only --------------------------------

LAYERS := common tokenizer data kernels engine tools
sources = $(wildcard $(1)/*.c $(1)/*.cc)
# A file under simd/ is compiled once for each instruction set; SIMD(name) (common/simd.h) gives each its symbols.
ifeq ($(MACHINE),x86_64)
ISAS := base avx2 avx512
endif
ISAS ?= base
ISA_FLAGS_base :=
ISA_FLAGS_avx2 := -mavx2 -mfma -mf16c -mbmi -mbmi2
ISA_FLAGS_avx512 := $(ISA_FLAGS_avx2) -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512cd -mprefer-vector-width=512
# The thread sanitizer watches from outside what this does (see there).
$(O)/kernels/cpu/gemm_plain.o: OPTIMIZE_tsan += -O3
# This one also needs vdpbf16ps: it is called where the processor has it (cpu_has_bf16).
$(O)/kernels/cpu/simd/attention_bf16.avx512.o: ISA_FLAGS_avx512 += -mavx512bf16
simd_objects = $(foreach isa,$(ISAS),$(patsubst %.c,$(O)/%.$(isa).o,$(wildcard $(1)/*.c)))
objects = $(patsubst %,$(O)/%.o,$(basename $(call sources,$(1))))

OBJECTS_common    := $(call objects,common)
OBJECTS_tokenizer := $(call objects,tokenizer) $(call simd_objects,tokenizer/simd) $(O)/tokenizer/vocab_gpt2.o
OBJECTS_data      := $(call objects,data) $(call simd_objects,data/simd)
OBJECTS_kernels   := $(call objects,kernels) $(filter-out $(O)/kernels/cpu/gemm_%.o,$(call objects,kernels/cpu)) \
                     $(patsubst %.c,$(O)/%.o,$(wildcard kernels/cpu/gemm_$(GEMM).c)) $(call simd_objects,kernels/cpu/simd)
OBJECTS_engine    := $(call objects,engine)
OBJECTS_tools     := $(filter-out $(O)/tools/ferry.o,$(call objects,tools))
LIB = $(O)/lib$(1).a
LIBS_common    := $(call LIB,common)
LIBS_tokenizer := $(call LIB,tokenizer) $(LIBS_common)
LIBS_data      := $(call LIB,data) $(LIBS_tokenizer)
LIBS_kernels   := $(call LIB,kernels) $(LIBS_common)
LIBS_engine    := $(call LIB,engine) $(call LIB,kernels) $(LIBS_data)
LIBS_tools     := $(call LIB,tools) $(LIBS_engine)

$(O)/lib%.a:
	@rm -f $@
	$(Q)ar rcs $@ $^
$(foreach layer,$(LAYERS),$(eval $(O)/lib$(layer).a: $(OBJECTS_$(layer))))

$(O)/%.o: %.c
	@mkdir -p $(@D)
	$(Q)$(CC) $(CFLAGS_ALL) -c -o $@ $<
$(O)/%.o: %.cc
	@mkdir -p $(@D)
	$(Q)$(CXX) $(CXXFLAGS_ALL) -c -o $@ $<
$(O)/%.o: %.S
	@mkdir -p $(@D)
	$(Q)$(CC) $(CPPFLAGS) -c -o $@ $<
define isa_rule
$(O)/%.$(1).o: %.c
	@mkdir -p $$(@D)
	$$(Q)$$(CC) $$(CFLAGS_ALL) $$(ISA_FLAGS_$(1)) -DSIMD_ISA=$(1) -c -o $$@ $$<
endef
$(foreach isa,$(ISAS),$(eval $(call isa_rule,$(isa))))
$(O)/tokenizer/vocab_gpt2.o: tokenizer/vocab.bpe

$(O)/tools/ferry.o: CPPFLAGS += -DFERRY_GEMM='"$(GEMM_NAME_$(GEMM))"'
$(O)/ferry: $(O)/tools/ferry.o $(OBJECTS_tools) $(LIBS_engine)
	$(Q)$(LINK) -o $@ $^ $(LDLIBS_ALL)

all: $(B)/ferry ## build the program, build/ferry
$(B)/ferry: $(B)/opt/ferry
	@cp $< $@.tmp && mv $@.tmp $@
	@echo "$@ is built; called alone it says what to type"
ifneq ($(MODE),opt)
$(B)/opt/ferry:
	$(MAKE) MODE=opt $@
endif

# ---- MPI: a shared object that the program loads where mpirun or srun started it -----------------------------------------

MPICC ?= mpicc
$(B)/ferry-mpi.so: engine/mpi/mpi_ranks.c engine/mpi/mpi_interface.h engine/collective.h common/library.h common/error.h
	@mkdir -p $(@D)
	$(Q)$(MPICC) -std=gnu11 -g -O2 -fPIC -fvisibility=hidden -Wall -Wextra -Werror $(CPPFLAGS) -shared -o $@ $<
mpi: $(B)/ferry-mpi.so ## training on several processes, build/ferry-mpi.so (needs mpicc; built by make where that is there)
.PHONY: mpi
ifneq ($(HAVE_MPI),)
all faults: mpi
endif

# ---- CUDA: a shared object that the program loads at run time ---------------------------------------------------

NVCC ?= $(firstword $(shell command -v nvcc) /usr/local/cuda/bin/nvcc)
CUDA_ARCHITECTURES ?= 80 90
# Machine code for each, and PTX of the last for what comes after it. No fast math: division, square roots and
# denormals are IEEE's. The optimizer is built without contraction, so that it gives the CPU's bits.
NVCCFLAGS_ALL = -std=c++20 -O3 -lineinfo -I. -Werror all-warnings -Xcompiler -fPIC,-fvisibility=hidden,-Wall,-Wextra \
  $(foreach a,$(CUDA_ARCHITECTURES),-gencode arch=compute_$(a),code=sm_$(a)) \
  -gencode arch=compute_$(lastword $(CUDA_ARCHITECTURES)),code=compute_$(lastword $(CUDA_ARCHITECTURES)) $(NVCCFLAGS)
CUDA_OBJECTS := $(patsubst %.cu,$(B)/cuda/%.o,$(wildcard kernels/cuda/*.cu))
CUDA_LIBRARIES := $(abspath $(dir $(NVCC))/../lib64)
$(B)/cuda/kernels/cuda/optimizer.o: NVCCFLAGS += -fmad=false
# What ptxas says of each kernel's registers and memory is kept beside the object, for tests/gpu/budget.
$(B)/cuda/%.o: %.cu
	@mkdir -p $(@D)
	$(Q)$(NVCC) $(NVCCFLAGS_ALL) -Xptxas -v -MMD -MP -c -o $@ $< 2>$(@:.o=.ptxas) || { cat $(@:.o=.ptxas) >&2; exit 1; }
$(B)/ferry-cuda.so: $(CUDA_OBJECTS)
	$(Q)$(CXX) -shared -Wl,-z,defs -o $@ $^ -L$(CUDA_LIBRARIES) -Wl,-rpath,$(CUDA_LIBRARIES) -lcublasLt -lcudart_static -ldl -lrt -pthread
cuda: $(B)/ferry-cuda.so ## the CUDA backend, build/ferry-cuda.so (needs nvcc and cuBLASLt; no GPU to build)
.PHONY: cuda
-include $(shell find $(B)/cuda -name '*.d' 2>/dev/null)

# ---- the CUDA backend on the CPU: the same sources, with headers that stand in for CUDA's (tests/emu/emulator.h) ----------

EMU := $(B)/emu$(if $(filter-out opt,$(MODE)),/$(MODE))
# What costs least of compiling and running together.
EMU_OPTIMIZE_opt := -O1
EMU_OPTIMIZE_asan := -Og -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
EMU_OPTIMIZE_tsan := -O1 -fsanitize=thread
EMU_FLAGS = -std=c++20 -g1 $(MATH) $(WARNINGS) -Wno-shadow -Wno-unknown-pragmas -fPIC -pthread -MMD -MP -Itests/emu/include -I.
# The emulator itself is not instrumented, and the same in all modes, but for the products of its cuBLASLt and cuDNN, which
# are the device's work. It comes first: of a template that both use, its own is taken.
EMU_PRODUCTS := $(O)/emu/tests/emu/cublaslt.o $(O)/emu/tests/emu/cudnn_graph.o
EMULATOR := $(filter-out $(EMU_PRODUCTS:$(O)/emu/%=$(S)/%),$(patsubst %.cc,$(S)/%.o,$(wildcard tests/emu/*.cc)))
EMU_OBJECTS = $(EMULATOR) $(EMU_PRODUCTS) $(patsubst %.cu,$(O)/emu/%.o,$(wildcard kernels/cuda/*.cu))
$(S)/tests/emu/%.o: tests/emu/%.cc
	@mkdir -p $(@D)
	$(Q)$(CXX) $(EMU_FLAGS) -O2 -c -o $@ $<
$(EMU_PRODUCTS): $(O)/emu/%.o: %.cc
	@mkdir -p $(@D)
	$(Q)$(CXX) $(EMU_FLAGS) -O2 $(EMU_OPTIMIZE_$(MODE)) -c -o $@ $<
$(O)/emu/%.o: %.cu
	@mkdir -p $(@D)
	$(Q)$(CXX) $(EMU_FLAGS) $(EMU_OPTIMIZE_$(MODE)) -x c++ -c -o $@ $<
$(EMU)/ferry-cuda.so: $(EMU_OBJECTS)
	@mkdir -p $(@D)
	$(Q)$(CXX) -shared $(EMU_OPTIMIZE_$(MODE)) -o $@ $^ -ldl -pthread
# The op tester's own work (formulas in fp64, and what it gives to copies) is not what is watched here: one for all modes.
$(S)/tests/ops/%.o: tests/ops/%.c
	@mkdir -p $(@D)
	$(Q)$(CC) -std=gnu11 -g1 -O2 $(MATH) $(WARNINGS) $(C_WARNINGS) -MMD -MP $(CPPFLAGS) -c -o $@ $<
$(O)/tests/emu/test_ops_emu $(O)/tests/emu/test_cudnn_emu: %: %.o $(S)/tests/ops/op_tester.o $(O)/kernels/cuda.o $(O)/kernels/kernels.o $(LIBS_common)
	$(Q)$(LINK) -o $@ $^ $(LDLIBS_ALL)
$(O)/tests/emu/test_ranks_emu: %: %.o $(O)/engine/exchange.o $(O)/engine/collective.o $(LIBS_kernels)
	$(Q)$(LINK) -o $@ $^ $(LDLIBS_ALL)
$(O)/tests/emu/planted $(O)/tests/emu/cudnn_rules: $(O)/tests/emu/%: $(O)/emu/tests/emu/faulty/%.o $(EMULATOR) $(EMU_PRODUCTS)
	@mkdir -p $(@D)
	$(Q)$(CXX) $(EMU_OPTIMIZE_$(MODE)) -rdynamic -o $@ $^ -ldl -pthread
# The programs of tests/gpu, for machines that may have none of ferry's Debian packages: of the sources that include
# nothing of these, the linker takes what it needs.
ifneq ($(filter gpu-programs,$(MAKECMDGOALS)),)
PACKAGES := cJSON.h|xxhash.h|zstd.h|zlib.h|simdjson.h
BARE_SOURCES := $(shell for f in common/*.c engine/*.c; do $(CC) $(CPPFLAGS) -M -MG $$f | grep -E '$(PACKAGES)' >/dev/null || echo $$f; done)
endif
$(O)/libbare.a: $(BARE_SOURCES:%.c=$(O)/%.o)
GPU_PROGRAMS := $(patsubst %.c,$(O)/%,$(wildcard tests/gpu/*.c))
$(GPU_PROGRAMS): %: %.o $(O)/libbare.a $(OBJECTS_kernels)
	$(Q)$(LINK) -o $@ $< $(OBJECTS_kernels) $(O)/libbare.a $(GEMM_LIB_$(GEMM)) -ldl -lm
gpu-programs: $(GPU_PROGRAMS)
.PHONY: gpu-programs
# Attention's plans by cuDNN itself, without a GPU and without CUDA's headers; a stand-in for the driver alone.
$(O)/tests/gpu/cudnn_plans: tests/gpu/cudnn_plans.cc kernels/cuda/cudnn_plan.cu kernels/cuda/cudnn_plan.cuh kernels/cuda/cudnn.cuh kernels/kernels.h
	@mkdir -p $(@D)
	$(Q)$(CXX) -std=c++20 -O1 $(WARNINGS) -Itests/emu/include -I. -o $@ $< -x c++ kernels/cuda/cudnn_plan.cu -ldl -Wl,-rpath,$(CUDA_LIBRARIES)
$(O)/tests/gpu/cudnn_driver.so: tests/gpu/cudnn_driver.cc
	@mkdir -p $(@D)
	$(Q)$(CXX) -O1 $(WARNINGS) -fPIC -shared -Wl,-soname,libcuda.so.1 -o $@ $<
emu: $(EMU)/ferry-cuda.so ## the CUDA backend on the CPU, for tests: build/emu/ferry-cuda.so (FERRY_CUDA names it to the program)
.PHONY: emu

# ---- tests ------------------------------------------------------------------------------------------------

unit_tests = $(patsubst %.c,$(O)/%,$(wildcard tests/unit/$(1)/test_*.c))
UNIT_TESTS := $(foreach layer,$(LAYERS),$(call unit_tests,$(layer)))
define unit_rule
$(O)/tests/unit/$(1)/test_%: $(O)/tests/unit/$(1)/test_%.o $$(LIBS_$(1))
	$$(Q)$$(LINK) -o $$@ $$^ -lcmocka $$(LDLIBS_ALL)
endef
$(foreach layer,$(LAYERS),$(eval $(call unit_rule,$(layer))))

FAULT_TESTS := $(patsubst %.c,$(O)/%,$(wildcard tests/faults/test_*.c))
$(O)/tests/faults/test_%: $(O)/tests/faults/test_%.o $(LIBS_engine)
	$(Q)$(LINK) $(FAULT_FLAGS) -o $@ $^ -lcmocka $(LDLIBS_ALL)
WRAPPED := malloc calloc realloc reallocarray aligned_alloc strdup strndup asprintf
$(O)/tests/faults/test_memory: FAULT_FLAGS = $(addprefix -Wl$(comma)--wrap=,$(WRAPPED))

$(O)/tests/faults/killed_ferry: $(O)/tests/faults/killed_ferry.o $(O)/tools/ferry.o $(OBJECTS_tools) $(LIBS_engine)
	$(Q)$(LINK) -o $@ $^ $(LDLIBS_ALL)

$(addsuffix .o,$(UNIT_TESTS) $(FAULT_TESTS)): | $(B)/config-tests.mk

# Programs of the benchmarks, the interoperation checks and of golden files: make build/opt/tests/bench/bench_step
define program_rule
$(O)/tests/$(1)/$(2)_%: $(O)/tests/$(1)/$(2)_%.o $$(LIBS_engine)
	$$(Q)$$(LINK) -o $$@ $$^ $$(LDLIBS_ALL)
endef
$(eval $(call program_rule,bench,bench))
$(eval $(call program_rule,interop,model))
$(eval $(call program_rule,golden,make))

# Fuzz targets (tests/fuzz/fuzz.h): with libFuzzer in MODE=fuzz, else with a main that replays their seeds.
FUZZ_TARGETS := $(patsubst tests/fuzz/%.c,%,$(wildcard tests/fuzz/fuzz_*.c))
FUZZ_MAIN := $(if $(filter fuzz,$(MODE)),,$(O)/tests/fuzz/replay.o)
$(O)/tests/fuzz/fuzz_%: $(O)/tests/fuzz/fuzz_%.o $(FUZZ_MAIN) $(LIBS_tools)
	$(Q)$(LINK) $(if $(FUZZ_MAIN),,-fsanitize=fuzzer) -o $@ $^ $(LDLIBS_ALL)
fuzz-targets: $(addprefix $(O)/tests/fuzz/,$(FUZZ_TARGETS))
fuzz: $(B)/config-fuzz.mk ## fuzz with clang's libFuzzer: TARGET=fuzz_NAME (all of them), SECONDS=600 each
	@B=$(B) tests/fuzz/all $(if $(SECONDS),-s $(SECONDS)) $(TARGET)
.PHONY: fuzz fuzz-targets

# Tests themselves (not what they test, nor benchmarks) compile in half of the time so.
$(O)/tests/unit/%.o $(O)/tests/emu/%.o $(O)/tests/faults/%.o: OPTIMIZE_opt := -O2 -g1

unit: $(UNIT_TESTS) ## build and run the unit tests of MODE
	@tests/run $(UNIT_TESTS)
unit-%: ## the unit tests of one layer: make unit-data
	@$(MAKE) --no-print-directory unit-of LAYER=$*
unit-of: $(call unit_tests,$(LAYER))
	@tests/run $^
.PHONY: all unit unit-of test compile demo bench interop install clean help format check-format

# What tests/all builds: several modes at once, by one make, so that none waits for another's last file. PROGRAMS_MODE are
# the targets of each; a part leaves what it said in $(B)/parts/PART.log, and PART.ok where it succeeded.
PART_shared = $(MAKE) MODE=opt $(EMULATOR) $(S)/tests/ops/op_tester.o
PART_opt = $(MAKE) MODE=opt $(PROGRAMS_opt)
PART_asan = $(MAKE) MODE=asan $(PROGRAMS_asan)
PART_tsan = $(MAKE) MODE=tsan $(PROGRAMS_tsan)
PART_cuda = $(MAKE) MODE=opt cuda
PART_clang = $(MAKE) MODE=opt B=$(B)/clang CC=clang CXX=clang++ CFLAGS="-O0 -g0" CXXFLAGS="-O0 -g0" compile
PART_gpu = GPU_DRY_RUN=1 OPTIMIZE="-O0 -g0" B=$(B)/gpu-dry tests/gpu/run build
part-opt part-asan part-tsan: | $(filter part-shared,$(MAKECMDGOALS)) # only one of them may build it
part-%:
	@mkdir -p $(B)/parts && rm -f $(B)/parts/$*.ok
	+@$(PART_$*) >$(B)/parts/$*.log 2>&1 && touch $(B)/parts/$*.ok

test: $(B)/config-tests.mk ## every test: unit (plain, sanitized), command line, format, layers
	@B=$(B) tests/all
compile: ## every object, without linking: for another compiler's warnings
compile: $(foreach layer,$(LAYERS),$(OBJECTS_$(layer))) $(O)/tools/ferry.o $(addsuffix .o,$(UNIT_TESTS)) $(patsubst %,$(O)/tests/fuzz/%.o,$(FUZZ_TARGETS) replay)
demo: $(B)/ferry ## text in, a trained GPT-2 out, on this machine, in minutes (TEXT=folder uses your own)
	@B=$(B) tests/demo "$(TEXT)"

# Power failures run without the sanitizers, for their number; the rest with them.
FAULT_PROGRAMS := $(addprefix $(B)/opt/tests/faults/,test_power killed_ferry) $(patsubst %,$(B)/asan/tests/faults/test_%,calls memory damage)
faults: $(B)/ferry emu ## power failures, failing calls, no memory, damage, kill -9: the long form (FORM=short: part of make test)
	@$(MAKE) --no-print-directory B=$(B) MODE=opt $(filter $(B)/opt/%,$(FAULT_PROGRAMS))
	@$(MAKE) --no-print-directory B=$(B) MODE=asan $(filter $(B)/asan/%,$(FAULT_PROGRAMS))
	@B=$(B) tests/faults/all $(or $(FORM),long)
.PHONY: faults

# PYTHON=... names a Python that has PyTorch (bench), or all the peers (interop; otherwise they come into build/venv).
bench: $(B)/ferry $(B)/opt/tests/bench/bench_step $(B)/opt/tests/bench/bench_adam $(B)/opt/tests/bench/bench_tokenizer ## the tokenizer beside gigatoken, preprocess beside Megatron-LM's way, the host's AdamW beside DeepSpeed's, training steps beside PyTorch, in turns; PYTHON=python3 has them
	@B=$(B) $(if $(PYTHON),PYTHON=$(PYTHON)) tests/bench/all
interop: $(B)/ferry $(B)/opt/tests/interop/model_logits ## agreement with tiktoken, transformers and Megatron-LM
	@B=$(B) $(if $(PYTHON),PYTHON=$(PYTHON)) tests/interop/all

# ---- the rest ------------------------------------------------------------------------------------------------

FORMATTED = $(shell git ls-files -co --exclude-standard '*.c' '*.h' '*.cc' '*.cu' '*.cuh')
format: ## clang-format every source in place
	$(Q)clang-format -i $(FORMATTED)
check-format: ## fail if clang-format would change a source
	@clang-format --dry-run -Werror $(FORMATTED)

$(B)/ferry.1: tools/ferry.1 $(B)/ferry VERSION
	@awk -v ferry=$(B)/ferry -v version=$$(cat VERSION) '/^@[a-z]/ { system(ferry " " substr($$0, 2) " --help-manual"); next } \
		{ gsub(/@VERSION@/, version); print }' $< >$@.tmp && mv $@.tmp $@
install: $(B)/ferry $(B)/ferry.1 ## install the program and its man page under PREFIX (/usr/local)
	install -D -m 755 $(B)/ferry $(DESTDIR)$(PREFIX)/bin/ferry
	for so in cuda mpi; do if [ -e $(B)/ferry-$$so.so ]; then install -D -m 755 $(B)/ferry-$$so.so $(DESTDIR)$(PREFIX)/lib/ferry/ferry-$$so.so; fi; done
	install -D -m 644 $(B)/ferry.1 $(DESTDIR)$(PREFIX)/share/man/man1/ferry.1
clean: ## remove what was built
	rm -rf $(B)
help: ## this list
	@sed -n 's/^\([a-z%-]*\):[^#]*## /\1\t/p' $(MAKEFILE_LIST) | sort | awk -F'\t' '{printf "  make %-14s %s\n", $$1, $$2}'

-include $(shell find $(O) $(S) -name '*.d' 2>/dev/null)
