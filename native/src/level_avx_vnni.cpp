#define CHATGLM_VNNI_256
#include "simd_avx2.h"
// The vectors come first: everything below is compiled for them.
#include "layer.h"

const chatglm::Kernels chatglm::kernels_avx_vnni = this_level("avx_vnni");
