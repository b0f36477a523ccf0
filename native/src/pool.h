// Threads that wait for work: awake for a moment after each job, asleep when nothing comes.
#pragma once
#include <cstdint>

namespace chatglm {

// Runs work(part) for every part in 0..parts-1, on all threads, and returns when all are done. Parts are handed out one
// by one, so a thread that is held up takes fewer; what a part computes never depends on who computes it.
using Work = void (*)(void *context, int64_t part, int thread);
void parallel(int64_t parts, Work work, void *context);

// The same for a lambda. No std::function: the files of one instruction set must not emit code that the linker might
// share with the others.
template <class Function>
static inline void parallel(int64_t parts, Function function) {
    parallel(
        parts, [](void *context, int64_t part, int thread) { (*static_cast<Function *>(context))(part, thread); },
        &function);
}

int num_threads();
void set_num_threads(int threads);

// Memory of the calling job, kept for the next one: `slot` tells apart what lives at the same time.
float *scratch(int slot, int64_t floats);
float *thread_scratch(int thread, int slot, int64_t floats);

}  // namespace chatglm
