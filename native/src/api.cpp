// The C interface: picks the instruction set, lets callers take turns, turns exceptions into a number.
#include <string.h>

#include <atomic>
#include <mutex>
#include <new>

#ifndef _WIN32
#include <pthread.h>
#endif

#include "kernels.h"
#include "pool.h"
#include "rounding.h"

namespace {

struct Level {
    const chatglm::Kernels *kernels;
    bool (*available)();
};

bool always() { return true; }

#if defined(__x86_64__)
bool has_avx2() {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
}
#if !defined(CHATGLM_WITHOUT_AVX512_VNNI) || defined(CHATGLM_AVX_VNNI_IS_EVEX)
bool has_avx512_vnni() {
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vnni");
}
#endif
#if !defined(CHATGLM_WITHOUT_AVX_VNNI)
bool has_avx_vnni() {
#if defined(CHATGLM_AVX_VNNI_IS_EVEX)  // an older compiler: the same instruction in its AVX-512 encoding
    return has_avx512_vnni();
#else
    return has_avx2() && __builtin_cpu_supports("avxvnni");
#endif
}
#endif
// The build leaves out what the compiler does not know.
const Level levels[] = {
#if !defined(CHATGLM_WITHOUT_AVX512_VNNI)
    {&chatglm::kernels_avx512_vnni, has_avx512_vnni},
#endif
#if !defined(CHATGLM_WITHOUT_AVX_VNNI)
    {&chatglm::kernels_avx_vnni, has_avx_vnni},
#endif
#if !defined(CHATGLM_WITHOUT_AVX2)
    {&chatglm::kernels_avx2, has_avx2},
#endif
    {&chatglm::kernels_portable, always},
};
#elif defined(__aarch64__)
#if defined(__linux__)
#include <sys/auxv.h>
bool has_dot_product() { return (getauxval(AT_HWCAP) & (1UL << 20)) != 0; }  // HWCAP_ASIMDDP
#else
bool has_dot_product() { return true; }  // every 64-bit ARM that runs macOS has it
#endif
const Level levels[] = {
#if !defined(CHATGLM_WITHOUT_NEON_DOTPROD)
    {&chatglm::kernels_neon_dotprod, has_dot_product},
#endif
    {&chatglm::kernels_portable, always},
};
#else
const Level levels[] = {{&chatglm::kernels_portable, always}};
#endif

constexpr int32_t num_levels = static_cast<int32_t>(sizeof(levels) / sizeof(levels[0]));

int32_t best_level() {
    int32_t index = 0;
    while (!levels[index].available()) ++index;
    return index;
}

int32_t current = -1;
std::mutex turn;

#ifndef _WIN32
// A child must not inherit the lock from a thread that it does not have.
const int registered = pthread_atfork([] { turn.lock(); }, [] { turn.unlock(); }, [] { turn.unlock(); });
#endif

const chatglm::Kernels &kernels() {
    if (current < 0) current = best_level();
    return *levels[current].kernels;
}

// No exception leaves the library: also the first call for threads makes them, for which memory may be short.
template <class Function>
int32_t guarded(Function function) {
    std::lock_guard<std::mutex> lock(turn);
    try {
        function(kernels());
        return 0;
    } catch (const std::bad_alloc &) {
        return -1;
    }
}

}  // namespace

