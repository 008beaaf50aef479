# ehr.c - `make` builds the three programs into build/; `make help` lists the rest.
#
# What the machine offers is found by compiling a small program, not by guessing.  NO_MPI=1, NO_CUDA=1, NO_OPENMP=1 turn
# things off; SAN=1 builds everything under ASan and UBSan into build-san/.
SHELL  := /bin/bash
CC     ?= gcc
ifeq ($(origin CC),default)
CC     := gcc
endif
ifeq ($(origin CXX),default)
CXX    := g++
endif
BUILD  := $(if $(SAN),build-san,build)
# Warnings are errors in the continuous check only: a newer compiler must not stop a stranger.
WERROR ?= $(if $(CI),-Werror)

CFLAGS_COMMON := -std=c11 -D_GNU_SOURCE -I. -g -Wall -Wextra -Wpointer-arith -Wstrict-prototypes -Wno-format-truncation $(WERROR) \
                 -ffp-contract=off -fno-math-errno -MMD -MP
comma         := ,
LEVEL          = $(if $(SAN),-O1,-O3)
CFLAGS_OPT     = $(LEVEL) $(if $(SAN),-fsanitize=address$(comma)undefined -fno-omit-frame-pointer -fno-sanitize-recover=undefined)

# ---- what is there -------------------------------------------------------------------------------------------------
DETECT := $(BUILD)/detect.mk
# What was missing may be there by now: an error is looked at anew each time (once: make starts over after finding).
ifndef MAKE_RESTARTS
$(shell ! grep -qs 'error no ' $(DETECT) || rm -f $(DETECT))
endif
ifeq ($(filter clean help setup quickstart test fuzz format test-parity bundle,$(MAKECMDGOALS)),)
-include $(DETECT)
endif

# Sanitizers see the CUDA kernels in the emulator; their other build goes without nvcc's.
ifdef SAN
HAVE_CUDA :=
CUDA_LIBS :=
endif

CFLAGS  = $(CFLAGS_COMMON) $(if $(HAVE_CUDA),-DHAVE_CUDA) $(CFLAGS_OPT) $(OPENMP_CFLAGS) $(HDF5_CFLAGS)
LDFLAGS = $(CFLAGS_OPT) $(OPENMP_CFLAGS)
LIBS    = $(HDF5_LIBS) -ljansson -lzip -lz -lsodium -lpcre2-8 -lm -lpthread -ldl
HTTP_LIBS = $(if $(HAVE_MICROHTTPD),-lmicrohttpd)

