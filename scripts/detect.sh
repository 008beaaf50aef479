#!/bin/sh
# detect.sh BUILD - finds what this machine can build with by compiling small programs.  Writes make variables to
# stdout and the table that `make` shows to BUILD/detect.txt.
build=$1
cc=${CC:-gcc}
dir=$(mktemp -d) || exit 1
trap 'rm -rf "$dir"' EXIT
rows=""

row() { rows="$rows$(printf '  %-8s %-4s %s' "$1" "$2" "$3")
"; }
try() { # try NAME 'source' FLAGS...
    printf '%s\n' "$2" > "$dir/$1.c"
    name=$1
    shift 2
    "$cc" "$dir/$name.c" -o "$dir/$name" "$@" > "$dir/$name.log" 2>&1
}

if ! try cc 'int main(void){return 0;}'; then
    echo "\$(error no working C compiler ($cc): run \`make setup\`)"
    exit 0
fi
row compiler yes "$($cc --version | head -n 1)"

if [ -z "$NO_OPENMP" ] && try openmp '#include <omp.h>
int main(void){return omp_get_max_threads() < 1;}' -fopenmp; then
    echo "HAVE_OPENMP := 1"
    echo "OPENMP_CFLAGS := -fopenmp"
    row OpenMP yes "worker threads on the CPU"
else
    row OpenMP no "one thread a process${NO_OPENMP:+ (NO_OPENMP)}"
    echo "OPENMP_CFLAGS := -Wno-unknown-pragmas"
fi

# hdf5-serial, never plain hdf5: the latter may silently be the MPI flavour.
hc=$(pkg-config --cflags hdf5-serial 2>/dev/null || pkg-config --cflags hdf5 2>/dev/null)
hl=$(pkg-config --libs hdf5-serial 2>/dev/null || pkg-config --libs hdf5 2>/dev/null || echo -lhdf5)
if try hdf5 '#include <hdf5.h>
#ifdef H5_HAVE_PARALLEL
#error "parallel HDF5"
#endif
int main(void){return H5open() < 0;}' $hc $hl; then
    echo "HDF5_CFLAGS := $hc"
    echo "HDF5_LIBS := $hl"
    row HDF5 yes "$(pkg-config --modversion hdf5-serial 2>/dev/null) (serial)"
else
    echo "\$(error no serial HDF5 (libhdf5-dev): run \`make setup\`)"
    row HDF5 NO "needed: run \`make setup\`"
fi
for lib in jansson zip z sodium pcre2-8; do
    case $lib in
    jansson) src='#include <jansson.h>
int main(void){json_decref(json_object());return 0;}' ;;
    zip) src='#include <zip.h>
int main(void){return zip_libzip_version()==0;}' ;;
    z) src='#include <zlib.h>
int main(void){return zlibVersion()==0;}' ;;
    sodium) src='#include <sodium.h>
int main(void){return sodium_init()<0;}' ;;
    pcre2-8) src='#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
int main(void){return pcre2_config(PCRE2_CONFIG_VERSION,0)<0;}' ;;
    esac
    if try "lib$lib" "$src" "-l$lib"; then
        row "lib$lib" yes ""
    else
        row "lib$lib" NO "needed: run \`make setup\`"
        echo "\$(error no lib$lib: run \`make setup\`)"
    fi
done

if try libmicrohttpd '#include <microhttpd.h>
int main(void){return MHD_get_version()==0;}' -lmicrohttpd; then
    echo "HAVE_MICROHTTPD := 1"
    row libmicrohttpd yes "ehr-infer serve"
else
    row libmicrohttpd no "no ehr-infer serve: run \`make setup\`"
fi

mc=$(pkg-config --cflags ompi-c 2>/dev/null || mpicc --showme:compile 2>/dev/null)
ml=$(pkg-config --libs ompi-c 2>/dev/null || mpicc --showme:link 2>/dev/null)
if [ -z "$NO_MPI" ] && try mpi '#include <mpi.h>
int main(void){int f;return MPI_Initialized(&f);}' $mc $ml; then
    echo "HAVE_MPI := 1"
    echo "MPI_CFLAGS := $mc"
    echo "MPI_LIBS := $ml"
    row OpenMPI yes "$(pkg-config --modversion ompi-c 2>/dev/null): mpirun -np N ehr-train"
