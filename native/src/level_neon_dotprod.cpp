#include "simd_neon.h"
// The vectors come first: everything below is compiled for them.
#include "layer.h"

const chatglm::Kernels chatglm::kernels_neon_dotprod = this_level("neon_dotprod");