KERNEL_SRC := $(wildcard kernels/*.c kernels/reference/*.c kernels/cpu/*.c)
MODEL_SRC  := $(wildcard model/*.c)
DATA_SRC   := $(filter-out data/main.c,$(wildcard data/*.c))
TRAIN_SRC  := $(filter-out train/main.c train/dist_mpi.c,$(wildcard train/*.c))
INFER_SRC  := $(filter-out infer/main.c,$(wildcard infer/*.c))
ifeq ($(HAVE_MPI),1)
TRAIN_SRC  += train/dist_mpi.c
endif
obj = $(patsubst %.c,$(BUILD)/%.o,$(1))

KERNEL_OBJ := $(call obj,$(KERNEL_SRC))
MODEL_OBJ  := $(call obj,$(MODEL_SRC))
DATA_OBJ   := $(call obj,$(DATA_SRC))
TRAIN_OBJ   = $(call obj,$(TRAIN_SRC))
INFER_OBJ  := $(call obj,$(INFER_SRC))

# Kernels by nvcc, for every program that opens a device.
CUDA_SRC   := $(wildcard kernels/cuda/*.cu)
CUDA_OBJ    = $(if $(HAVE_CUDA),$(CUDA_SRC:%.cu=$(BUILD)/%.o))
CUDA_TESTS := $(patsubst tests/%.c,$(BUILD)/tests/%,$(wildcard tests/test_cuda_*.c))

# The emulator has something to run once there are headers and a whole backend.
EMULATE   = $(and $(HAVE_CUDA_HEADERS),$(wildcard kernels/cuda/sample.cu))
PROGRAMS := $(BUILD)/ehr-data $(BUILD)/ehr-train $(BUILD)/ehr-infer
TESTS    := $(patsubst tests/%.c,$(BUILD)/tests/%,$(filter-out tests/test_cuda_%,$(wildcard tests/test_*.c)))
BENCHES  := $(patsubst tests/%.c,$(BUILD)/%,$(wildcard tests/bench_*.c))
FUZZERS  := $(patsubst tests/%.c,$(BUILD)/tests/%,$(wildcard tests/fuzz_*.c))

.PHONY: all programs tests benches detect setup quickstart test test-parity bench clean help format
all: detect programs benches
programs: $(PROGRAMS)
tests: $(TESTS) $(FUZZERS) $(BUILD)/tests/check_rollout_law $(BUILD)/tests/check_explain $(if $(SAN),,$(BUILD)/ehr) $(if $(HAVE_CUDA_HEADERS),emulator)
benches: $(BENCHES)

$(DETECT): Makefile scripts/detect.sh
	@mkdir -p $(BUILD)
	@CC="$(CC)" CXX="$(CXX)" NVCC="$(NVCC)" NO_MPI="$(NO_MPI)" NO_CUDA="$(NO_CUDA)" NO_OPENMP="$(NO_OPENMP)" sh scripts/detect.sh $(BUILD) > $@.tmp && mv $@.tmp $@
detect: $(DETECT)
	@cat $(BUILD)/detect.txt

# Flag changes (NO_MPI=1 and the like) take effect without `make clean`.
$(shell mkdir -p $(BUILD); printf '%s' 'NO_MPI=$(NO_MPI) NO_CUDA=$(NO_CUDA) NO_OPENMP=$(NO_OPENMP)' > $(BUILD)/switches.tmp; \
        cmp -s $(BUILD)/switches.tmp $(BUILD)/switches || { mv $(BUILD)/switches.tmp $(BUILD)/switches; rm -f $(DETECT); })

# One short line a step; V=1 shows the commands.
run = $(if $(V),$(3),@printf '  %-5s%s\n' $(1) $(2); $(3))

# ---- objects -------------------------------------------------------------------------------------------------------
# Under the sanitizers the tests' time goes into kernels: those are worth the compiler's.
$(BUILD)/kernels/%.o: LEVEL = $(if $(SAN),-O2,-O3)
$(BUILD)/kernels/cpu/%_avx512.o: ISA := -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx2 -mfma
$(BUILD)/kernels/cpu/%_vnni.o:   ISA := -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vnni -mavx2 -mfma
$(BUILD)/kernels/cpu/%_avx2.o:   ISA := -mavx2 -mfma
$(BUILD)/train/dist_mpi.o: EXTRA = $(MPI_CFLAGS)
$(BUILD)/train/%.o: EXTRA = $(if $(HAVE_MPI),-DHAVE_MPI)
$(BUILD)/train/dist_mpi.o: EXTRA = -DHAVE_MPI $(MPI_CFLAGS)
# The commit that checkpoints name; the file changes, and state.o with it, only when the commit does.
$(shell printf '#define EHR_COMMIT "%s"\n' "$$(git describe --always --dirty 2>/dev/null || echo unknown)" > $(BUILD)/commit.tmp; \
        cmp -s $(BUILD)/commit.tmp $(BUILD)/commit.h || mv $(BUILD)/commit.tmp $(BUILD)/commit.h)
$(BUILD)/infer/serve_page.o: infer/serve_page.html
$(BUILD)/infer/http.o: EXTRA = $(if $(HAVE_MICROHTTPD),-DHAVE_MICROHTTPD)
$(BUILD)/train/state.o: EXTRA = -include $(BUILD)/commit.h

$(BUILD)/%.o: %.c $(DETECT)
	@mkdir -p $(@D)
	$(call run,cc,$<,$(CC) $(CFLAGS) $(ISA) $(EXTRA) -c $< -o $@)

# ---- programs ------------------------------------------------------------------------------------------------------
# ehr-data opens no device: from an archive the linker takes what it calls, and no kernel.
$(BUILD)/libmodel.a: $(MODEL_OBJ) $(KERNEL_OBJ)
	$(call run,ar,$@,rm -f $@ && ar rcs $@ $^)
$(BUILD)/ehr-data: $(BUILD)/data/main.o $(DATA_OBJ) $(BUILD)/libmodel.a
	$(call run,link,$@,$(CC) $(LDFLAGS) $^ -o $@ $(LIBS))
$(BUILD)/ehr-train: $(BUILD)/train/main.o $(TRAIN_OBJ) $(DATA_OBJ) $(MODEL_OBJ) $(KERNEL_OBJ) $(CUDA_OBJ)
	$(call run,link,$@,$(CC) $(LDFLAGS) $^ -o $@ $(LIBS) $(MPI_LIBS) $(CUDA_LIBS))
$(BUILD)/ehr-infer: $(BUILD)/infer/main.o $(INFER_OBJ) $(DATA_OBJ) $(MODEL_OBJ) $(KERNEL_OBJ) $(CUDA_OBJ)
	$(call run,link,$@,$(CC) $(LDFLAGS) $^ -o $@ $(LIBS) $(HTTP_LIBS) $(CUDA_LIBS))

# Tests and benchmarks link every module but the mains.
$(BUILD)/tests/%: $(BUILD)/tests/%.o $(TRAIN_OBJ) $(INFER_OBJ) $(DATA_OBJ) $(MODEL_OBJ) $(KERNEL_OBJ) $(CUDA_OBJ)
	$(call run,link,$@,$(CC) $(LDFLAGS) $^ -o $@ -lcmocka $(LIBS) $(HTTP_LIBS) $(MPI_LIBS) $(CUDA_LIBS))
$(BUILD)/bench_%: $(BUILD)/tests/bench_%.o $(TRAIN_OBJ) $(INFER_OBJ) $(DATA_OBJ) $(MODEL_OBJ) $(KERNEL_OBJ) $(CUDA_OBJ)
	$(call run,link,$@,$(CC) $(LDFLAGS) $^ -o $@ $(LIBS) $(HTTP_LIBS) $(MPI_LIBS) $(CUDA_LIBS))

# All programs in one, for the bundle.
MULTI      = ehr-data=data/main ehr-train=train/main ehr-infer=infer/main bench_step=tests/bench_step bench_ops=tests/bench_ops \
             $(if $(HAVE_CUDA),$(foreach t,$(CUDA_TESTS),$(notdir $t)=tests/$(notdir $t)))
MULTI_MAIN = $(foreach m,$(MULTI),$(BUILD)/$(lastword $(subst =, ,$m)).o)
MULTI_OBJ  = $(foreach m,$(MULTI),$(BUILD)/multicall/$(firstword $(subst =, ,$m)).o) $(BUILD)/multicall/multicall.o
$(BUILD)/ehr: $(MULTI_MAIN) $(TRAIN_OBJ) $(INFER_OBJ) $(DATA_OBJ) $(MODEL_OBJ) $(KERNEL_OBJ) $(CUDA_OBJ) scripts/multicall.sh
	@CC="$(CC)" bash scripts/multicall.sh $(BUILD)/multicall $(foreach m,$(MULTI),$(firstword $(subst =, ,$m))=$(BUILD)/$(lastword $(subst =, ,$m)).o)
	$(call run,link,$@,$(CC) $(LDFLAGS) $(MULTI_OBJ) $(filter-out $(MULTI_MAIN) %.sh,$^) -o $@ $(if $(HAVE_CUDA),-lcmocka) $(LIBS) $(HTTP_LIBS) $(MPI_LIBS) $(CUDA_LIBS))

# ---- CUDA kernels by nvcc -----------------------------------------------------------------------------------------
# Each file once, for all architectures.  What ptxas says of registers and spills stays beside the object, in *.ptxas.
# No exceptions, no guarded statics: the C compiler links, without the C++ library.
NVCCFLAGS = -std=c++17 -O3 -lineinfo -DHAVE_CUDA -I. $(CUDA_ARCH) $(if $(WERROR),-Werror all-warnings) -Xptxas -v \
            -Xcompiler -Wall$(comma)-Wextra$(comma)-fno-exceptions$(comma)-fno-rtti$(comma)-fno-threadsafe-statics -MMD -MP
$(BUILD)/kernels/cuda/%.o: kernels/cuda/%.cu $(DETECT)
	@mkdir -p $(@D)
	$(call run,nvcc,$<,$(NVCC) $(NVCCFLAGS) -c $< -o $@ 2> $(@:.o=.ptxas) || { cat $(@:.o=.ptxas) >&2; false; })
	@grep -E 'warning|error' $(@:.o=.ptxas) >&2 || true
.PHONY: cuda cuda-report
cuda: cuda-report programs $(CUDA_TESTS)
cuda-report: $(CUDA_OBJ)
	@[ -n "$(HAVE_CUDA)" ] || { echo 'make cuda: no nvcc here that builds for sm_80 and sm_90a; see make detect' >&2; exit 1; }
	@bash scripts/cuda_report.sh $(BUILD)

# ---- the CUDA emulator ----------------------------------------------------------------------------------------------
# kernels/cuda/*.cu as C++ over tests/emulator/, linked with the rest into build/emulator/: ehr-train, ehr-infer and every
# tests/test_cuda_*.c.  Needs the CUDA toolkit's headers, nothing else of it.
EMU      := $(BUILD)/emulator
EMU_CXXFLAGS = -std=c++17 -D_GNU_SOURCE -DHAVE_CUDA -I. $(CUDA_CFLAGS) -g -Wall -Wextra $(WERROR) -ffp-contract=off -fno-math-errno \
               -fno-strict-aliasing -Wno-unknown-pragmas -Wno-psabi -MMD -MP $(subst -O3,-O2,$(CFLAGS_OPT)) $(CPU_CFLAGS)
EMU_OBJ  := $(patsubst %.cpp,$(EMU)/%.o,$(filter-out tests/emulator/test_%,$(wildcard tests/emulator/*.cpp))) \
            $(patsubst %.cu,$(EMU)/%.o,$(wildcard kernels/cuda/*.cu))
# C sources that say HAVE_CUDA are compiled again with it; the other objects serve both builds.
EMU_C    := $(shell grep -l HAVE_CUDA kernels/*.c model/*.c data/*.c train/*.c infer/*.c)
emu_obj   = $(foreach o,$(1),$(if $(filter $(o:$(BUILD)/%.o=%.c),$(EMU_C)),$(o:$(BUILD)/%=$(EMU)/%),$(o)))
EMU_LIB   = $(call emu_obj,$(DATA_OBJ) $(MODEL_OBJ) $(KERNEL_OBJ)) $(EMU_OBJ)
EMU_TESTS := $(patsubst tests/%.c,$(EMU)/tests/%,$(wildcard tests/test_cuda_*.c))
# -rdynamic: stand-ins of other libraries, loaded while running, find the emulator's functions.
EMU_LINK  = $(CXX) -rdynamic $(subst -O3,-O2,$(LDFLAGS))

$(EMU)/%.o: %.c $(DETECT)
	@mkdir -p $(@D)
	$(call run,cc,$@,$(CC) $(CFLAGS) $(EXTRA) -DHAVE_CUDA -c $< -o $@)
# What a kernel does not set holds a pattern.  It gets the hooks that check every access of its own
# (tests/emulator/check.h), or AddressSanitizer's, not both.
$(EMU)/%.o: %.cu $(DETECT)
	@mkdir -p $(@D)
	$(call run,emu,$<,$(CXX) $(EMU_CXXFLAGS) $(EMU_CFLAGS) $(if $(SAN),,-fsanitize=thread) -include tests/emulator/cuda_emu.h -x c++ -c $< -o $@)
$(EMU)/tests/emulator/%.o: tests/emulator/%.cpp $(DETECT)
	@mkdir -p $(@D)
	$(call run,c++,$<,$(CXX) $(EMU_CXXFLAGS) -c $< -o $@)
$(EMU)/ehr-train: $(call emu_obj,$(BUILD)/train/main.o) $(call emu_obj,$(TRAIN_OBJ)) $(EMU_LIB)
	$(call run,link,$@,$(EMU_LINK) $^ -o $@ $(LIBS) $(MPI_LIBS))
$(EMU)/ehr-infer: $(call emu_obj,$(BUILD)/infer/main.o) $(call emu_obj,$(INFER_OBJ)) $(EMU_LIB)
	$(call run,link,$@,$(EMU_LINK) $^ -o $@ $(LIBS) $(HTTP_LIBS))
$(EMU)/tests/test_%: $(BUILD)/tests/test_%.o $(call emu_obj,$(TRAIN_OBJ) $(INFER_OBJ)) $(EMU_LIB)
	@mkdir -p $(@D)
	$(call run,link,$@,$(EMU_LINK) $^ -o $@ -lcmocka $(LIBS) $(HTTP_LIBS) $(MPI_LIBS))
$(EMU)/bench_%: $(BUILD)/tests/bench_%.o $(call emu_obj,$(TRAIN_OBJ) $(INFER_OBJ)) $(EMU_LIB)
	$(call run,link,$@,$(EMU_LINK) $^ -o $@ $(LIBS) $(HTTP_LIBS) $(MPI_LIBS))
# The emulator's own tests need nothing of kernels/.
EMU_OWN = $(patsubst %.cpp,$(EMU)/%.o,$(wildcard tests/emulator/*.cpp)) $(patsubst %.cu,$(EMU)/%.o,$(wildcard tests/emulator/*.cu))
$(EMU)/tests/test_emulator: $(EMU_OWN)
	$(call run,link,$@,$(EMU_LINK) $^ -o $@ -lcmocka -lpthread)
# Stand-ins for NCCL between processes and for cuBLASLt, for LD_LIBRARY_PATH.
$(EMU)/libnccl.so.2: tests/emulator/nccl.c tests/emulator/emulator.h
$(EMU)/libcublasLt.so.13: tests/emulator/cublaslt.c tests/emulator/emulator.h
$(EMU)/libnccl.so.2 $(EMU)/libcublasLt.so.13:
	@mkdir -p $(@D)
	$(call run,cc,$<,$(CC) -std=c11 -D_GNU_SOURCE -I. -g -O2 -Wall -Wextra $(WERROR) -fPIC -shared $< -o $@ -ldl)
.PHONY: emulator
emulator: $(if $(HAVE_CUDA_HEADERS),$(EMU)/tests/test_emulator $(EMU)/libnccl.so.2 $(EMU)/libcublasLt.so.13) $(if $(EMULATE),$(EMU)/ehr-train $(EMU)/ehr-infer $(EMU_TESTS))

# ---- what people type ----------------------------------------------------------------------------------------------
# Each works on a machine with only git, make and a shell: setup.sh installs what is missing first.
setup:
	@sh scripts/setup.sh
quickstart: setup
	@$(MAKE) --no-print-directory all
	@QUICK="$(QUICK)" DATA="$(DATA)" bash scripts/quickstart.sh
test: setup
	@$(MAKE) --no-print-directory all tests SAN=$(SAN)
	@bash tests/run.sh $(BUILD)
# Longer than in `make test`, from a seed that is new each time and printed, under the sanitizers.
.PHONY: fuzz
fuzz: setup
	@$(MAKE) --no-print-directory SAN=1 $(patsubst tests/%.c,build-san/tests/%,$(wildcard tests/fuzz_*.c))
	@export FUZZ_SECONDS=$(or $(FUZZ_SECONDS),300) FUZZ_SEED=$(or $(FUZZ_SEED),$$(date +%s)); echo "FUZZ_SEED=$$FUZZ_SEED, $$FUZZ_SECONDS s each"; \
	    bash tests/run.sh build-san $(basename $(notdir $(wildcard tests/fuzz_*.c)))
test-parity: setup
	@$(MAKE) --no-print-directory all
	@MAKE="$(MAKE)" bash tests/parity.sh
# Programs, libraries and launcher in one folder, for machines that have none of them (scripts/bundle.sh).
.PHONY: bundle
bundle: setup
	@$(MAKE) --no-print-directory $(BUILD)/ehr
	@bash scripts/bundle.sh $(BUILD)
bench: all
	@bash tests/bench.sh
format:
	clang-format -i $$(git ls-files '*.c' '*.h')
clean:
	rm -rf build build-san
help:
	@echo 'make              build the three programs and the benchmarks into build/'
	@echo 'make quickstart   install what is missing, build, and go from synthetic records to forecasts and a report'
	@echo '                  QUICK=1 short form; DATA=omop:PATH from your own OMOP export'
	@echo 'make test         everything a machine without a GPU can check'
	@echo 'make fuzz         every fuzzer for FUZZ_SECONDS=300 under the sanitizers, from a new seed; what one dies on stays in tests/corpus/'
	@echo 'make test-parity  checkpoints and exports give our logits in transformers and peft (installs torch), and in llama.cpp'
	@echo '                  where llama-cpp-python is in .venv'
	@echo 'make cuda         everything with the CUDA kernels, and a table of their registers and spills (needs nvcc)'
	@echo 'make emulator     the CUDA backend on the CPU, into build/emulator/ (needs the CUDA headers)'
	@echo 'make bundle       build/bundle/: programs, libraries and mpirun for machines that have none of them'
	@echo 'make bench        measurements beside OpenBLAS, oneDNN and PyTorch where they are, appended to BENCHMARKS.md'
	@echo 'make SAN=1 ...    under ASan and UBSan, in build-san/;  NO_MPI=1  NO_CUDA=1  NO_OPENMP=1'

-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)
