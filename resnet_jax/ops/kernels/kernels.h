/* Shared code of the kernels: a loop over XLA's threads, blocks of sums in registers, and the arguments that XLA passes.

   The order in which an element's sum is computed depends only on the shapes, and no two units write the same element, so the
   bits of a result do not depend on the number of threads. The last axis of every output is a multiple of LANES. */

#ifndef RESNET_JAX_KERNELS_H
#define RESNET_JAX_KERNELS_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "xla/ffi/api/c_api.h"

#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX__)
#define LANES 8
#else
#define LANES 4
#endif
#if LANES == 16 || defined(__aarch64__) /* rows of a block of sums that fits into 32 registers, or 16 */
#define ROWS 8
#else
#define ROWS 6
#endif

typedef float vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
#define INLINE static inline __attribute__((always_inline))
#ifdef __clang__
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 36")
#endif

INLINE vec load(const float *p) { return *(const vec *)p; }
INLINE void store(float *p, vec v) { *(vec *)p = v; }

/* ---- Parallel loops ---- */

typedef struct Loop Loop;
typedef void Body(const Loop *loop, int64_t unit, float *scratch);

struct Loop {
  Body *body;
  int64_t units;
  size_t scratch; /* floats that each thread needs */
  const void *job;
  atomic_llong next, done;
  atomic_int references, failed;
  pthread_mutex_t mutex;
  pthread_cond_t finished;
};

static float *thread_scratch(size_t floats) {
  static _Thread_local float *buffer;
  static _Thread_local size_t size;
  if (floats > size) {
    free(buffer);
    size = 0;
    buffer = aligned_alloc(64, (floats * 4 + 63) / 64 * 64);
    if (buffer) size = floats;
  }
  return buffer;
}

static void work(Loop *loop) {
  float *scratch = NULL;
  for (;;) {
    int64_t unit = atomic_fetch_add(&loop->next, 1);
    if (unit >= loop->units) return;
    if (!scratch && !(scratch = thread_scratch(loop->scratch + 16))) atomic_store(&loop->failed, 1);
    if (scratch) loop->body(loop, unit, scratch);
    if (atomic_fetch_add(&loop->done, 1) + 1 == loop->units) {
      pthread_mutex_lock(&loop->mutex);
      pthread_cond_signal(&loop->finished);
      pthread_mutex_unlock(&loop->mutex);
    }
  }
}

static void release(Loop *loop) {
  if (atomic_fetch_sub(&loop->references, 1) == 1) {
    pthread_mutex_destroy(&loop->mutex);
    pthread_cond_destroy(&loop->finished);
    free(loop);
  }
}

static void task(void *data) {
  work(data);
  release(data);
}

static XLA_FFI_Error *fail(const XLA_FFI_Api *api, XLA_FFI_Error_Code code, const char *message) {
  XLA_FFI_Error_Create_Args args = {XLA_FFI_Error_Create_Args_STRUCT_SIZE, NULL, message, code};
  return api->XLA_FFI_Error_Create(&args);
}

/* Returns the number of threads of XLA's pool; 1 if there is none. */
static int64_t threads_of(XLA_FFI_CallFrame *frame) {
  int64_t threads = 1;
  XLA_FFI_ThreadPool_NumThreads_Args args = {XLA_FFI_ThreadPool_NumThreads_Args_STRUCT_SIZE, NULL, frame->ctx, &threads};
  XLA_FFI_Error *error = frame->api->XLA_FFI_ThreadPool_NumThreads(&args);
  if (error) {
    XLA_FFI_Error_Destroy_Args destroy = {XLA_FFI_Error_Destroy_Args_STRUCT_SIZE, NULL, error};
    frame->api->XLA_FFI_Error_Destroy(&destroy);
    return 1;
  }
  return threads;
}

/* Runs the units on XLA's threads and on this thread. This thread never waits for a task to start: it may belong to the pool,
   and all other threads of the pool may be waiting too. A task that starts late finds nothing to do. */
