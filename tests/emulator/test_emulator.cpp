/* test_emulator.cpp - does the emulator catch what it is for?  Every planted bug is caught under at least one schedule
 * of a short list (those that need no luck: under each; where the kernels' accesses are checked, races, too), and its
 * right twin passes under all.  Each run is a process of its own, since some end it. */
#include "tests/emulator/emulator.h"
#include "tests/emulator/planted.h"

#include <csetjmp>
#include <csignal>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <set>
#include <string>
#include <sys/wait.h>
#include <unistd.h>
extern "C" {
#include <cmocka.h>
}

namespace {

const struct {
    const char *name;
    EmuSchedule schedule;
    uint64_t seed;
} schedules[] = {
    {"forward", SCHEDULE_FORWARD, 1}, {"reverse", SCHEDULE_REVERSE, 1},     {"random:1", SCHEDULE_RANDOM, 1},
    {"random:2", SCHEDULE_RANDOM, 2}, {"priority:1", SCHEDULE_PRIORITY, 1}, {"priority:2", SCHEDULE_PRIORITY, 2},
};

struct Outcome {
    int code; /* the run's answer; 3 = a fault was found; 4 = the process was ended */
    std::string messages;
};

template <class F> Outcome run(EmuSchedule schedule, uint64_t seed, F function) {
    int out[2];
    assert_int_equal(pipe(out), 0);
    fflush(nullptr);
    pid_t child = fork();
    if (!child) {
        dup2(out[1], 2);
        close(out[0]);
        signal(SIGSEGV, SIG_DFL); /* cmocka's handler would go on with the next test */
        emu_set_schedule(schedule, seed);
        int code = function();
        if (emu_take_faults(nullptr, 0)) code = 3;
        _exit(code);
    }
    close(out[1]);
    Outcome o = {0, ""};
    char text[4096];
    for (ssize_t n; (n = read(out[0], text, sizeof text)) > 0;) o.messages.append(text, (size_t)n);
    close(out[0]);
    int status;
    waitpid(child, &status, 0);
    o.code = WIFEXITED(status) && WEXITSTATUS(status) <= 3 ? WEXITSTATUS(status) : 4;
    if (o.messages.find("AddressSanitizer") != std::string::npos) o.code = 4;
    return o;
}

/* message: words that may stand in the output, separated by |. */
bool says(const Outcome &o, const char *message) {
    std::string all = message;
    for (size_t from = 0; from <= all.size();) {
        size_t to = all.find('|', from);
        if (to == std::string::npos) to = all.size();
        if (o.messages.find(all.substr(from, to - from)) != std::string::npos) return true;
        from = to + 1;
    }
    return false;
}

bool is_caught(const Planted &p, const Outcome &o) {
    switch (p.caught) {
    case WRONG_RESULT: return o.code == 1 || (o.code == 3 && *p.message && says(o, p.message));
    case CHECKED_FAULT:
    case FAULT: return o.code >= 3 && says(o, p.message);
    case RUNTIME_ERROR: return o.code == 2 && says(o, p.message);
    }
    return false;
}

void check_planted(void **state) {
    const Planted &p = *static_cast<const Planted *>(*state);
    std::string caught, missed;
    if (p.caught == CHECKED_FAULT && !emu_checks_accesses()) skip();
    static std::set<const void *> twins; /* that passed under all */
    for (auto &s : schedules) {
        Outcome right = {0, ""};
        if (!p.twin || !twins.count(p.twin)) right = run(s.schedule, s.seed, [&] { return p.run(false); });
        if (right.code)
            fail_msg("without the bug, schedule %s ends with %d: %s", s.name, right.code, right.messages.c_str());
        Outcome wrong = run(s.schedule, s.seed, [&] { return p.run(true); });
        (is_caught(p, wrong) ? caught : missed) += std::string(" ") + s.name;
        bool luck = p.caught == WRONG_RESULT && !(emu_checks_accesses() && *p.message);
        if (!is_caught(p, wrong) && !luck)
            fail_msg("schedule %s ends with %d, expected '%s': %s", s.name, wrong.code, p.message,
                     wrong.messages.c_str());
    }
    twins.insert(p.twin);
    print_message("caught by:%s%s%s\n", caught.c_str(), missed.empty() ? "" : "; not by:", missed.c_str());
    if (caught.empty()) fail_msg("no schedule catches it");
}

void check_right(void **state) {
    const Instruction &p = *static_cast<const Instruction *>(*state);
    for (auto &s : schedules) {
        Outcome o = run(s.schedule, s.seed, p.run);
        if (o.code) fail_msg("schedule %s ends with %d: %s", s.name, o.code, o.messages.c_str());
    }
}

} // namespace

int main() {
    CMUnitTest tests[200];
    static std::string names[200];
    size_t n = 0;
    auto add = [&](const char *name, CMUnitTestFunction function, const void *state) {
        names[n] = name;
        for (char &c : names[n])
            if (c == ' ') c = '_';
        tests[n] = CMUnitTest{names[n].c_str(), function, nullptr, nullptr, const_cast<void *>(state)};
        n++;
    };
    for (int i = 0; i < n_instructions; i++) add(instructions[i].name, check_right, &instructions[i]);
    for (int i = 0; i < n_hopper_instructions; i++)
        add(hopper_instructions[i].name, check_right, &hopper_instructions[i]);
    for (int i = 0; i < n_runtime_functions; i++) add(runtime_functions[i].name, check_right, &runtime_functions[i]);
    for (int i = 0; i < n_planted_kernels; i++) add(planted_kernels[i].name, check_planted, &planted_kernels[i]);
    for (int i = 0; i < n_planted_hopper; i++) add(planted_hopper[i].name, check_planted, &planted_hopper[i]);
    for (int i = 0; i < n_planted_cluster; i++) add(planted_cluster[i].name, check_planted, &planted_cluster[i]);
    for (int i = 0; i < n_planted_host; i++) add(planted_host[i].name, check_planted, &planted_host[i]);
    return _cmocka_run_group_tests("emulator", tests, n, nullptr, nullptr);
}
