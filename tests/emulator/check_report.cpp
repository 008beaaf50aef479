/* check_report.cpp - the checker's words: places in the source, names of memory, what happened. */
#include "tests/emulator/history.h"
#include "tests/emulator/runtime.h"

#include <cstdio>
#include <cstring>
#include <link.h>
#include <map>
#include <unistd.h>

namespace emu {

const char *image_low, *image_high;

namespace {

constexpr uint32_t IS_SITE = 0x80000000u;
std::vector<Site> sites;

int image_range(struct dl_phdr_info *info, size_t, void *) {
    image_low = image_high = reinterpret_cast<const char *>(info->dlpi_addr);
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) &part = info->dlpi_phdr[i];
        if (part.p_type == PT_LOAD) image_high = std::max(image_high, image_low + part.p_vaddr + part.p_memsz);
    }
    return 1; /* the executable comes first */
}
const int image_known = dl_iterate_phdr(image_range, nullptr);

const char *verb(Access what, bool past) {
    if (is_read(what)) return past ? "read" : "reads";
    if (what == WRITE) return past ? "wrote" : "writes";
    return past ? "changed (atomically)" : "changes (atomically)";
}

/* "./kernels/cuda/rope.cu:12 (discriminator 3)" -> "kernels/cuda/rope.cu:12" */
std::string tidy(std::string text) {
    text = text.substr(0, text.find(" (disc"));
    size_t root = text.find("/kernels/cuda/");
    if (root != std::string::npos) return text.substr(root + 1);
    return text.compare(0, 2, "./") ? text : text.substr(2);
}

} // namespace

uint32_t place_of(Site site) {
    static std::map<std::pair<const char *, int>, uint32_t> numbers;
    static Site last;
    static uint32_t last_number;
    if (last.file == site.file && last.line == site.line) return last_number;
    auto added = numbers.emplace(std::make_pair(site.file, site.line), (uint32_t)sites.size());
    if (added.second) sites.push_back(site);
    last = site;
    return last_number = added.first->second | IS_SITE;
}

/* Of functions inlined at an instruction, the emulator's own are left out. */
std::string place_name(uint32_t place) {
    if (place & IS_SITE)
        return std::string(sites[place & ~IS_SITE].file) + ":" + std::to_string(sites[place & ~IS_SITE].line);
    char exe[4096], command[4300], line[1024];
    ssize_t n = readlink("/proc/self/exe", exe, sizeof exe - 1);
    exe[n > 0 ? n : 0] = 0;
    snprintf(command, sizeof command, "addr2line -i -e '%s' 0x%x 2>/dev/null", exe, place - 1);
    std::string best;
    if (FILE *f = popen(command, "r")) {
        while (fgets(line, sizeof line, f)) {
            std::string text(line, strcspn(line, "\n"));
            bool ours = text.find("tests/emulator/") != std::string::npos && text.find(".h:") != std::string::npos;
            if (best.empty() && !ours && text[0] != '?') best = tidy(text);
        }
        pclose(f);
    }
    snprintf(line, sizeof line, "+0x%x", place);
    return best.empty() ? line : best;
}

std::string thread_name(unsigned linear) {
    const Task &t = machine.tasks[linear];
    std::string name = "thread " + coordinates(t.index);
    return machine.n_blocks > 1 ? name + " of block " + coordinates(t.block->index) : name;
}

std::string memory_name(const char *p) {
    std::string shared = shared_name(p);
    if (!shared.empty()) return shared;
    const Allocation *a = memory_find(p, 0);
    if (!a) return "memory";
    return "byte " + std::to_string(p - reinterpret_cast<const char *>(a->address)) + " of an allocation of " +
           std::to_string(a->bytes);
}

void race(const char *p, const Task *t, Access what, uint32_t place, const std::string &other, Access before,
          uint32_t before_place) {
    stop_with(heading() + ": race for " + memory_name(p) + ": " + thread_name(t->linear) + " " + verb(what, false) +
              " at " + place_name(place) + " what " + other + " " + verb(before, true) + " at " +
              place_name(before_place) + ", and nothing orders the two");
}

void bad_access(const Task *t, const void *p, size_t bytes, Access what, uint32_t place, const std::string &why) {
    char text[100];
    snprintf(text, sizeof text, ": %s %zu bytes at %p: ", verb(what, false), bytes, p);
    stop_with(heading() + ", " + thread_name(t->linear) + ", " + place_name(place) + text + why,
              cudaErrorIllegalAddress);
}

} // namespace emu
