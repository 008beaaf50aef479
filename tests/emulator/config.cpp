/* config.cpp - the emulator's settings, and the account of what it found. */
#include "tests/emulator/scheduler.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <unistd.h>

namespace {

EmuConfig config;
bool configured;
int faults;
std::string last_fault;

[[noreturn]] void refuse(const char *item) {
    fprintf(stderr, "emulator: EHR_EMULATE: cannot read '%s' (see tests/emulator/emulator.h)\n", item);
    exit(3);
}

void set_schedule(const char *value, const char *item) {
    static const char *const names[] = {"forward", "reverse", "random", "priority"};
    size_t n = strcspn(value, ":");
    for (int i = 0; i < 4; i++)
        if (n == strlen(names[i]) && !strncmp(value, names[i], n)) {
            config.schedule = (EmuSchedule)i;
            if (value[n]) config.seed = strtoull(value + n + 1, nullptr, 0);
            return;
        }
    refuse(item);
}

void set(const char *item) {
    const char *eq = strchr(item, '=');
    if (!eq) refuse(item);
    std::string key(item, eq), value(eq + 1);
    char *end;
    unsigned long long number = strtoull(value.c_str(), &end, 0);
    if (key == "schedule") {
        set_schedule(value.c_str(), item);
    } else if (key == "driver") {
        if (value == "ok") config.driver = DRIVER_OK;
        else if (value == "old") config.driver = DRIVER_OLD;
        else if (value == "none") config.driver = DRIVER_NONE;
        else refuse(item);
    } else if (end == value.c_str()) {
        refuse(item);
    } else if (key == "devices") {
        config.devices = (int)number;
    } else if (key == "cc") {
        config.compute_capability = (int)number;
    } else if (key == "sms") {
        config.sm_count = (int)number;
    } else if (key == "memory") {
        int shift = *end == 'K' ? 10 : *end == 'M' ? 20 : *end == 'G' ? 30 : 0;
        config.memory = (size_t)number << shift;
    } else {
        refuse(item);
    }
}

void at_exit() {
    if (!faults) return;
    fprintf(stderr, "emulator: %d faults were found and nobody asked for them; the last: %s\n", faults,
            last_fault.c_str());
    fflush(nullptr);
    _exit(3);
}

} // namespace

EmuConfig *emu_config(void) {
    if (configured) return &config;
    configured = true;
    config = {SCHEDULE_FORWARD, 1, 1, 80, 4, DRIVER_OK, (size_t)1 << 30};
    atexit(at_exit);
    std::string text = getenv("EHR_EMULATE") ? getenv("EHR_EMULATE") : "";
    for (size_t from = 0; from < text.size();) {
        size_t to = text.find(',', from);
        if (to == std::string::npos) to = text.size();
        if (to > from) set(text.substr(from, to - from).c_str());
        from = to + 1;
    }
    return &config;
}

void emu_set_schedule(EmuSchedule schedule, uint64_t seed) {
    emu_config()->schedule = schedule;
    config.seed = seed;
}

void emu_set_multiprocessors(int count) {
    emu_config()->sm_count = count;
}

int emu_take_faults(char *text, size_t text_size) {
    if (text_size) snprintf(text, text_size, "%s", last_fault.c_str());
    int n = faults;
    if (n) emu::device_mended();
    faults = 0;
    last_fault.clear();
    return n;
}

void emu::report(const std::string &text) {
    emu_config();
    faults++;
    last_fault = text;
    fprintf(stderr, "emulator: %s\n", text.c_str());
}