static XLA_FFI_Error *run(XLA_FFI_CallFrame *frame, Body *body, int64_t units, size_t scratch, const void *job) {
  if (units <= 0) return NULL;
  Loop *loop = calloc(1, sizeof(Loop));
  if (!loop) return fail(frame->api, XLA_FFI_Error_Code_RESOURCE_EXHAUSTED, "no memory for a convolution");
  loop->body = body, loop->units = units, loop->scratch = scratch, loop->job = job;
  atomic_init(&loop->references, 1);
  pthread_mutex_init(&loop->mutex, NULL);
  pthread_cond_init(&loop->finished, NULL);
  XLA_FFI_Error *error = NULL;
  int64_t threads = threads_of(frame);
  for (int64_t i = 1; !error && i < threads && i < units; i++) {
    XLA_FFI_ThreadPool_Schedule_Args args = {XLA_FFI_ThreadPool_Schedule_Args_STRUCT_SIZE, NULL, frame->ctx, task, loop};
    atomic_fetch_add(&loop->references, 1);
    if ((error = frame->api->XLA_FFI_ThreadPool_Schedule(&args))) atomic_fetch_sub(&loop->references, 1);
  }
  if (error) { /* no pool: this thread does all units */
    XLA_FFI_Error_Destroy_Args args = {XLA_FFI_Error_Destroy_Args_STRUCT_SIZE, NULL, error};
    frame->api->XLA_FFI_Error_Destroy(&args);
  }
  work(loop);
  pthread_mutex_lock(&loop->mutex);
  while (atomic_load(&loop->done) < units) pthread_cond_wait(&loop->finished, &loop->mutex);
  pthread_mutex_unlock(&loop->mutex);
  int failed = atomic_load(&loop->failed);
  release(loop);
  return failed ? fail(frame->api, XLA_FFI_Error_Code_RESOURCE_EXHAUSTED, "no memory for a convolution's scratch") : NULL;
}

/* ---- Blocks of sums in registers. `rows` and `vecs` are constants where these functions are inlined. ---- */

/* y[to[n], :] = sum over r < count, k < depth of a[r * a_next + from[n] + k] * b[r * b_next + k * b_row, :] */
INLINE void scattered(const int rows, const int vecs, int64_t count, int64_t depth, const float *a, int64_t a_next,
                      const int64_t *from, const float *b, int64_t b_next, int64_t b_row, float *y, const int64_t *to) {
  vec sums[ROWS][4];
  UNROLL for (int n = 0; n < rows; n++) UNROLL for (int v = 0; v < vecs; v++) sums[n][v] = (vec){0};
  for (int64_t r = 0; r < count; r++, a += a_next, b += b_next) {
    const float *p[ROWS], *q = b;
    UNROLL for (int n = 0; n < rows; n++) p[n] = a + from[n];
    for (int64_t k = 0; k < depth; k++, q += b_row) {
      vec right[4];
      UNROLL for (int v = 0; v < vecs; v++) right[v] = load(q + v * LANES);
      UNROLL for (int n = 0; n < rows; n++) {
        float left = p[n][k];
        UNROLL for (int v = 0; v < vecs; v++) sums[n][v] += left * right[v];
      }
    }
  }
  UNROLL for (int n = 0; n < rows; n++) UNROLL for (int v = 0; v < vecs; v++) store(y + to[n] + v * LANES, sums[n][v]);
}

/* The same for rows at equal steps: from[n] = n * a_row, to[n] = n * y_row. */
INLINE void products(const int rows, const int vecs, int64_t count, int64_t depth, const float *a, int64_t a_next,
                     int64_t a_row, const float *b, int64_t b_next, int64_t b_row, float *y, int64_t y_row) {
  int64_t from[ROWS], to[ROWS];
  UNROLL for (int n = 0; n < rows; n++) from[n] = n * a_row, to[n] = n * y_row;
  scattered(rows, vecs, count, depth, a, a_next, from, b, b_next, b_row, y, to);
}

/* y[n, :] += sum over r < count, k < depth of a[r * a_next + k * a_row + n] * b[r * b_next + k * b_row, :] */
INLINE void outer(const int rows, const int vecs, int64_t count, int64_t depth, const float *a, int64_t a_next, int64_t a_row,
                  const float *b, int64_t b_next, int64_t b_row, float *y, int64_t y_row) {
  vec sums[ROWS][4];
  UNROLL for (int n = 0; n < rows; n++) UNROLL for (int v = 0; v < vecs; v++) sums[n][v] = load(y + n * y_row + v * LANES);
  for (int64_t r = 0; r < count; r++, a += a_next, b += b_next) {
    const float *p = a, *q = b;
    for (int64_t k = 0; k < depth; k++, p += a_row, q += b_row) {
      vec right[4];
      UNROLL for (int v = 0; v < vecs; v++) right[v] = load(q + v * LANES);
      UNROLL for (int n = 0; n < rows; n++) {
        float left = p[n];
        UNROLL for (int v = 0; v < vecs; v++) sums[n][v] += left * right[v];
      }
    }
  }
  UNROLL for (int n = 0; n < rows; n++) UNROLL for (int v = 0; v < vecs; v++) store(y + n * y_row + v * LANES, sums[n][v]);
}

