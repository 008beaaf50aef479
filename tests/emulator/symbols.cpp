/* symbols.cpp - finds the __shared__ variables of a kernel.
 *
 * In the emulated program they are local statics of the kernel's function, so the executable's symbol table names them
 * after it: _Z<kernel>... and _ZZ<kernel>...E<variable>.  Knowing address and size, the scheduler can poison them
 * before each block, and the runtime can tell how much static shared memory a kernel takes. */
#include "tests/emulator/scheduler.h"

#include <cstdlib>
#include <cstring>
#include <cxxabi.h>
#include <elf.h>
#include <fcntl.h>
#include <link.h>
#include <map>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

namespace emu {

namespace {

int first_object(struct dl_phdr_info *info, size_t, void *base) {
    *static_cast<uintptr_t *>(base) = info->dlpi_addr; /* the executable comes first */
    return 1;
}

struct Table {
    std::map<const void *, std::string> functions;      /* address -> name without its _Z */
    std::multimap<std::string, SharedVariable> statics; /* name without its _ZZ */

    Table() {
        uintptr_t base = 0;
        dl_iterate_phdr(first_object, &base);
        int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
        struct stat st;
        if (fd < 0 || fstat(fd, &st)) return;
        void *map = mmap(nullptr, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        close(fd);
        if (map == MAP_FAILED) return;
        read(static_cast<const char *>(map), base);
        munmap(map, (size_t)st.st_size);
    }

    void read(const char *file, uintptr_t base) {
        auto *header = reinterpret_cast<const ElfW(Ehdr) *>(file);
        auto *sections = reinterpret_cast<const ElfW(Shdr) *>(file + header->e_shoff);
        for (int i = 0; i < header->e_shnum; i++) {
            if (sections[i].sh_type != SHT_SYMTAB) continue;
            auto *symbols = reinterpret_cast<const ElfW(Sym) *>(file + sections[i].sh_offset);
            const char *names = file + sections[sections[i].sh_link].sh_offset;
            for (size_t k = 0; k < sections[i].sh_size / sizeof *symbols; k++) {
                const ElfW(Sym) &symbol = symbols[k];
                const char *name = names + symbol.st_name;
                int type = symbol.st_info & 15;
                void *address = reinterpret_cast<void *>(base + symbol.st_value);
                if (type == STT_FUNC && !strncmp(name, "_Z", 2)) functions.emplace(address, name + 2);
                else if (type == STT_OBJECT && !strncmp(name, "_ZZ", 3) && symbol.st_shndx < header->e_shnum &&
                         sections[symbol.st_shndx].sh_type == SHT_NOBITS) /* no initial value, as CUDA demands */
                    statics.emplace(name + 3, SharedVariable{address, symbol.st_size, ""});
            }
        }
    }
};

/* "3red" or "3red_0" -> "red" */
std::string variable_name(const std::string &mangled) {
    size_t digits = mangled.find_first_not_of("0123456789");
    if (!digits || digits == std::string::npos) return mangled;
    return mangled.substr(digits, (size_t)atoi(mangled.c_str()));
}

/* "void rows<4>(float*, int)" -> "rows<4>" */
std::string short_name(const std::string &mangled) {
    int status;
    char *text = abi::__cxa_demangle(("_Z" + mangled).c_str(), nullptr, nullptr, &status);
    std::string name = text ? text : mangled;
    free(text);
    size_t end = name.rfind(')'), depth = 0;
    for (; end != std::string::npos && end > 0; end--) { /* back over the parameters */
        depth += name[end] == ')';
        depth -= name[end] == '(';
        if (!depth) break;
    }
    if (end != std::string::npos) name.resize(end);
    size_t start = name.compare(0, 5, "void ") ? 0 : 5;
    return name.substr(start);
}

} // namespace

const KernelSymbols &kernel_symbols(const void *function) {
    static Table table;
    static std::map<const void *, KernelSymbols> known;
    auto found = known.find(function);
    if (found != known.end()) return found->second;
    KernelSymbols &k = known[function];
    auto name = table.functions.find(function);
    if (name == table.functions.end()) return k;
    k.name = short_name(name->second);
    std::string prefix = name->second + "E";
    for (auto v = table.statics.lower_bound(prefix); v != table.statics.end(); ++v) {
        if (v->first.compare(0, prefix.size(), prefix)) break;
        k.shared.push_back(v->second);
        k.shared.back().name = variable_name(v->first.substr(prefix.size()));
        k.shared_bytes += (v->second.size + 15) / 16 * 16;
    }
    return k;
}

} // namespace emu
