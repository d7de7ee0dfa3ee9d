/* MatMulNBits for processors with AVX-512 VNNI, as a custom operator of ONNX Runtime: a probe of what could be gained.
 *
 * It differs from ONNX Runtime's kernel in two ways. The codes stay where they are, mapped from the bundle's file: nothing
 * is packed. And a product of one row reads eight places of the matrix at once, STREAM bytes apart, since one place alone
 * does not keep the memory busy.
 *
 * The operator is codegen_edge::MatMulNBits: x [..., K] float, codes [N, K / block, block * bits / 8], scales
 * [N, K / block], bias [N] or nothing. Activations are rounded to int8 with one scale for a block, as ONNX Runtime does
 * at accuracy_level 4. Blocks of 32 to 256 weights, K a multiple of 128.
 */
#include <immintrin.h>
#include <stdint.h>
#include <stdlib.h>

#include "onnxruntime_c_api.h"

#define API_VERSION 18
#define VECTOR 64    /* bytes */
#define PLACES 8     /* of a matrix that are read at once for a product of one row */
#define STREAM 8192  /* bytes that are read at each of them */
#define INLINE static inline __attribute__((always_inline))
#define UNROLLED _Pragma("GCC unroll 8")

static const OrtApi *ort;

typedef struct {
  int64_t num_inputs, num_outputs, bits, block_size; /* K, N and the attributes of those names */
} Node;

typedef struct {
  Node node;
  size_t rows, K, N, num_blocks;
  size_t tile;              /* outputs of a task */
  int blocks_of_vector;     /* 1, 2 or 4 blocks lie in a vector of codes, */
  int vectors_of_block;     /* or a block takes 1, 2 or 4 vectors */
  size_t num_steps;         /* of vectors_of_block vectors each, in a row of codes */
  const float *x, *scales, *bias;
  const uint8_t *codes;
  float *y;
  int8_t *rounded;          /* [rows, K]; for 4 bits the even inputs of 128, then the odd ones, as codes hold them */
  float *steps;             /* [rows, num_blocks], of the rounded activations */
  float *spread;            /* [rows, num_steps, 16], where a vector has several blocks: each step of a block's lanes */
  float *corrections;       /* [rows, num_blocks]: codes are unsigned, and stand for numbers around their middle */
} Job;

static void round_row(void *data, size_t row) {
  Job *job = data;
  const size_t size = (size_t)job->node.block_size;
  const int is_half_byte = job->node.bits == 4;
  int8_t *rounded = job->rounded + row * job->K;
  for (size_t block = 0; block < job->num_blocks; block++) {
    const float *x = job->x + row * job->K + block * size;
    __m512 largest = _mm512_setzero_ps();
    for (size_t k = 0; k < size; k += 16) largest = _mm512_max_ps(largest, _mm512_abs_ps(_mm512_loadu_ps(x + k)));
    const float most = _mm512_reduce_max_ps(largest), step = most / 127.0f;
    const __m512 inverse = _mm512_set1_ps(most > 0 ? 127.0f / most : 0.0f);
    int sum = 0;
    for (size_t k = 0; k < size; k += 16) {
      const __m512i values = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x + k), inverse));
      const __m128i bytes = _mm512_cvtsepi32_epi8(values);
      const size_t place = block * size + k;
      sum += _mm512_reduce_add_epi32(values);
      if (!is_half_byte) {
        _mm_storeu_si128((__m128i *)(rounded + place), bytes);
      } else {
        const __m128i parted =
            _mm_shuffle_epi8(bytes, _mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15));
        int8_t *pair = rounded + place / 128 * 128 + place % 128 / 2;
        _mm_storel_epi64((__m128i *)pair, parted);
        _mm_storel_epi64((__m128i *)(pair + 64), _mm_srli_si128(parted, 8));
      }
    }
    job->steps[row * job->num_blocks + block] = step;
    job->corrections[row * job->num_blocks + block] = (is_half_byte ? -8.0f : -128.0f) * step * (float)sum;
    if (job->blocks_of_vector > 1) {
      const size_t lanes = 16 / job->blocks_of_vector;
      float *out = job->spread + (row * job->num_blocks + block) * lanes;
      for (size_t lane = 0; lane < lanes; lane++) out[lane] = step;
    }
  }
}