extern "C" {

int32_t chatglm_abi(void) { return CHATGLM_ABI; }

int64_t chatglm_sizeof(const char *structure) {
    if (strcmp(structure, "weight") == 0) return sizeof(chatglm_weight);
    if (strcmp(structure, "cache") == 0) return sizeof(chatglm_cache);
    if (strcmp(structure, "batch") == 0) return sizeof(chatglm_batch);
    if (strcmp(structure, "layer") == 0) return sizeof(chatglm_layer);
    if (strcmp(structure, "edit") == 0) return sizeof(chatglm_edit);
    if (strcmp(structure, "highest") == 0) return sizeof(chatglm_highest);
    return -1;
}

int32_t chatglm_num_levels(void) { return num_levels; }

const char *chatglm_level_name(int32_t index) {
    return index >= 0 && index < num_levels ? levels[index].kernels->name : nullptr;
}

int32_t chatglm_level_available(int32_t index) { return index >= 0 && index < num_levels && levels[index].available(); }

int32_t chatglm_level(void) {
    std::lock_guard<std::mutex> lock(turn);
    kernels();
    return current;
}

int32_t chatglm_set_level(int32_t index) {
    if (!chatglm_level_available(index)) return -1;
    std::lock_guard<std::mutex> lock(turn);
    current = index;
    return 0;
}

int32_t chatglm_num_threads(void) {
    int32_t count = -1;
    guarded([&](const chatglm::Kernels &) { count = chatglm::num_threads(); });
    return count;
}

int32_t chatglm_set_num_threads(int32_t threads) {
    if (threads < 1 || threads > CHATGLM_MOST_THREADS) return -1;
    std::lock_guard<std::mutex> lock(turn);
    chatglm::set_num_threads(threads);
    return 0;
}

int32_t chatglm_linear(const chatglm_weight *weight, const float *input, int64_t input_stride, int64_t input_columns,
                       float *output, int64_t tokens) {
    return guarded([&](const chatglm::Kernels &k) {
        k.linear(weight, input, input_stride, input_columns, output, tokens);
    });
}

int32_t chatglm_dequantize(const chatglm_weight *weight, float *output, int64_t first, int64_t last) {
    return guarded([&](const chatglm::Kernels &k) { k.dequantize(weight, output, first, last); });
}

int32_t chatglm_quantize(const chatglm_weight *target, const void *weight, int32_t dtype, int64_t columns,
                         int32_t official) {
    int32_t status = 0;
    const int32_t done =
        guarded([&](const chatglm::Kernels &) { status = chatglm::quantize(target, weight, dtype, columns, official); });
    return done == 0 ? status : done;
}

int32_t chatglm_gather(const chatglm_weight *weight, const int64_t *ids, float *output, int64_t output_columns,
                       int64_t tokens) {
    return guarded([&](const chatglm::Kernels &k) { k.gather(weight, ids, output, output_columns, tokens); });
}

int32_t chatglm_attention(const chatglm_cache *cache, const chatglm_batch *batch, const float *query, const float *key,
                          const float *value, float *output, int64_t heads, float scaling) {
    return guarded([&](const chatglm::Kernels &k) {
        k.attention(cache, batch, query, key, value, output, heads, scaling);
    });
}

int32_t chatglm_layers_forward(const chatglm_layer *layers, const chatglm_cache *caches, int64_t count,
                               const chatglm_batch *batch, const float *cosines, const float *sines, float *stream) {
    return guarded([&](const chatglm::Kernels &k) {
        for (int64_t i = 0; i < count; ++i) k.layer_forward(layers + i, caches + i, batch, cosines, sines, stream);
    });
}

int32_t chatglm_edit_scores(float *scores, int64_t size, const chatglm_edit *edits, int64_t rows) {
    return guarded([&](const chatglm::Kernels &k) { k.edit(scores, size, edits, rows); });
}

int32_t chatglm_find_highest(const float *scores, int64_t size, int64_t rows, int64_t count,
                             const chatglm_highest *out) {
    return guarded([&](const chatglm::Kernels &k) { k.highest(scores, size, rows, count, out); });
}

uint64_t chatglm_read(const void *data, int64_t bytes) {
    const uint64_t *words = static_cast<const uint64_t *>(data);
    const int64_t step = 1 << 17, count = bytes / 8;
    std::atomic<uint64_t> total{0};
    guarded([&](const chatglm::Kernels &) {
        chatglm::parallel((count + step - 1) / step, [&](int64_t part, int) {
            uint64_t sums[8] = {};
            const int64_t end = count < (part + 1) * step ? count : (part + 1) * step;
            int64_t i = part * step;
            for (; i + 8 <= end; i += 8)
                for (int j = 0; j < 8; ++j) sums[j] += words[i + j];
            for (; i < end; ++i) sums[0] += words[i];
            for (int j = 1; j < 8; ++j) sums[0] += sums[j];
            total += sums[0];
        });
    });
    return total;
}

int64_t chatglm_multiply_only(int64_t rounds) {
    int64_t products = 0;
    return guarded([&](const chatglm::Kernels &k) { products = k.multiply_only(rounds); }) == 0 ? products : -1;
}

}  // extern "C"