else
    row OpenMPI no "ehr-train runs as one process${NO_MPI:+ (NO_MPI)}"
fi

# The emulator needs the toolkit's headers and a C++ compiler, no GPU and no library.
cuda=${CUDA_HOME:-/usr/local/cuda}
cxx=${CXX:-g++}
printf '#include <cuda_runtime.h>\n#include <cuda_bf16.h>\nint main() { return 0; }\n' > "$dir/emulator.cpp"
if [ -z "$NO_CUDA" ] && "$cxx" -std=c++17 -I"$cuda/include" "$dir/emulator.cpp" -o "$dir/emulator" > /dev/null 2>&1; then
    echo "HAVE_CUDA_HEADERS := 1"
    echo "CUDA_CFLAGS := -isystem $cuda/include"
    if "$cxx" -ftrivial-auto-var-init=pattern "$dir/emulator.cpp" -I"$cuda/include" -o "$dir/emulator" > /dev/null 2>&1; then
        echo "EMU_CFLAGS := -ftrivial-auto-var-init=pattern"
    fi
    row emulator yes "the CUDA kernels on the CPU, for tests"
else
    row emulator no "tests of the CUDA kernels are skipped${NO_CUDA:+ (NO_CUDA)}; needs g++ and the CUDA headers in $cuda"
fi
if grep -qw avx2 /proc/cpuinfo 2> /dev/null && grep -qw fma /proc/cpuinfo; then echo "CPU_CFLAGS := -mavx2 -mfma"; fi

# nvcc, for every architecture the kernels are built for, linked by the C compiler with the static runtime.
nvcc=${NVCC:-$(command -v nvcc || echo "$cuda/bin/nvcc")}
case $(readlink -f "$(command -v "${cc%% *}")") in */ccache) nvcc="ccache ${nvcc#ccache }" ;; esac
arch="-gencode=arch=compute_80,code=sm_80 -gencode=arch=compute_90a,code=sm_90a -gencode=arch=compute_90,code=compute_90"
# A fifth of the size, for a moment of unpacking when a program starts.
if "${nvcc##* }" --help 2> /dev/null | grep -q -- '--compress-mode'; then arch="$arch --compress-mode=size"; fi
cat > "$dir/probe.cu" << 'END'
#include <cuda_bf16.h>
#include <cuda_runtime.h>
__global__ void probe(__nv_bfloat16 *x) { x[threadIdx.x] = __float2bfloat16(1.0f); }
extern "C" int probe_run(void) {
    int n;
    probe<<<1, 32>>>(nullptr);
    return cudaGetDeviceCount(&n) == cudaSuccess && n < 0;
}
END
if [ -n "$NO_CUDA" ]; then
    row CUDA no "(NO_CUDA)"
elif ! command -v "${nvcc##* }" > /dev/null 2>&1; then
    row CUDA no "no nvcc; everything runs on the CPU"
else
    lib=$($nvcc --dryrun "$dir/probe.cu" 2>&1 | grep -oE -- '-L[^ "]*' | grep -v stubs | head -n 1)
    libs="${lib:--L$cuda/lib64} -lcudart_static -ldl -lrt -lpthread"
    if $nvcc -std=c++17 $arch -Xcompiler -fno-exceptions,-fno-threadsafe-statics -c "$dir/probe.cu" -o "$dir/probe.o" > /dev/null 2>&1 &&
        try cuda 'int probe_run(void);
int main(void){return probe_run();}' "$dir/probe.o" $libs; then
        echo "HAVE_CUDA := 1"
        echo "NVCC := $nvcc"
        echo "CUDA_ARCH := $arch"
        echo "CUDA_LIBS := $libs"
        row CUDA yes "$($nvcc --version | sed -n 's/.*\(release [0-9.]*\).*/\1/p'): sm_80, sm_90a, and PTX for later ones"
    else
        row CUDA no "$nvcc cannot build for sm_80 and sm_90a (CUDA 12 or later can); everything runs on the CPU"
    fi
fi
{ echo "ehr.c: found on this machine"; printf '%s' "$rows"; } > "$build/detect.txt"
