/* signals.cpp - a bad address, told apart: a kernel's, which becomes the GPU's error as it would there, or the host's
 * that reached for GPU memory, which ends the program as ever, but says so first.  Under AddressSanitizer its own
 * report stands. */
#include "tests/emulator/runtime.h"

#include <csignal>
#include <cstdio>
#include <unistd.h>

namespace emu {

namespace {

#ifdef __SANITIZE_ADDRESS__
constexpr bool SANITIZED = true; /* its report of a kernel's address says more */
#else
constexpr bool SANITIZED = false;
#endif

struct sigaction before;

void on_bad_address(int signal, siginfo_t *info, void *context) {
    if (!SANITIZED && kernel_runs()) kernel_address_fault(info->si_addr);
    if (!kernel_runs() && memory_is_device(info->si_addr)) {
        char text[160];
        int n = snprintf(text, sizeof text,
                         "emulator: the host reaches for GPU memory at %p; copy it with device_upload/download\n",
                         info->si_addr);
        if (write(2, text, (size_t)n) < 0) return;
    }
    sigaction(signal, &before, nullptr);
    if (before.sa_flags & SA_SIGINFO) before.sa_sigaction(signal, info, context);
    else if (before.sa_handler != SIG_DFL && before.sa_handler != SIG_IGN) before.sa_handler(signal);
}

} // namespace

/* Test frameworks set handlers of their own before each test: ours goes on top again whenever the device is used. */
void watch_addresses() {
    static thread_local char *stack;
    if (!stack) {
        stack = new char[64 << 10];
        stack_t s = {};
        s.ss_sp = stack;
        s.ss_size = 64 << 10;
        sigaltstack(&s, nullptr);
    }
    struct sigaction now;
    sigaction(SIGSEGV, nullptr, &now);
    if ((now.sa_flags & SA_SIGINFO) && now.sa_sigaction == on_bad_address) return;
    before = now;
    struct sigaction ours = {};
    ours.sa_sigaction = on_bad_address;
    ours.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    sigaction(SIGSEGV, &ours, nullptr);
}

} // namespace emu
