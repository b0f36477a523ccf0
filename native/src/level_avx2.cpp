#include "simd_avx2.h"
// The vectors come first: everything below is compiled for them.
#include "layer.h"

const chatglm::Kernels chatglm::kernels_avx2 = this_level("avx2");
