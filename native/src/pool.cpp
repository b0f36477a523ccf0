#include "pool.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>
#include <vector>

#ifndef _WIN32
#include <pthread.h>
#endif
#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#endif

namespace chatglm {
namespace {

// A decode step is some 150 jobs with microseconds between them. Sleeping in between would cost more than the gap;
// staying awake longer than this would take a core from whoever computes next.
constexpr int spins_before_sleep = 20000;
constexpr int spins_before_yield = 2000;

void pause_briefly(int spin) {
#if defined(__x86_64__) || defined(_M_X64)
    _mm_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
    // Where cores are fewer than threads, the one waited for needs this core.
    if (spin > spins_before_yield && spin % 256 == 0) std::this_thread::yield();
}

struct Buffer {
    float *data = nullptr;
    int64_t size = 0;

    Buffer() = default;
    Buffer(Buffer &&other) noexcept : data(other.data), size(other.size) {
        other.data = nullptr;
        other.size = 0;
    }
    Buffer(const Buffer &) = delete;
    ~Buffer() { std::free(data); }

    float *get(int64_t floats) {
        if (floats > size) {
            std::free(data);
            size = 0;  // before what may fail: the next call must not take the old size for memory there is
            const int64_t bytes = (floats * 4 + 4095) / 4096 * 4096;
            data = static_cast<float *>(std::aligned_alloc(4096, static_cast<size_t>(bytes)));
            if (data == nullptr) throw std::bad_alloc();
            size = bytes / 4;
        }
        return data;
    }
};

constexpr int num_slots = 12;

struct Buffers {
    std::vector<Buffer> slots = std::vector<Buffer>(num_slots);
};

class Pool {
public:
    explicit Pool(int threads) : buffers_(static_cast<size_t>(threads)) {
        workers_.reserve(static_cast<size_t>(threads));  // may fail, which it must not while threads are running
        try {
            for (int index = 1; index < threads; ++index) workers_.emplace_back([this, index] { serve(index); });
        } catch (const std::system_error &) {  // the system gives no more threads: those there are do the work
        } catch (const std::bad_alloc &) {     // or no memory for one
        }
    }

    ~Pool() {
        {
            std::lock_guard<std::mutex> lock(sleep_);
            ending_ = true;
        }
        wake_.notify_all();
        for (std::thread &worker : workers_) worker.join();
    }

    int size() const { return static_cast<int>(workers_.size()) + 1; }

    Buffers &buffers(int thread) { return buffers_[static_cast<size_t>(thread)]; }

    void run(int64_t parts, Work work, void *context) {
        if (workers_.empty() || parts <= 1) {
            for (int64_t part = 0; part < parts; ++part) work(context, part, 0);
            return;
        }
        work_ = work;
        context_ = context;
        parts_ = parts;
        next_.store(0, std::memory_order_relaxed);
        busy_.store(static_cast<int>(workers_.size()), std::memory_order_relaxed);
        failed_.store(false, std::memory_order_relaxed);
        {
            std::lock_guard<std::mutex> lock(sleep_);
            job_.fetch_add(1, std::memory_order_release);
        }
        if (sleeping_.load(std::memory_order_acquire) > 0) wake_.notify_all();
        take_parts(0);
        for (int spin = 0; busy_.load(std::memory_order_acquire) > 0; ++spin) pause_briefly(spin);
        if (failed_.load(std::memory_order_relaxed)) throw std::bad_alloc();
    }

private:
    // Memory can run out in any thread; the caller hears of it when all have stopped.
    void take_parts(int thread) noexcept {
        try {
            for (int64_t part; (part = next_.fetch_add(1, std::memory_order_relaxed)) < parts_;)
                work_(context_, part, thread);
        } catch (const std::bad_alloc &) {
            failed_.store(true, std::memory_order_relaxed);
        }
    }

    void serve(int thread) {
        for (uint64_t seen = 0;;) {
            if (!await(seen)) return;
            seen += 1;
            take_parts(thread);
            busy_.fetch_sub(1, std::memory_order_release);
        }
    }

    // Until a job after `seen` is there; false when the pool ends.
    bool await(uint64_t seen) {
        for (int spin = 0; spin < spins_before_sleep; ++spin) {
            if (job_.load(std::memory_order_acquire) != seen) return true;
            pause_briefly(spin);
        }
        std::unique_lock<std::mutex> lock(sleep_);
        sleeping_.fetch_add(1);
        wake_.wait(lock, [&] { return ending_ || job_.load() != seen; });
        sleeping_.fetch_sub(1);
        return !ending_;
    }

    std::vector<std::thread> workers_;
    std::vector<Buffers> buffers_;
    std::mutex sleep_;
    std::condition_variable wake_;
    std::atomic<int> sleeping_{0};
    alignas(64) std::atomic<uint64_t> job_{0};
    alignas(64) std::atomic<int64_t> next_{0};
    alignas(64) std::atomic<int> busy_{0};
    std::atomic<bool> failed_{false};
    Work work_ = nullptr;
    void *context_ = nullptr;
    int64_t parts_ = 0;
    bool ending_ = false;
};

Pool *pool = nullptr;
int wanted_threads = 0;

// After fork() only the calling thread exists. The child drops the pool, threads and all, and makes its own.
void forget_after_fork() { pool = nullptr; }

Pool &the_pool() {
    if (pool == nullptr) {
#ifndef _WIN32
        static const int registered = pthread_atfork(nullptr, nullptr, forget_after_fork);
        (void)registered;
#endif
        const int cores = static_cast<int>(std::thread::hardware_concurrency());
        pool = new Pool(wanted_threads > 0 ? wanted_threads : std::max(1, cores));
    }
    return *pool;
}

}  // namespace

void parallel(int64_t parts, Work work, void *context) { the_pool().run(parts, work, context); }

int num_threads() { return the_pool().size(); }

void set_num_threads(int threads) {
    if (pool != nullptr && pool->size() == threads) return;
    wanted_threads = threads;
    delete pool;
    pool = nullptr;
}

float *scratch(int slot, int64_t floats) { return thread_scratch(0, slot, floats); }

float *thread_scratch(int thread, int slot, int64_t floats) {
    return the_pool().buffers(thread).slots[static_cast<size_t>(slot)].get(floats);
}

}  // namespace chatglm
