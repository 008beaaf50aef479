/* fiber.cpp - stacks, and going from one to another. */
#include "tests/emulator/machine.h"

#include <cstdio>
#include <cstdlib>
#include <pthread.h>
#include <sys/mman.h>
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#endif
#ifndef __x86_64__
#include <ucontext.h>
#endif

namespace emu {

struct Fiber {
    void *saved; /* stack pointer */
    Fiber *next_free;
    char *stack;
    size_t bytes, color;
    void *fake_stack; /* AddressSanitizer's */
#ifndef __x86_64__
    ucontext_t context;
#endif
};

const char *fiber_stack_low;

namespace {

Fiber main_fiber, *running, *free_fibers;
std::vector<Fiber *> fibers;
void (*entry)();

void start() {
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr);
#endif
    entry();
}

void reset(Fiber *f) {
    ASAN_UNPOISON_MEMORY_REGION(f->stack, STACK_BYTES);
    f->fake_stack = nullptr;
#ifdef __x86_64__
    /* Stacks start at different offsets, or all of them would share a few sets of the cache. */
    void **top = reinterpret_cast<void **>(f->stack + STACK_BYTES - 64 - f->color);
    *--top = nullptr;
    *--top = reinterpret_cast<void *>(start);
    for (int i = 0; i < 6; i++) *--top = nullptr;
    f->saved = top;
#else
    getcontext(&f->context);
    f->context.uc_stack.ss_sp = f->stack;
    f->context.uc_stack.ss_size = STACK_BYTES;
    f->context.uc_link = nullptr;
    makecontext(&f->context, start, 0);
#endif
}

#ifdef __x86_64__
extern "C" void emu_switch(void **save, void *load);
asm(".text\n.globl emu_switch\n.hidden emu_switch\n.type emu_switch,@function\nemu_switch:\n"
    "  push %rbp\n  push %rbx\n  push %r12\n  push %r13\n  push %r14\n  push %r15\n"
    "  mov %rsp,(%rdi)\n  mov %rsi,%rsp\n"
    "  pop %r15\n  pop %r14\n  pop %r13\n  pop %r12\n  pop %rbx\n  pop %rbp\n  ret\n.size emu_switch,.-emu_switch\n");
#endif

} // namespace

Fiber *fiber_get() {
    if (Fiber *f = free_fibers) {
        free_fibers = f->next_free;
        return f;
    }
    Fiber *f = new Fiber();
    void *p = mmap(nullptr, STACK_BYTES + GUARD_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED || mprotect(p, GUARD_BYTES, PROT_NONE)) {
        fprintf(stderr, "emulator: no memory for the stack of a thread\n");
        abort();
    }
    f->stack = static_cast<char *>(p) + GUARD_BYTES;
    f->bytes = STACK_BYTES;
    f->color = fibers.size() * 320 % 16384;
    fibers.push_back(f);
    reset(f);
    return f;
}

void fiber_put(Fiber *f) {
    f->next_free = free_fibers;
    free_fibers = f;
}

Fiber *fiber_running() { return running; }

const char *fiber_stack(const Fiber *f) { return f->stack; }

void fiber_switch(Fiber *to) {
    Fiber *from = running;
    running = to;
    fiber_stack_low = to->stack;
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_start_switch_fiber(&from->fake_stack, to->stack, to->bytes);
#endif
#ifdef __x86_64__
    emu_switch(&from->saved, to->saved);
#else
    swapcontext(&from->context, &to->context);
#endif
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_finish_switch_fiber(from->fake_stack, nullptr, nullptr);
#endif
}

void fiber_main(void (*function)(), Fiber *first) {
    static thread_local void *stack;
    static thread_local size_t bytes;
    if (!stack) {
        pthread_attr_t attr;
        pthread_getattr_np(pthread_self(), &attr);
        pthread_attr_getstack(&attr, &stack, &bytes);
        pthread_attr_destroy(&attr);
    }
    main_fiber.stack = static_cast<char *>(stack);
    main_fiber.bytes = bytes;
    entry = function;
    running = &main_fiber;
    fiber_switch(first);
}

void fiber_return() { fiber_switch(&main_fiber); }

void fibers_reset() {
    free_fibers = nullptr;
    for (Fiber *f : fibers) {
        reset(f);
        fiber_put(f);
    }
}

} // namespace emu
