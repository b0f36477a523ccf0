#include "simd_portable.h"
// The vectors come first: everything below is compiled for them.
#include "layer.h"

const chatglm::Kernels chatglm::kernels_portable = this_level("portable");
