// What every instruction set offers: one table of functions each.
#pragma once
#include "../include/chatglm_native.h"

namespace chatglm {

struct Kernels {
    const char *name;
    void (*linear)(const chatglm_weight *, const float *, int64_t, int64_t, float *, int64_t);
    void (*dequantize)(const chatglm_weight *, float *, int64_t, int64_t);
    void (*gather)(const chatglm_weight *, const int64_t *, float *, int64_t, int64_t);
    void (*attention)(const chatglm_cache *, const chatglm_batch *, const float *, const float *, const float *, float *,
                      int64_t, float);
    void (*layer_forward)(const chatglm_layer *, const chatglm_cache *, const chatglm_batch *, const float *,
                          const float *, float *);
    int64_t (*multiply_only)(int64_t);
    void (*edit)(float *, int64_t, const chatglm_edit *, int64_t);
    void (*highest)(const float *, int64_t, int64_t, int64_t, const chatglm_highest *);
};

extern const Kernels kernels_avx512_vnni, kernels_avx_vnni, kernels_avx2, kernels_neon_dotprod, kernels_portable;

}  // namespace chatglm
