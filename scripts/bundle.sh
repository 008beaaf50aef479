#!/bin/bash
# bundle.sh BUILD [OUT] - gathers what was built into OUT (BUILD/bundle): the programs with every shared library they need, Open MPI's
# launcher, daemon and components, a C library for machines with an older one, the cluster recipes and the tests and
# measurements for a GPU.  Not in it: the NVIDIA driver, NCCL and cuBLAS.  The folder runs wherever it is copied, on x86-64
# Linux without Open MPI, HDF5 or a compiler: BUILD/bundle/bin/ehr-train, or `mpirun` beside it.
#
#   bin/       what people call: small scripts that start the program of the same name
#   libexec/   the programs        lib/   libraries, lib/openmpi, lib/pmix components, lib/libc the C library
#   env.sh     for `. env.sh`, where srun starts bin/ehr-train and no mpirun of the bundle does
set -eu
[ "${1:-}" != --help ] || { sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0"; exit 0; }
cd "$(dirname "$0")/.."
build=${1:-build}
out=${2:-$build/bundle}
fail() { echo "bundle: $1" >&2; exit 1; }
command -v patchelf > /dev/null || fail "no patchelf here: apt-get install patchelf"
[ "$(uname -m)" = x86_64 ] || fail "only x86-64 is known"
[ -x "$build/ehr" ] || fail "no $build/ehr, all programs in one: \`make bundle\` builds it"
rm -rf "$out"
mkdir -p "$out"/bin "$out"/libexec "$out"/lib/libc "$out"/scripts

# ---- programs ------------------------------------------------------------------------------------------------------------
# One file under several names, with the kernels in it once.
cp "$build/ehr" "$out/libexec/ehr"
programs=$("$build/ehr" 2>&1 | sed 's/.*one of: //') || true
for p in $programs; do ln -s ehr "$out/libexec/$p"; done
if mpirun=$(command -v mpirun) && ldd "$build/ehr" | grep -q libmpi; then
    cp "$(readlink -f "$mpirun")" "$out/libexec/mpirun"
    cp "$(readlink -f "$(command -v orted)")" "$out/libexec/orted"
fi

# ---- libraries -----------------------------------------------------------------------------------------------------------
# The C library's own parts belong together and stay out of lib/: the machine's are taken where they are new enough.
c_library='^(libc|libm|libdl|librt|libpthread|libresolv|libutil|libmvec|libanl|ld-linux-x86-64)\.so'
curl_stub=""
needed() { LD_LIBRARY_PATH=$curl_stub ldd "$@" 2> /dev/null | awk '$2 == "=>" && $3 ~ /^\// { print $3 } $1 ~ /^\/.*ld-linux/ { print $1 }' | sort -u; }
take() { # take FILE...: the libraries of programs or libraries
    local lib name
    for lib in $(needed "$@"); do
        name=$(basename "$lib")
        if [[ $name =~ $c_library ]]; then
            [ -e "$out/lib/libc/$name" ] || cp -L "$lib" "$out/lib/libc/"
        else
            [ -e "$out/lib/$name" ] || cp -L "$lib" "$out/lib/"
        fi
    done
}
# HDF5's driver for files on S3 asks for libcurl, with twenty more libraries behind it.  Nothing here opens such files: what
# it asks for is there by name and does nothing.
hdf5=$(needed "$build/ehr" | grep -m 1 libhdf5 || true)
if [ -n "$hdf5" ] && objdump -p "$hdf5" | grep -q 'NEEDED *libcurl.so.4'; then
    functions=$(objdump -T "$hdf5" | sed -n 's/.*UND.* \(curl_[a-z_]*\)$/\1/p')
    version=$(objdump -T "$hdf5" | sed -n 's/.*UND.*(\(CURL_[A-Z0-9_]*\)) curl_.*/\1/p' | head -n 1)
    curl_stub=$out/curl
    mkdir "$curl_stub"
    for f in $functions; do echo "void *$f(void) { return 0; }"; done > "$curl_stub/curl.c"
    echo "${version:-CURL} { global: *; };" > "$curl_stub/curl.map"
    ${CC:-gcc} -shared -fPIC "$curl_stub/curl.c" -o "$curl_stub/libcurl.so.4" -Wl,-soname,libcurl.so.4,--version-script,"$curl_stub/curl.map"
fi
take "$out"/libexec/*
for name in libresolv.so.2 libdl.so.2 librt.so.1 libpthread.so.0 libutil.so.1; do # what a driver or a name server asks for
    [ -e "$out/lib/libc/$name" ] || cp -L "$(dirname "$(needed "$build/ehr" | grep '/libc\.so')")/$name" "$out/lib/libc/"
done

# Open MPI opens its components while running.  Those that want libraries for networks and managers that the programs do
# not, and those for parallel files and OpenSHMEM, stay behind: between hosts there are TCP and NCCL.
components() { # components FROM TO
    local so lib
    mkdir -p "$2"
    for so in "$1"/*mca_*.so; do
        case $(basename "$so") in
        mca_io_* | mca_fs_* | mca_fbtl_* | mca_fcoll_* | mca_sharedfp_* | mca_memheap_* | mca_s?oll_* | mca_scoll_* | mca_spml_* | mca_sshmem_* | *_monitoring.so | mca_vprotocol_*) continue ;;
        esac
        for lib in $(needed "$so"); do
            lib=$(basename "$lib")
            [ -e "$out/lib/$lib" ] || [ -e "$out/lib/libc/$lib" ] || continue 2
        done
        cp "$so" "$2/"
    done
}
if [ -e "$out/libexec/mpirun" ]; then
    info=$(ompi_info --parsable --path pkglibdir --path pkgdatadir)
    from=$(sed -n 's/^path:pkglibdir://p' <<< "$info")
    take "$from/mca_pmix_ext3x.so" # the one that ranks are started with: its libraries are wanted
    components "$from" "$out/lib/openmpi"
    mkdir -p "$out/share"
    cp -r "$(sed -n 's/^path:pkgdatadir://p' <<< "$info")" "$out/share/openmpi"
    rm -rf "$out"/share/openmpi/*wrapper-data* "$out"/share/openmpi/amca-param-sets "$out"/share/openmpi/*.supp
    pmix=$(needed "$out/lib/openmpi/mca_pmix_ext3x.so" | grep libpmix | head -n 1 || true)
    if [ -n "$pmix" ]; then
        pmix=$(dirname "$(readlink -f "$pmix")")
        components "$pmix/pmix" "$out/lib/pmix"
        cp -r "$pmix/../share/pmix" "$out/share/pmix"
        rm -f "$out"/share/pmix/*wrapper* "$out"/share/pmix/*.supp
    fi
fi
[ -z "$curl_stub" ] || rm -r "$curl_stub"
for f in $(find "$out/libexec" -type f); do patchelf --set-rpath "\$ORIGIN/../lib" "$f"; done
for f in "$out"/lib/*.so*; do patchelf --set-rpath "\$ORIGIN" "$f"; done
for f in "$out"/lib/openmpi/*.so "$out"/lib/pmix/*.so; do [ ! -e "$f" ] || patchelf --set-rpath "\$ORIGIN/.." "$f"; done
strip --strip-unneeded $(find "$out/libexec" -type f) "$out"/lib/*.so* $(find "$out/lib/openmpi" "$out/lib/pmix" -name '*.so' 2> /dev/null) 2> /dev/null || true
# Whether the machine's C library has what programs and libraries ask for.  On a much older one this does not even start.
newest=$(find "$out/libexec" "$out/lib" -path "$out/lib/libc" -prune -o -type f -print0 | xargs -0 objdump -T 2> /dev/null |
    sed -n 's/.*[ (]GLIBC_2\.\([0-9]*\).*/\1/p' | sort -n | tail -n 1)
printf '#include <gnu/libc-version.h>\n#include <stdlib.h>\nint main(void) { return atoi(gnu_get_libc_version() + 2) < %s; }\n' "$newest" > "$out/probe.c"
${CC:-gcc} "$out/probe.c" -o "$out/libexec/probe"
rm "$out/probe.c"

# ---- how they start ---------------------------------------------------------------------------------------------------------
cat > "$out/env.sh" << 'END'
# env.sh - where Open MPI finds its parts in this folder; $root is the folder when another script reads this.
[ -n "${root:-}" ] || root=$(cd "$(dirname "${BASH_SOURCE:-$0}")" && pwd -P)
case :$PATH: in *:"$root/bin":*) ;; *) PATH=$root/bin:$PATH ;; esac
export PATH OPAL_PREFIX="$root" OPAL_LIBDIR="$root/lib" OPAL_PKGLIBDIR="$root/lib/openmpi" OPAL_PKGDATADIR="$root/share/openmpi" \
    OPAL_SYSCONFDIR="$root/etc" OPAL_BINDIR="$root/bin" OMPI_MCA_mca_base_component_path="$root/lib/openmpi" \
    PMIX_INSTALL_PREFIX="$root" PMIX_PKGLIBDIR="$root/lib/pmix" PMIX_PKGDATADIR="$root/share/pmix" \
    PMIX_MCA_mca_base_component_path="$root/lib/pmix"