/* The scales of the blocks of a vector, each in all lanes of its block. */
INLINE __m512 spread_scales(const float *scales, const int blocks) {
  if (blocks == 1) return _mm512_set1_ps(*scales);
  if (blocks == 2)
    return _mm512_permutevar_ps(_mm512_castsi512_ps(_mm512_set1_epi64(*(const int64_t *)scales)),
                                _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1));
  return _mm512_permutevar_ps(_mm512_broadcast_f32x4(_mm_loadu_ps(scales)),
                              _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3));
}

/* `rows` rows by `columns` outputs, which lie `apart` from each other. */
INLINE void multiply_part(const Job *job, size_t row, size_t column, size_t apart, const int rows, const int columns,
                          const int is_half_byte, const int blocks, const int vectors) {
  const size_t row_bytes = is_half_byte ? job->K / 2 : job->K;
  const __m512i low_half = _mm512_set1_epi8(15);
  __m512 sums[columns][rows];
  UNROLLED for (int n = 0; n < columns; n++)
    UNROLLED for (int m = 0; m < rows; m++) sums[n][m] = _mm512_setzero_ps();
  for (size_t step = 0; step < job->num_steps; step++) {
    __m512i products[columns][rows];
    UNROLLED for (int n = 0; n < columns; n++)
      UNROLLED for (int m = 0; m < rows; m++) products[n][m] = _mm512_setzero_si512();
    UNROLLED for (int vector = 0; vector < vectors; vector++) {
      const size_t place = step * vectors + vector;
      UNROLLED for (int n = 0; n < columns; n++) {
        const __m512i codes = _mm512_loadu_si512(job->codes + (column + n * apart) * row_bytes + place * VECTOR);
        if (!is_half_byte) {
          UNROLLED for (int m = 0; m < rows; m++)
            products[n][m] = _mm512_dpbusd_epi32(
                products[n][m], codes, _mm512_loadu_si512(job->rounded + (row + m) * job->K + place * VECTOR));
        } else {
          const __m512i even = _mm512_and_si512(codes, low_half);
          const __m512i odd = _mm512_and_si512(_mm512_srli_epi16(codes, 4), low_half);
          UNROLLED for (int m = 0; m < rows; m++) {
            const int8_t *rounded = job->rounded + (row + m) * job->K + place * 2 * VECTOR;
            products[n][m] = _mm512_dpbusd_epi32(products[n][m], even, _mm512_loadu_si512(rounded));
            products[n][m] = _mm512_dpbusd_epi32(products[n][m], odd, _mm512_loadu_si512(rounded + VECTOR));
          }
        }
      }
    }
    UNROLLED for (int n = 0; n < columns; n++) {
      const __m512 scales =
          spread_scales(job->scales + (column + n * apart) * job->num_blocks + step * blocks, blocks);
      UNROLLED for (int m = 0; m < rows; m++) {
        const __m512 steps = blocks == 1
                                 ? _mm512_set1_ps(job->steps[(row + m) * job->num_blocks + step])
                                 : _mm512_loadu_ps(job->spread + ((row + m) * job->num_steps + step) * 16);
        sums[n][m] = _mm512_fmadd_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(products[n][m]), scales), steps, sums[n][m]);
      }
    }
  }
  UNROLLED for (int n = 0; n < columns; n++) {
    const size_t output = column + n * apart;
    const float *scales = job->scales + output * job->num_blocks;
    UNROLLED for (int m = 0; m < rows; m++) {
      const float *corrections = job->corrections + (row + m) * job->num_blocks;
      __m512 sum = sums[n][m];
      for (size_t block = 0; block < job->num_blocks; block += 16) {
        const size_t left = job->num_blocks - block;
        const __mmask16 mask = left >= 16 ? 0xFFFF : (__mmask16)((1u << left) - 1);
        sum = _mm512_fmadd_ps(_mm512_maskz_loadu_ps(mask, corrections + block),
                              _mm512_maskz_loadu_ps(mask, scales + block), sum);
      }
      job->y[(row + m) * job->N + output] = _mm512_reduce_add_ps(sum) + (job->bias ? job->bias[output] : 0.0f);
    }
  }
}

