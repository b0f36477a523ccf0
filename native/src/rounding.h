// Rounds full weights to packed ones; see `chatglm_quantize`.
#pragma once
#include "../include/chatglm_native.h"

namespace chatglm {

int32_t quantize(const chatglm_weight *target, const void *weight, int32_t dtype, int64_t columns, int32_t official);

}  // namespace chatglm
