// Rounds full weights to packed ones, to nearest: the same bits as `chatglm.quant.packing` and `rowwise` come to through
// torch. One file for every processor: reading the weights is most of the work.
#include "rounding.h"

#include <string.h>

#include <atomic>

#include "pool.h"
#include "simd_portable.h"

namespace {

constexpr int64_t block_rows = 16;
constexpr uint32_t sign_bit = 0x80000000u, infinite = 0x7f800000u;
// Added to a number below 2^22, it leaves the nearest whole one (half to even) in the lowest bits.
constexpr float shift = 12582912.0f;

inline int32_t nearest(float x) { return static_cast<int32_t>(to_bits(x + shift) - to_bits(shift)); }
inline int32_t within(int32_t x, int32_t low, int32_t high) { return x < low ? low : x > high ? high : x; }

float bfloat_of(float value) {
    const uint32_t bits = to_bits(value);
    return from_bits((bits + 0x7fff + ((bits >> 16) & 1)) & 0xffff0000u);
}

void read_row(const void *weight, int32_t dtype, int64_t first, int64_t columns, float *out) {
    if (dtype == CHATGLM_FLOAT32) {
        memcpy(out, static_cast<const float *>(weight) + first, static_cast<size_t>(columns) * sizeof(float));
        return;
    }
    const uint16_t *from = static_cast<const uint16_t *>(weight) + first;
    if (dtype == CHATGLM_BFLOAT16)
        for (int64_t i = 0; i < columns; ++i) out[i] = from_bits(static_cast<uint32_t>(from[i]) << 16);
    else
        for (int64_t i = 0; i < columns; ++i) out[i] = half_to_float(from[i]);
}

// The largest of the positive and of the negative numbers, by size; -1 where there is none of the sign.
struct Extremes {
    int64_t positive, negative;

    Extremes(const float *x, int64_t count) {
        uint32_t unsigned_most = 0;
        int32_t signed_most = INT32_MIN;
        for (int64_t i = 0; i < count; ++i) {
            const uint32_t bits = to_bits(x[i]);
            unsigned_most = bits > unsigned_most ? bits : unsigned_most;
            const int32_t number = static_cast<int32_t>(bits);
            signed_most = number > signed_most ? number : signed_most;
        }
        positive = signed_most >= 0 ? signed_most : -1;
        negative = unsigned_most & sign_bit ? static_cast<int64_t>(unsigned_most & ~sign_bit) : -1;
    }
    uint32_t size() const { return static_cast<uint32_t>(positive > negative ? positive : negative); }
    float high() const { return positive > 0 ? from_bits(static_cast<uint32_t>(positive)) : 0.0f; }
    float low() const { return negative > 0 ? -from_bits(static_cast<uint32_t>(negative)) : 0.0f; }
    // The number of largest size with its sign; of two, the first.
    float extreme(const float *x) const {
        if (positive != negative) return positive > negative ? from_bits(size()) : -from_bits(size());
        while ((to_bits(*x) & ~sign_bit) != size()) ++x;
        return *x;
    }
};

struct Job {
    const chatglm_weight &target;
    int32_t dtype;
    bool official;
    std::atomic<int32_t> status{0};

    // A scale as it is stored, and the number it then stands for.
    float stored(float scale, int64_t index) {
        if (target.row_scales) {
            float *to = static_cast<float *>(const_cast<void *>(target.scales)) + index;
            if (official && dtype == CHATGLM_BFLOAT16) scale = bfloat_of(scale);
            if (official && dtype == CHATGLM_FLOAT16) scale = half_to_float(float_to_half(scale));
            return *to = scale;
        }
        uint16_t *to = static_cast<uint16_t *>(const_cast<void *>(target.scales)) + index;
        *to = float_to_half(scale);
        if ((*to & 0x7c00) == 0x7c00) status = CHATGLM_SCALE_TOO_LARGE;
        return half_to_float(*to);
    }