# Where there is no way to another host, Open MPI must not look for one.
if [ -z "${OMPI_MCA_plm:-}${SLURM_JOB_ID:-}${OMPI_MCA_plm_rsh_agent:-}" ] && ! command -v ssh > /dev/null && ! command -v rsh > /dev/null; then
    export OMPI_MCA_plm=isolated
fi
END
cat > "$out/libexec/start" << 'END'
#!/bin/sh
# Starts ../libexec/NAME with this folder's libraries; with its C library as well where the machine's is too old
# (EHR_BUNDLE_LIBC=own: always, =host: never).
name=${0##*/}
self=$(readlink -f "$0" 2> /dev/null) || self=$0
root=$(cd "${self%/*}/.." && pwd -P) || exit 1
. "$root/env.sh"
if [ "$name" = mpirun ]; then set -- --prefix "$root" "$@"; fi
if [ -z "${EHR_BUNDLE_LIBC:-}" ]; then
    EHR_BUNDLE_LIBC=own
    "$root/libexec/probe" 2> /dev/null && EHR_BUNDLE_LIBC=host
    export EHR_BUNDLE_LIBC
fi
export EHR_PROGRAM="$root/bin/$name"
[ "$EHR_BUNDLE_LIBC" = host ] && exec "$root/libexec/$name" "$@"
exec "$root/lib/libc/ld-linux-x86-64.so.2" --argv0 "$0" \
    --library-path "$root/lib/libc:$root/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" "$root/libexec/$name" "$@"
END
chmod +x "$out/libexec/start"
for p in "$out"/libexec/*; do
    case $(basename "$p") in start | probe | ehr) ;; *) cp "$out/libexec/start" "$out/bin/$(basename "$p")" ;; esac
done
rm "$out/libexec/start"
cp -r scripts/cluster scripts/tasks "$out/scripts/"
mkdir -p "$out/tests"
cp -r tests/gpu tests/test_cuda_cli.sh tests/shell.sh "$out/tests/"
cp scripts/env.sh "$out/scripts/"
cp LICENSE "$out/"
# Whose libraries these are.
if command -v dpkg-query > /dev/null; then
    mkdir -p "$out/licenses"
    for f in $(needed "$build/ehr" "$out"/libexec/*) $(command -v mpirun || true); do
        package=$(dpkg-query -S "$(readlink -f "$f")" 2> /dev/null | head -n 1 | cut -d : -f 1)
        [ -e "$out/lib/$(basename "$f")" ] || [ "$(basename "$f")" = mpirun ] || continue
        [ -z "$package" ] || [ "$package" = libcurl4 ] || cp "/usr/share/doc/$package/copyright" "$out/licenses/$package" 2> /dev/null || true
    done
fi

echo "bundle: for machines with glibc 2.$newest or later, and with the one in lib/libc for older ones"
echo "bundle: $out, $(du -sm --apparent-size "$out" | cut -f 1) MB: $(cd "$out/bin" && echo *)"