/* All rows and columns, in such blocks; columns is a multiple of LANES. `a_step` is the step in a for each row of y. */
#define DEFINE_ALL(name, block, a_step, VECS)                                                                        \
  static __attribute__((noinline)) void name##_##VECS(int64_t rows, int64_t count, int64_t depth, const float *a,    \
                                                      int64_t a_next, int64_t a_row, const float *b, int64_t b_next, \
                                                      int64_t b_row, float *y, int64_t y_row) {                      \
    int64_t n = 0;                                                                                                   \
    for (; n + ROWS <= rows; n += ROWS)                                                                              \
      block(ROWS, VECS, count, depth, a + n * (a_step), a_next, a_row, b, b_next, b_row, y + n * y_row, y_row);      \
    if (rows - n >= 4) {                                                                                             \
      block(4, VECS, count, depth, a + n * (a_step), a_next, a_row, b, b_next, b_row, y + n * y_row, y_row);         \
      n += 4;                                                                                                        \
    }                                                                                                                \
    for (; n < rows; n++)                                                                                            \
      block(1, VECS, count, depth, a + n * (a_step), a_next, a_row, b, b_next, b_row, y + n * y_row, y_row);         \
  }
#define DEFINE(name, block, a_step)                                                                                            \
  DEFINE_ALL(name, block, a_step, 1)                                                                                           \
  DEFINE_ALL(name, block, a_step, 2)                                                                                           \
  static void name(int64_t rows, int64_t columns, int64_t count, int64_t depth, const float *a, int64_t a_next, int64_t a_row, \
                   const float *b, int64_t b_next, int64_t b_row, float *y, int64_t y_row) {                                   \
    int64_t c = 0;                                                                                                             \
    for (; c + 2 * LANES <= columns; c += 2 * LANES)                                                                           \
      name##_2(rows, count, depth, a, a_next, a_row, b + c, b_next, b_row, y + c, y_row);                                      \
    for (; c < columns; c += LANES) name##_1(rows, count, depth, a, a_next, a_row, b + c, b_next, b_row, y + c, y_row);        \
  }
DEFINE(all_products, products, a_row)
DEFINE(all_outer, outer, 1)

/* ---- Arguments from XLA ---- */

#define PUBLIC __attribute__((visibility("default")))
#define HANDLER PUBLIC XLA_FFI_Error *
#define BUFFER(list, i) ((XLA_FFI_Buffer *)frame->list.list[i])

/* Answers XLA's query for the API version and returns 1; returns 0 for any other call. */
static int metadata(XLA_FFI_CallFrame *frame) {
  /* __typeof__, because XLA_FFI_API_MINOR 5 (jax 0.12) changed the type's name. */
  __typeof__(frame->extension_start) extension = frame->extension_start;
  if (!extension || extension->type != XLA_FFI_Extension_Metadata) return 0;
  XLA_FFI_Metadata *answer = ((XLA_FFI_Metadata_Extension *)extension)->metadata;
  answer->api_version.major_version = XLA_FFI_API_MAJOR;
  answer->api_version.minor_version = XLA_FFI_API_MINOR;
  answer->traits = 0;
  answer->state_type_id.type_id = 0;
  return 1;
}

static const int64_t *geometry(XLA_FFI_CallFrame *frame) { return ((XLA_FFI_Array *)frame->attrs.attrs[0])->data; }

/* The arrays of a call: images x, their factor b, and the result y. rows and columns are the size of the output. */
typedef struct {
  const float *x, *b;
  float *y;
  int64_t batch, height, width, in, rows, columns, out, top, left;
  int64_t parts;  /* number of parts of a kernel gradient; they are added in order */
  int64_t slices; /* number of slices of each part; above 1 if there are more threads than parts */
  /* direct */
  int64_t in_step, out_step, padded_height, padded_width, kh, kw, phases;
  const int64_t *phase; /* per phase: kernel height and width, first row and column of y and of padded x, offset in b */
  int64_t group; /* images, or tiles, in a unit */
  /* Winograd */
  int64_t down, across, tiles;
} Job;

static Job job(XLA_FFI_CallFrame *frame, const XLA_FFI_Buffer *output) {
  const int64_t *x = BUFFER(args, 0)->dims, *o = output->dims;
  return (Job){.x = BUFFER(args, 0)->data,
               .b = BUFFER(args, 1)->data,
               .y = BUFFER(rets, 0)->data,
               .batch = x[0],
               .height = x[1],
               .width = x[2],
               .in = x[3],
               .rows = o[1],
               .columns = o[2],
               .out = o[3],
               .slices = 1};
}

/* A kernel gradient and its parts, `size` floats each. */
typedef struct {
  const float *parts;
  float *y;
  int64_t number, size, in, out;
} Sums;

/* Computes the parts into the second result, then their sum into the first result with `add`. */
static XLA_FFI_Error *run_parts(XLA_FFI_CallFrame *frame, Job *j, Body *body, size_t scratch, int64_t size, Body *add,
                                int64_t units) {
  j->parts = BUFFER(rets, 1)->dims[0];
  j->y = BUFFER(rets, 1)->data;
  XLA_FFI_Error *error = run(frame, body, j->parts * j->slices, scratch, j);
  Sums s = {.parts = j->y, .y = BUFFER(rets, 0)->data, .number = j->parts, .size = size, .in = j->in, .out = j->out};
  return error ? error : run(frame, add, units, 0, &s);
}

#endif