/* All rows from `row` on that fill groups of `rows`, by the outputs from `first` to `last`, `columns` of them at once. */
INLINE size_t multiply_rows(const Job *job, size_t row, size_t first, size_t last, const int rows, const int columns,
                            const int is_half_byte, const int blocks, const int vectors) {
  const size_t apart = job->tile / columns;
  for (; row + rows <= job->rows; row += rows) {
    size_t column = first;
    for (; column + columns * apart <= last; column += columns * apart)
      for (size_t n = 0; n < apart; n++)
        multiply_part(job, row, column + n, apart, rows, columns, is_half_byte, blocks, vectors);
    for (; column < last; column++) multiply_part(job, row, column, 1, rows, 1, is_half_byte, blocks, vectors);
  }
  return row;
}

INLINE void multiply(const Job *job, size_t first, size_t last, const int is_half_byte, const int blocks,
                     const int vectors) {
  size_t row = multiply_rows(job, 0, first, last, 4, 2, is_half_byte, blocks, vectors);
  row = multiply_rows(job, row, first, last, 2, 4, is_half_byte, blocks, vectors);
  multiply_rows(job, row, first, last, 1, PLACES, is_half_byte, blocks, vectors);
}

static void run_tile(void *data, size_t number) {
  const Job *job = data;
  const size_t first = number * job->tile, last = first + job->tile < job->N ? first + job->tile : job->N;
  const int blocks = job->blocks_of_vector, vectors = job->vectors_of_block;
  if (job->node.bits == 8) {
    if (blocks == 2) multiply(job, first, last, 0, 2, 1);
    else if (vectors == 1) multiply(job, first, last, 0, 1, 1);
    else if (vectors == 2) multiply(job, first, last, 0, 1, 2);
    else multiply(job, first, last, 0, 1, 4);
  } else {
    if (blocks == 4) multiply(job, first, last, 1, 4, 1);
    else if (blocks == 2) multiply(job, first, last, 1, 2, 1);
    else if (vectors == 1) multiply(job, first, last, 1, 1, 1);
    else multiply(job, first, last, 1, 1, 2);
  }
}

#define TRY(call)                     \
  do {                                \
    OrtStatusPtr status_ = (call);    \
    if (status_) return status_;      \
  } while (0)

static OrtStatusPtr input_data(OrtKernelContext *context, size_t index, const void **data) {
  const OrtValue *value;
  *data = NULL;
  TRY(ort->KernelContext_GetInput(context, index, &value));
  return value ? ort->GetTensorMutableData((OrtValue *)value, (void **)data) : NULL;
}

static OrtStatusPtr compute(void *kernel, OrtKernelContext *context) {
  Job job = {.node = *(const Node *)kernel};
  const OrtValue *x;
  OrtTensorTypeAndShapeInfo *info;
  OrtValue *y;
  int64_t dims[8];
  size_t rank;
  TRY(ort->KernelContext_GetInput(context, 0, &x));
  TRY(ort->GetTensorTypeAndShape(x, &info));
  OrtStatusPtr status = ort->GetDimensionsCount(info, &rank);
  if (!status && rank > 8) status = ort->CreateStatus(ORT_INVALID_ARGUMENT, "more than 8 dimensions");
  if (!status) status = ort->GetDimensions(info, dims, rank);
  ort->ReleaseTensorTypeAndShapeInfo(info);
  TRY(status);
  job.rows = 1;
  for (size_t axis = 0; axis + 1 < rank; axis++) job.rows *= (size_t)dims[axis];
  dims[rank - 1] = job.node.num_outputs;
  TRY(ort->KernelContext_GetOutput(context, 0, dims, rank, &y));
  TRY(ort->GetTensorMutableData(y, (void **)&job.y));
  TRY(input_data(context, 0, (const void **)&job.x));
  TRY(input_data(context, 1, (const void **)&job.codes));
  TRY(input_data(context, 2, (const void **)&job.scales));
  TRY(input_data(context, 3, (const void **)&job.bias));
  if (job.rows == 0) return NULL;

  const int64_t of_vector = 8 * VECTOR / job.node.bits, size = job.node.block_size;
  job.K = (size_t)job.node.num_inputs;
  job.N = (size_t)job.node.num_outputs;
  job.num_blocks = job.K / (size_t)size;
  job.blocks_of_vector = size < of_vector ? (int)(of_vector / size) : 1;
  job.vectors_of_block = size > of_vector ? (int)(size / of_vector) : 1;
  job.num_steps = job.num_blocks / (size_t)job.blocks_of_vector;
  const size_t row_bytes = job.K * (size_t)job.node.bits / 8;
  job.tile = PLACES * (row_bytes < STREAM ? STREAM / row_bytes : 1);

  const size_t codes_bytes = (job.rows * job.K + VECTOR - 1) / VECTOR * VECTOR;
  const size_t steps_bytes = (job.rows * job.num_blocks * sizeof(float) + VECTOR - 1) / VECTOR * VECTOR;
  char *memory = aligned_alloc(VECTOR, codes_bytes + 2 * steps_bytes + job.rows * job.num_steps * VECTOR);
  if (memory == NULL) return ort->CreateStatus(ORT_FAIL, "no memory for rounded activations");
  job.rounded = (int8_t *)memory;
  job.steps = (float *)(memory + codes_bytes);
  job.corrections = (float *)(memory + codes_bytes + steps_bytes);
  job.spread = (float *)(memory + codes_bytes + 2 * steps_bytes);
  if (job.rows == 1) round_row(&job, 0);
  else status = ort->KernelContext_ParallelFor(context, round_row, job.rows, 0, &job);
  if (!status) status = ort->KernelContext_ParallelFor(context, run_tile, (job.N + job.tile - 1) / job.tile, 0, &job);
  free(memory);
  return status;
}

