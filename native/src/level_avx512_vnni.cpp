#include "simd_avx512.h"
// The vectors come first: everything below is compiled for them.
#include "layer.h"

const chatglm::Kernels chatglm::kernels_avx512_vnni = this_level("avx512_vnni");
