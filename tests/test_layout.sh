#!/bin/bash
# test_layout.sh - the walls of the house (README, "layout"): who may include whom, who may exit or print, which files are
# in their place.  Reads the sources; builds nothing.
. "$(dirname "$0")/shell.sh"

includes() { grep -nE '^#include "' "$@" /dev/null; }

check "kernels/ includes only kernels/" \
    "$(includes $(find kernels -name '*.[ch]' -o -name '*.cu' -o -name '*.cuh') | grep -vE '#include "kernels/')"
check "model/ includes only kernels/ and model/" \
    "$(includes model/*.[ch] | grep -vE '#include "(kernels|model)/')"
check "data/ includes only model's leaves, philox and data/" \
    "$(includes data/*.[ch] | grep -vE '#include "(data/|model/(base|flags|batch|sha256|signed_json)\.h|kernels/philox\.h)')"
check "train/ does not include infer/" "$(includes train/*.[ch] | grep -E '#include "infer/')"
check "infer/ does not include train/" "$(includes infer/*.[ch] | grep -E '#include "train/')"
check "model's leaves include only libc and each other" \
    "$(includes model/base.[ch] model/flags.[ch] model/sha256.[ch] model/signed_json.[ch] model/batch.h | grep -vE '#include "model/(base|flags|sha256|signed_json)\.h"')"
check "<mpi.h> only in train/dist_mpi.c and dist_nccl.c" \
    "$(grep -rln '#include <mpi.h>' --include='*.[ch]' . | grep -vE '^\./(build|train/dist_(mpi|nccl)\.c)')"
check "<hdf5.h> only in data/ and its tests" \
    "$(grep -rln '#include <hdf5' --include='*.[ch]' . | grep -vE '^\./(build|data/|tests/)')"
check "CUDA headers only in kernels/cuda/, train/dist_nccl.c and the emulator" \
    "$(grep -rlnE '#include <(cuda|nccl|cublas)' --include='*.[ch]' --include='*.cu' --include='*.cuh' --include='*.cpp' . |
        grep -vE '^\./(build|\.venv/|kernels/cuda/|train/dist_nccl\.c|tests/emulator/)')"
check "PTX only in kernels/cuda/ptx.cuh and hopper.cuh" \
    "$(grep -nE '\basm\b' $(find kernels/cuda -name '*.cu' -o -name '*.cuh') | grep -vE '^kernels/cuda/(ptx|hopper)\.cuh|^[^:]*:[0-9]+: ?(/?\*| \*)')"
# Integer atomics whose order changes no bit of a result; there are no others, and none on floats.
check "atomics only where their order does not show" \
    "$(grep -nE '\batomic[A-Z]' $(find kernels/cuda -name '*.cu' -o -name '*.cuh') | grep -vE 'atomicAdd\(&l\.count\[|atomicOr\(&bits\[')"
check "kernels do not print, hold no global state, use no cooperative groups" \
    "$(grep -nE '\b(printf|cooperative_groups)\b|^(static )?__(device__|constant__|managed__) [^(]*[;=]' $(find kernels/cuda -name '*.cu' -o -name '*.cuh'))"
check "libraries return, programs exit" \
    "$(grep -nE '\b(exit|_exit|abort)\(' $(find kernels model data -name '*.[ch]' -o -name '*.cu' -o -name '*.cuh') | grep -vE '^model/base\.c')"
check "libraries do not print to standard output" \
    "$(grep -nE '\b(printf|puts|putchar)\(' $(find kernels model data -name '*.[ch]' -o -name '*.cu' -o -name '*.cuh') | grep -vE '^data/(main|cmd_[a-z_]*)\.c|__attribute__')"
check "no unfinished work is marked" \
    "$(grep -rnE '\b(TODO|FIXME|XXX|HACK)\b' --include='*.c' --include='*.h' --include='*.cu' --include='*.cuh' --include='*.cpp' --include='*.sh' --include='*.py' kernels model data train infer scripts tests | grep -v tests/test_layout.sh)"
check "scripts that people start tell what they do (--help)" \
    "$(grep -L -e --help scripts/quickstart.sh scripts/train_oracle.sh scripts/bundle.sh scripts/setup.sh scripts/evaluate.sh scripts/cluster/hosts.sh)"
check "every header has an include guard or pragma" \
    "$(for h in $(find kernels model data train infer -name "*.h" ! -name "*_tile.h" -o -name "*.cuh"); do grep -qE "^#(ifndef|pragma once)" "$h" || echo "$h"; done)"
exit $failed