static OrtStatusPtr create(const OrtCustomOp *op, const OrtApi *api, const OrtKernelInfo *info, void **kernel) {
  Node node;
  TRY(api->KernelInfoGetAttribute_int64(info, "K", &node.num_inputs));
  TRY(api->KernelInfoGetAttribute_int64(info, "N", &node.num_outputs));
  TRY(api->KernelInfoGetAttribute_int64(info, "bits", &node.bits));
  TRY(api->KernelInfoGetAttribute_int64(info, "block_size", &node.block_size));
  const int is_known_size = node.block_size == 32 || node.block_size == 64 || node.block_size == 128 || node.block_size == 256;
  if ((node.bits != 4 && node.bits != 8) || !is_known_size || node.num_inputs % 128 || node.num_inputs % node.block_size)
    return api->CreateStatus(ORT_INVALID_ARGUMENT, "bits, block_size or K is not one that this kernel knows");
  *kernel = malloc(sizeof node);
  if (*kernel == NULL) return api->CreateStatus(ORT_FAIL, "no memory");
  *(Node *)*kernel = node;
  return NULL;
}

static const char *name_of(const OrtCustomOp *op) { return "MatMulNBits"; }
static const char *provider_of(const OrtCustomOp *op) { return NULL; /* the CPU */ }
static size_t num_inputs(const OrtCustomOp *op) { return 4; }
static size_t num_outputs(const OrtCustomOp *op) { return 1; }
static ONNXTensorElementDataType input_type(const OrtCustomOp *op, size_t index) {
  return index == 1 ? ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8 : ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
}
static ONNXTensorElementDataType output_type(const OrtCustomOp *op, size_t index) {
  return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
}
static OrtCustomOpInputOutputCharacteristic input_kind(const OrtCustomOp *op, size_t index) {
  return index == 3 ? INPUT_OUTPUT_OPTIONAL : INPUT_OUTPUT_REQUIRED;
}
static OrtCustomOpInputOutputCharacteristic output_kind(const OrtCustomOp *op, size_t index) {
  return INPUT_OUTPUT_REQUIRED;
}
static OrtMemType memory_of(const OrtCustomOp *op, size_t index) { return OrtMemTypeDefault; }
static int version_of(const OrtCustomOp *op) { return 1; }

static const OrtCustomOp operator_ = {
    .version = API_VERSION,
    .GetName = name_of,
    .GetExecutionProviderType = provider_of,
    .GetInputType = input_type,
    .GetInputTypeCount = num_inputs,
    .GetOutputType = output_type,
    .GetOutputTypeCount = num_outputs,
    .GetInputCharacteristic = input_kind,
    .GetOutputCharacteristic = output_kind,
    .GetInputMemoryType = memory_of,
    .KernelDestroy = free,
    .CreateKernelV2 = create,
    .KernelComputeV2 = compute,
    .GetStartVersion = version_of,
    .GetEndVersion = version_of,
};

OrtStatusPtr RegisterCustomOps(OrtSessionOptions *options, const OrtApiBase *base) {
  OrtCustomOpDomain *domain;
  ort = base->GetApi(API_VERSION);
  TRY(ort->CreateCustomOpDomain("codegen_edge", &domain));
  TRY(ort->CustomOpDomain_Add(domain, &operator_));
  return ort->AddCustomOpDomain(options, domain);
}