    // One group of a row -> whole numbers as they are stored. `index`: of its scale.
    void round_group(float *x, int64_t count, int64_t index, int8_t *out) {
        const Extremes most(x, count);
        if (most.size() >= infinite) {
            status = CHATGLM_NOT_FINITE;
            return;
        }
        const int32_t limit = 1 << (target.bits - 1);
        if (target.zeros != nullptr) {
            const float scale = stored((most.high() - most.low()) / 15, index), divisor = scale == 0 ? 1 : scale;
            const int32_t zero = within(nearest(-most.low() / divisor), 0, 15);
            const_cast<uint8_t *>(target.zeros)[index] = static_cast<uint8_t>(zero);
            for (int64_t i = 0; i < count; ++i) out[i] = static_cast<int8_t>(within(nearest(x[i] / divisor) + zero, 0, 15));
            return;
        }
        const bool shifted = target.bits == 4 && !official;
        const float steps = official ? static_cast<float>(limit - 1) : 127.0f;
        const float scale = stored(shifted ? most.extreme(x) / -8 : from_bits(most.size()) / steps, index);
        const int32_t added = target.bits == 4 ? 8 : 0;
        if (scale == 0) {
            memset(out, added, static_cast<size_t>(count));
            return;
        }
        if (official && dtype == CHATGLM_FLOAT16)  // the official code divides in the dtype of the weight
            for (int64_t i = 0; i < count; ++i) x[i] = half_to_float(float_to_half(x[i] / scale));
        else
            for (int64_t i = 0; i < count; ++i) x[i] = x[i] / scale;
        for (int64_t i = 0; i < count; ++i)
            out[i] = static_cast<int8_t>(within(nearest(x[i]), -limit, limit - 1) + added);
    }
};

// One row of a block: numbers [columns] into the layout of the kernels.
void lay_out(const int8_t *numbers, int64_t columns, int bits, int64_t row, uint8_t *block) {
    const int wide = bits == 4 ? 8 : 4;
    for (int64_t step = 0; step * wide < columns; ++step) {
        const int8_t *from = numbers + step * wide;
        uint8_t *to = block + (step * block_rows + row) * 4;
        for (int j = 0; j < 4; ++j)
            to[j] = static_cast<uint8_t>(bits == 4 ? (from[j] & 15) | (from[4 + j] << 4) : from[j]);
    }
}

}  // namespace

int32_t chatglm::quantize(const chatglm_weight *target, const void *weight, int32_t dtype, int64_t columns,
                          int32_t official) {
    const chatglm_weight &w = *target;
    const int64_t groups = w.columns / w.group_size, block_bytes = block_rows * w.columns * w.bits / 8;
    Job job{w, dtype, official != 0};
    uint8_t *values = static_cast<uint8_t *>(const_cast<void *>(w.values));
    parallel((w.rows + block_rows - 1) / block_rows, [&](int64_t block, int thread) {
        float *row = thread_scratch(thread, 0, w.columns + w.columns / 4);
        int8_t *numbers = reinterpret_cast<int8_t *>(row + w.columns);
        for (int64_t r = 0; r < block_rows && job.status == 0; ++r) {
            const int64_t at = block * block_rows + r;
            // Rows that are padding: zeros, whose scales are zero too.
            memset(numbers, w.bits == 4 && w.zeros == nullptr ? 8 : 0, static_cast<size_t>(w.columns));
            if (at < w.rows) {
                read_row(weight, dtype, at * columns, columns, row);
                memset(row + columns, 0, static_cast<size_t>(w.columns - columns) * sizeof(float));
            }
            for (int64_t g = 0; g < groups; ++g) {
                const int64_t index = (block * groups + g) * block_rows + r;
                if (at < w.rows) {
                    job.round_group(row + g * w.group_size, w.group_size, index, numbers + g * w.group_size);
                    continue;
                }
                job.stored(0, index);
                if (w.zeros != nullptr) const_cast<uint8_t *>(w.zeros)[index] = 0;
            }
            lay_out(numbers, w.columns, w.bits, r, values + block * block_bytes);
        }
    });
    return job.status;
}
