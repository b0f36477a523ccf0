// The plain C interface of the kernels. No header of torch or Python is needed to build or to call them.
//
// Weights lie in blocks of 16 output rows, the same way for every instruction set, so that a file written on one
// machine runs on every other. Let N be the rows (padded to 16), K the columns (padded to 32), and G the columns that
// share a scale (a multiple of 32, or K):
//   4 bits  values  uint8  [N/16][K/8][16][4]   low nibble: column 8l+j, high nibble: column 8l+4+j
//   8 bits  values  int8   [N/16][K/4][16][4]
//           scales  half   [N/16][K/G][16]      or float [N/16][1][16] where G is K (`row_scales`)
//           zeros   uint8  [N/16][K/G][16]      or NULL: 8 for 4 bits, 0 for 8 bits
// and stand for (value - zero) * scale. Activations are float32; they are rounded to 8 bits in groups of 32 columns.
#pragma once
#include <stdint.h>

#if defined(__GNUC__)
#pragma GCC visibility push(default)
#endif
#ifdef __cplusplus
extern "C" {
#endif

#define CHATGLM_ABI 5
#define CHATGLM_MOST_THREADS 1024
#define CHATGLM_MOST_HIGHEST 64

typedef struct {
    const void *values;
    const void *scales;
    const uint8_t *zeros;  // NULL: symmetric
    const float *bias;     // [N] or NULL
    int64_t rows;          // outputs, before padding
    int64_t columns;       // inputs, after padding; a multiple of 32
    int64_t group_size;
    int32_t bits;          // 4 or 8
    int32_t row_scales;    // 1: float scales, one a row
} chatglm_weight;

enum { CHATGLM_FLOAT32 = 0, CHATGLM_FLOAT16 = 1, CHATGLM_BFLOAT16 = 2, CHATGLM_INT8 = 3 };

// One layer's keys and values: [slots][groups][head_dim] each; int8 has a float scale for each slot and group.
typedef struct {
    void *keys;
    void *values;
    float *key_scales;
    float *value_scales;
    int64_t groups;
    int64_t head_dim;
    int32_t dtype;
    int32_t block_size;  // slots a block
} chatglm_cache;

// What is done to one row of scores: first the penalty (a score above 0 is divided by it, one below multiplied), then
// the additions.
typedef struct {
    const uint32_t *seen;  // a bit for each token that is penalized, the lowest first; NULL: none is
    const int64_t *ids;    // [count] within the row
    const float *values;   // [count]
    int64_t count;
    float penalty;
    int32_t reserved;
} chatglm_edit;

// Where the highest scores of some rows go. All but the ids is NaN where a score is NaN or the highest is not finite.
typedef struct {
    float *most;      // [rows] the highest score
    float *log_sums;  // [rows] log of the sum of e^(score - most)
    float *logprobs;  // [rows][count] score - most - log_sum, in descending order; of equals the lower id comes first
    int64_t *ids;     // [rows][count]
    float *kept;      // [rows][size] a copy of the scores, made on the way; NULL: none is wanted
} chatglm_highest;

// The tokens of one step, those of each request in a row.
typedef struct {
    int64_t tokens;
    int64_t requests;
    const int32_t *query_starts;  // [requests + 1]
    const int32_t *lengths;       // [requests] tokens in the cache, the new ones included
    const int32_t *block_tables;  // [requests][table_stride]
    const int64_t *slots;         // [tokens] where the new keys and values go
    int64_t table_stride;
} chatglm_batch;

// One decoder layer: norm, attention, norm, SwiGLU, each added to the stream.
typedef struct {
    chatglm_weight query_key_value, dense, up, down;
    const float *attention_norm, *mlp_norm;  // [hidden]
    float norm_eps;
    int32_t rotary_dim;
    int64_t hidden, heads, groups, head_dim;
    float scaling;
} chatglm_layer;

enum { CHATGLM_NOT_FINITE = 1, CHATGLM_SCALE_TOO_LARGE = 2 };

// Functions that return int32_t without saying more return 0, or -1 where memory ran out.
// Calls from several threads take turns.

int32_t chatglm_abi(void);
// Sizes of the structures, so that a binding can check that it has the same idea of them.
int64_t chatglm_sizeof(const char *structure);

// Instruction sets: how many were built in, their names, best first; whether this processor has one; which is in use.
int32_t chatglm_num_levels(void);
const char *chatglm_level_name(int32_t index);
int32_t chatglm_level_available(int32_t index);
int32_t chatglm_level(void);
int32_t chatglm_set_level(int32_t index);  // 0, or -1 where this processor lacks it

int32_t chatglm_num_threads(void);  // -1 where there is no memory to start them
int32_t chatglm_set_num_threads(int32_t threads);  // 0, or -1 where not 1 to CHATGLM_MOST_THREADS

// output[tokens][rows] = input[tokens][columns] * weight^T + bias; rows of the input lie input_stride floats apart and
// hold input_columns numbers, the rest counts as zero.
int32_t chatglm_linear(const chatglm_weight *weight, const float *input, int64_t input_stride, int64_t input_columns,
                    float *output, int64_t tokens);
// The weight as numbers: output[last - first][columns], for rows first to last.
int32_t chatglm_dequantize(const chatglm_weight *weight, float *output, int64_t first, int64_t last);
// Rounds a full weight [rows][columns] of a dtype (float32, float16, bfloat16) to nearest and fills the arrays of
// `target` with it. `official`: by the formula of the official releases, which have one scale a row, in that dtype.
// CHATGLM_NOT_FINITE, CHATGLM_SCALE_TOO_LARGE: it cannot be rounded, and the arrays hold anything.
int32_t chatglm_quantize(const chatglm_weight *target, const void *weight, int32_t dtype, int64_t columns,
                         int32_t official);
// One row of the weight: an embedding. output[tokens][output_columns]
int32_t chatglm_gather(const chatglm_weight *weight, const int64_t *ids, float *output, int64_t output_columns,
                    int64_t tokens);
// query [tokens][heads][head_dim], key and value [tokens][groups][head_dim] -> output as query. Keys and values are
// written into the cache first; each query then sees the keys up to its own.
int32_t chatglm_attention(const chatglm_cache *cache, const chatglm_batch *batch, const float *query, const float *key,
                       const float *value, float *output, int64_t heads, float scaling);
// `count` decoder layers, one after another, each with its part of the cache: what runs between two of them in another
// language finds its own code and data gone from the processor's caches, which costs more than the call.
// stream [tokens][hidden] is changed in place; cosines and sines [tokens][rotary_dim / 2].
int32_t chatglm_layers_forward(const chatglm_layer *layers, const chatglm_cache *caches, int64_t count,
                               const chatglm_batch *batch, const float *cosines, const float *sines, float *stream);
// scores [rows][size] are changed in place, each row by its own edit.
int32_t chatglm_edit_scores(float *scores, int64_t size, const chatglm_edit *edits, int64_t rows);
// The `count` highest of scores [rows][size]; 1 to CHATGLM_MOST_HIGHEST, and no more than size.
int32_t chatglm_find_highest(const float *scores, int64_t size, int64_t rows, int64_t count,
                             const chatglm_highest *out);
// Reads `bytes` once with all threads and returns a sum of it: the memory rate that a step cannot exceed.
uint64_t chatglm_read(const void *data, int64_t bytes);
// Multiplies 8-bit numbers in registers with all threads and returns how many products that were: the rate that no
// product of matrices can exceed. `rounds` says how long; -1 where memory ran out.
int64_t chatglm_multiply_only(int64_t rounds);

#ifdef __cplusplus
}
#endif
#if defined(__GNUC__)
#pragma GCC visibility pop
#endif
