// What a sampler does to rows of scores: whole rows at once, at a cost that a longer text does not change.
#pragma once
#include "attention.h"

namespace {

// s / p for a score above 0, s * p below, of the tokens whose bits are set.
inline Floats penalized(uint32_t bits, Floats scores, Floats penalty) {
    return choose(bits, where_less(0, scores, div(scores, penalty), mul(scores, penalty)), scores);
}

void edit_row(float *scores, int64_t size, const chatglm_edit &edit) {
    const Floats penalty = set(edit.penalty);
    const int64_t words = edit.seen ? divide_up(size, 32) : 0;
    for (int64_t w = 0; w < words; ++w) {  // also where no bit is set: memory likes to be read in order
        const uint32_t bits = edit.seen[w];
        float *p = scores + 32 * w, last[32] = {};
        const int64_t left = smaller(32, size - 32 * w);
        if (left < 32) memcpy(last, p, static_cast<size_t>(left) * sizeof(float));
        float *at = left < 32 ? last : p;
        for (int i = 0; i < 32; i += lanes) store(at + i, penalized(bits >> i, load(at + i), penalty));
        if (left < 32) memcpy(p, last, static_cast<size_t>(left) * sizeof(float));
    }
    for (int64_t i = 0; i < edit.count; ++i) scores[edit.ids[i]] += edit.values[i];
}

void edit(float *scores, int64_t size, const chatglm_edit *edits, int64_t rows) {
    chatglm::parallel(rows, [&](int64_t row, int) { edit_row(scores + row * size, size, edits[row]); });
}

constexpr int64_t block = 128;  // scores that are passed over together where none of them is high

// The highest scores so far in descending order; of equals, the one that came first.
struct Highest {
    float values[CHATGLM_MOST_HIGHEST];
    int64_t ids[CHATGLM_MOST_HIGHEST];
    int64_t count, found;

    bool enters(float value) const { return found < count || value > values[count - 1]; }
    void enter(float value, int64_t id) {
        if (found < count) ++found;
        int64_t place = found - 1;
        for (; place > 0 && values[place - 1] < value; --place) {
            values[place] = values[place - 1];
            ids[place] = ids[place - 1];
        }
        values[place] = value;
        ids[place] = id;
    }
};

inline float largest_of(const float *scores, int64_t size) {
    float most = -INFINITY;
    int64_t i = 0;
    if (size >= lanes) {
        Floats all = load(scores);
        for (i = lanes; i + lanes <= size; i += lanes) all = max(all, load(scores + i));
        most = largest(all);
    }
    for (; i < size; ++i) most = scores[i] > most ? scores[i] : most;
    return most;
}

// The sum of e^(score - most), added up exactly enough for float32: blocks in float, their sums in double.
double sum_of_exponentials(const float *scores, int64_t size, float most) {
    const Floats top = set(most);
    double total = 0;
    int64_t i = 0;
    while (i + lanes <= size) {
        Floats sums = set(0);
        const int64_t end = smaller(size, i + 32 * block);
        for (; i + lanes <= end; i += lanes) sums = add(sums, exponential(sub(load(scores + i), top)));
        total += static_cast<double>(sum(sums));
    }
    for (; i < size; ++i) total += exp(static_cast<double>(scores[i] - most));
    return total;
}

// The blocks with the `count` highest maxima hold the `count` highest scores, so the rest is never looked at again.
void highest_row(const float *scores, int64_t size, int64_t count, float *kept, float *maxima, Highest &highest) {
    const int64_t blocks = divide_up(size, block);
    Highest of_blocks{};
    of_blocks.count = smaller(count, blocks);
    for (int64_t b = 0; b < blocks; ++b) {
        const int64_t here = smaller(block, size - b * block);
        maxima[b] = largest_of(scores + b * block, here);
        if (kept) memcpy(kept + b * block, scores + b * block, static_cast<size_t>(here) * sizeof(float));
        if (of_blocks.enters(maxima[b])) of_blocks.enter(maxima[b], b);
    }
    const float least = of_blocks.values[of_blocks.count - 1];
    highest.count = count;
    for (int64_t b = 0; b < blocks; ++b) {
        if (maxima[b] < least) continue;
        const int64_t end = smaller(size, (b + 1) * block);
        for (int64_t id = b * block; id < end; ++id)
            if (highest.enters(scores[id])) highest.enter(scores[id], id);
    }
}

void highest(const float *scores, int64_t size, int64_t rows, int64_t count, const chatglm_highest *out) {
    chatglm::parallel(rows, [&](int64_t row, int thread) {
        const float *own = scores + row * size;
        Highest found{};  // with a NaN it may not fill up
        float *maxima = chatglm::thread_scratch(thread, 3, divide_up(size, block));
        highest_row(own, size, count, out->kept ? out->kept + row * size : nullptr, maxima, found);
        const float log_sum = static_cast<float>(log(sum_of_exponentials(own, size, found.values[0])));
        const float most = log_sum == log_sum ? found.values[0] : NAN;
        out->most[row] = most;
        out->log_sums[row] = log_sum;
        for (int64_t i = 0; i < count; ++i) {
            out->logprobs[row * count + i] = found.values[i] - most - log_sum;
            out->ids[row * count + i] = found.ids[i];
        }
    });
}

}  // namespace
