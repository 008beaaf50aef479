#!/bin/bash
# test_bundle.sh BUILD - the bundle (scripts/bundle.sh) in a root folder of its own, with nothing but a shell beside it and
# no network: from synthetic records to a model and futures, 2 ranks, an Open MPI that has its help texts, with the
# machine's C library and with the bundle's.
. "$(dirname "$0")/shell.sh"
if ! command -v patchelf > /dev/null; then
    skip_all "the bundle" "no patchelf here"
fi
if ! { unshare --mount --net --pid --fork true && ip -V; } > "$work/log" 2>&1; then
    skip_all "the bundle" "no root folders or networks of its own here ($(tail -n 1 "$work/log"))"
fi
root=$work/root
mkdir -p "$root"/{bin,tmp,proc,sys,dev,lib,lib64,opt}
bash scripts/bundle.sh "$build" "$root/opt/ehr" > "$work/bundle.log" 2>&1
verdict $? "gather" "$work/bundle.log"
[ $failed = 0 ] || exit 1
tail -n 1 "$work/bundle.log" | sed 's/^/    /'
mb=$(du -sm --apparent-size "$root/opt/ehr" | cut -f 1)
[ "$mb" -le 40 ]
verdict $? "at most 40 MB ($mb)"

# A shell, and the C library that a machine would have.
cp /bin/dash "$root/bin/sh"
for lib in $(ldd /bin/dash | grep -oE '/[^ ]*\.so[^ ]*') $(ldconfig -p | grep -oE '/[^ ]*/lib(m|resolv)\.so\.[0-9]+$'); do
    mkdir -p "$root$(dirname "$lib")"
    cp -L "$lib" "$root$lib"
done
inside() { # inside COMMAND...: in the root folder, with a network that leads nowhere
    unshare --mount --net --pid --fork bash -c '
        ip link set lo up
        mount -t proc proc "$0/proc" && mount --rbind /dev "$0/dev" && mount --rbind /sys "$0/sys" || exit 1
        exec env -i PATH=/bin HOME=/tmp TMPDIR=/tmp OMP_NUM_THREADS=1 EHR_BUNDLE_LIBC="$EHR_BUNDLE_LIBC" ASAN_OPTIONS=detect_leaks=0 \
            OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1 \
            OMPI_MCA_mpi_yield_when_idle=1 OMPI_MCA_odls_base_sigkill_timeout=1 OMPI_MCA_hwloc_base_binding_policy=none \
            timeout 300 /usr/sbin/chroot "$0" /bin/sh -c "cd /tmp && $*"' "$root" "$@"
}
bin=/opt/ehr/bin
small="--layers 1 --d-model 64 --heads 1 --kv-heads 1 --d-ff 128 --seq-len 64 --batch 4 --steps 4 --eval-tokens 256"
for libc in host own; do
    export EHR_BUNDLE_LIBC=$libc
    words=$([ $libc = own ] && echo ", with the C library of the bundle")
    inside "$bin/ehr-data synth --patients 60 --risk-samples 2 --out events-$libc && $bin/ehr-data tokenize events-$libc/events.h5 --out data-$libc" > "$work/log" 2>&1
    verdict $? "records and a dataset$words" "$work/log"
    inside "$bin/ehr-train --data data-$libc $small --device auto --out one-$libc" > "$work/log" 2>&1 && [ -e "$root/tmp/one-$libc/step-4/model.safetensors" ]
    verdict $? "train$words" "$work/log"
    inside "$bin/ehr-infer generate one-$libc --data data-$libc --samples 2 --max-tokens 8" > "$work/log" 2>&1 && grep -q 'simulated future' "$work/log"
    verdict $? "simulate$words" "$work/log"
    if [ -e "$root$bin/mpirun" ]; then
        inside "$bin/mpirun -np 2 $bin/ehr-train --data data-$libc $small --out two-$libc" > "$work/log" 2>&1 &&
            [ -e "$root/tmp/two-$libc/step-4/model.safetensors" ] && grep -q 'ranks   2 .*transport mpi' "$work/log"
        verdict $? "2 ranks$words" "$work/log"
    else
        echo "skip - 2 ranks$words: built without MPI"
    fi
    inside "$bin/ehr-train --data data-$libc $small --device cuda --out none" > "$work/log" 2>&1
    [ $? = 1 ] && grep -qE 'no NVIDIA driver|no CUDA kernels' "$work/log"
    verdict $? "no GPU: said politely$words" "$work/log"
done
diff -r "$root/tmp/data-host" "$root/tmp/data-own" > "$work/log" 2>&1 && cmp "$root/tmp/one-host/step-4/model.safetensors" "$root/tmp/one-own/step-4/model.safetensors" >> "$work/log" 2>&1
verdict $? "the same bytes with both C libraries" "$work/log"
if [ -e "$root$bin/mpirun" ]; then
    inside "$bin/mpirun -np 2 /bin/no-such-program" > "$work/log" 2>&1
    [ $? != 0 ] && grep -q 'unable to' "$work/log" && ! grep -q 'help-file\|couldn.t open the help file' "$work/log"
    verdict $? "Open MPI has its help texts" "$work/log"
    ( unset EHR_BUNDLE_LIBC; inside "$bin/mpirun -np 2 $bin/ehr-train --data data-host $small --out third" ) > "$work/log" 2>&1 &&
        diff -r "$root/tmp/two-host/step-4" "$root/tmp/third/step-4" >> "$work/log" 2>&1
    verdict $? "2 ranks again: the C library chosen by itself, the same bytes" "$work/log"
fi
exit $failed
