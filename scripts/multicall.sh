#!/bin/bash
# multicall.sh OUT NAME=OBJECT... - what links several programs into one, told apart by the name it is called by: OUT/NAME.o
# is OBJECT with main() as main_NAME() and everything else of its own hidden; OUT/multicall.o has the main() that chooses.
# The kernels of eleven programs then lie in a bundle once (scripts/bundle.sh).
set -eu
out=$1
shift
mkdir -p "$out"
declarations="" rows=""
for pair in "$@"; do
    name=${pair%%=*} object=${pair#*=}
    objcopy --redefine-sym "main=main_${name//-/_}" --keep-global-symbol="main_${name//-/_}" "$object" "$out/$name.o"
    declarations+="int main_${name//-/_}(int, char **);"$'\n'
    rows+="    {\"$name\", main_${name//-/_}},"$'\n'
done
cat > "$out/multicall.c" << END
#include <stdio.h>
#include <string.h>
$declarations
static const struct {
    const char *name;
    int (*run)(int, char **);
} program[] = {
$rows};
enum { N = sizeof program / sizeof *program };

int main(int argc, char **argv) {
    const char *slash = argc ? strrchr(argv[0], '/') : NULL, *name = slash ? slash + 1 : argc ? argv[0] : "";
    for (int i = 0; i < N; i++)
        if (!strcmp(name, program[i].name)) return program[i].run(argc, argv);
    fprintf(stderr, "%s: this program goes by the name it is called by, one of:", name);
    for (int i = 0; i < N; i++) fprintf(stderr, " %s", program[i].name);
    fprintf(stderr, "\n");
    return 2;
}
END
${CC:-gcc} -std=c11 -O2 -Wall -c "$out/multicall.c" -o "$out/multicall.o"
