/* Stride-1 3x3 convolutions of float32 NHWC images by Winograd's minimal filtering F(4x4, 3x3): Lavin and Gray,
   arXiv:1509.09308, sections 4.1 to 4.3. `in` and `out` are multiples of LANES.

   resnet_jax_winograd                  the output, from the image and the transformed kernel [36, in, out]
   resnet_jax_winograd_kernel_gradient  the kernel gradient */

#include "kernels.h"

#define TILES 32          /* tiles in a unit of a convolution */
#define GRADIENT_TILES 64 /* tiles in a unit of a kernel gradient, which reads and writes its sums once per unit */

/* Floats of one place for all tiles of a unit: a cache line more than a power of two, so that the 36 places do not fall into
   few cache sets. */
#define PLACE(channels) (w->group * (channels) + 16)

INLINE void input6(const vec *d, int step, vec *t, int to) {
  vec even = d[4 * step] - 4.f * d[2 * step], odd = d[3 * step] - 4.f * d[step];
  vec near_even = d[4 * step] - d[2 * step], near_odd = 2.f * (d[3 * step] - d[step]);
  t[0] = 4.f * d[0] - 5.f * d[2 * step] + d[4 * step];
  t[to] = even + odd, t[2 * to] = even - odd, t[3 * to] = near_even + near_odd, t[4 * to] = near_even - near_odd;
  t[5 * to] = 4.f * d[step] - 5.f * d[3 * step] + d[5 * step];
}

INLINE void output4(const vec *m, int step, vec *y, int to) {
  vec sum = m[step] + m[2 * step], difference = m[step] - m[2 * step];
  vec sum2 = m[3 * step] + m[4 * step], difference2 = m[3 * step] - m[4 * step];
  y[0] = m[0] + sum + sum2, y[to] = difference + 2.f * difference2, y[2 * to] = sum + 4.f * sum2;
  y[3 * to] = difference + 8.f * difference2 + m[5 * step];
}

INLINE void output_transposed6(const vec *g, int step, vec *t, int to) {
  vec even = g[0] + g[2 * step], odd = g[step] + g[3 * step];
  vec far_even = g[0] + 4.f * g[2 * step], far_odd = 2.f * g[step] + 8.f * g[3 * step];
  t[0] = g[0], t[to] = even + odd, t[2 * to] = even - odd, t[3 * to] = far_even + far_odd, t[4 * to] = far_even - far_odd;
  t[5 * to] = g[3 * step];
}

/* Returns `size` x `size` pixels of an image from (row, column), zero outside the image; no copy if all are inside. */
INLINE const float *window(const float *image, int64_t height, int64_t width, int64_t channels, int64_t row, int64_t column,
                           int64_t size, float *copy, int64_t *stride) {
  if (row >= 0 && column >= 0 && row + size <= height && column + size <= width) {
    *stride = width * channels;
    return image + (row * width + column) * channels;
  }
  *stride = size * channels;
  int64_t first = column < 0 ? -column : 0, last = width - column < size ? width - column : size;
  memset(copy, 0, size * size * channels * 4);
  for (int64_t i = 0; i < size; i++)
    if (row + i >= 0 && row + i < height && last > first)
      memcpy(copy + (i * size + first) * channels, image + ((row + i) * width + column + first) * channels,
             (last - first) * channels * 4);
  return copy;
}

/* Computes places[36, tiles, in] for tiles `first` to `first + tiles`. */
static void transform_input(const Job *w, int64_t first, int64_t tiles, float *places, float *copy) {
  for (int64_t t = 0; t < tiles; t++) {
    int64_t tile = first + t, image = tile / (w->down * w->across), row = tile / w->across % w->down, stride;
    const float *x = window(w->x + image * w->height * w->width * w->in, w->height, w->width, w->in, 4 * row - w->top,
                            tile % w->across * 4 - w->left, 6, copy, &stride);
    for (int64_t c = 0; c < w->in; c += LANES) {
      vec d[36], columns[36], out[36];
      UNROLL for (int i = 0; i < 6; i++) UNROLL for (int j = 0; j < 6; j++) d[6 * i + j] = load(x + i * stride + j * w->in + c);
      UNROLL for (int j = 0; j < 6; j++) input6(d + j, 6, columns + j, 6);
      UNROLL for (int i = 0; i < 6; i++) input6(columns + 6 * i, 1, out + 6 * i, 1);
      for (int p = 0; p < 36; p++) store(places + p * PLACE(w->in) + t * w->in + c, out[p]);
    }
  }
}

static int64_t tiles_of(const Job *w, int64_t unit, int64_t *first) {
  *first = unit * w->group;
  return w->tiles - *first < w->group ? w->tiles - *first : w->group;
}

static void winograd_unit(const Loop *loop, int64_t unit, float *scratch) {
  const Job *w = loop->job;
  int64_t first, tiles = tiles_of(w, unit, &first);
  float *places = scratch, *sums = places + 36 * PLACE(w->in), *copy = sums + 36 * PLACE(w->out);
  transform_input(w, first, tiles, places, copy);
  for (int64_t p = 0; p < 36; p++)
    all_products(tiles, w->out, 1, w->in, places + p * PLACE(w->in), 0, w->in, w->b + p * w->in * w->out, 0, w->out,
                 sums + p * PLACE(w->out), w->out);
  for (int64_t t = 0; t < tiles; t++) {
    int64_t tile = first + t, image = tile / (w->down * w->across);
    int64_t row = tile / w->across % w->down * 4, column = tile % w->across * 4;
    float *y = w->y + ((image * w->rows + row) * w->columns + column) * w->out;
    for (int64_t c = 0; c < w->out; c += LANES) {
      vec m[36], lines[24], out[16];
      UNROLL for (int p = 0; p < 36; p++) m[p] = load(sums + p * PLACE(w->out) + t * w->out + c);
      UNROLL for (int j = 0; j < 6; j++) output4(m + j, 6, lines + j, 6);
      UNROLL for (int i = 0; i < 4; i++) output4(lines + 6 * i, 1, out + 4 * i, 1);
      for (int i = 0; i < 4 && row + i < w->rows; i++)
        for (int j = 0; j < 4 && column + j < w->columns; j++) store(y + (i * w->columns + j) * w->out + c, out[4 * i + j]);
    }
  }
}

/* A slice of a part: some of its output channels. */
static void winograd_gradient_part(const Loop *loop, int64_t piece, float *scratch) {
  const Job *w = loop->job;
  int64_t part = piece / w->slices, slice = w->out / w->slices, c0 = piece % w->slices * slice;
  int64_t size = 36 * w->in * w->out, units = (w->tiles + w->group - 1) / w->group;
  float *places = scratch, *grads = places + 36 * PLACE(w->in), *copy = grads + 36 * PLACE(slice), *y = w->y + part * size + c0;
  for (int64_t row = 0; row < 36 * w->in; row++) memset(y + row * w->out, 0, slice * 4);
  for (int64_t unit = part; unit < units; unit += w->parts) {
    int64_t first, tiles = tiles_of(w, unit, &first);
    transform_input(w, first, tiles, places, copy);
    for (int64_t t = 0; t < tiles; t++) {
      int64_t tile = first + t, image = tile / (w->down * w->across), stride;
      const float *g = window(w->b + image * w->rows * w->columns * w->out, w->rows, w->columns, w->out,
                              tile / w->across % w->down * 4, tile % w->across * 4, 4, copy, &stride);
      for (int64_t c = 0; c < slice; c += LANES) {
        vec d[16], columns[24], out[36];
        UNROLL for (int i = 0; i < 4; i++) UNROLL for (int j = 0; j < 4; j++) d[4 * i + j] =
            load(g + i * stride + j * w->out + c0 + c);
        UNROLL for (int j = 0; j < 4; j++) output_transposed6(d + j, 4, columns + j, 4);
        UNROLL for (int i = 0; i < 6; i++) output_transposed6(columns + 4 * i, 1, out + 6 * i, 1);
        for (int p = 0; p < 36; p++) store(grads + p * PLACE(slice) + t * slice + c, out[p]);
      }
    }
    for (int64_t p = 0; p < 36; p++)
      all_outer(w->in, slice, 1, tiles, places + p * PLACE(w->in), 0, w->in, grads + p * PLACE(slice), 0, slice,
                y + p * w->in * w->out, w->out);
  }
}

INLINE void kernel_transposed3(const vec *d, int step, vec *t, int to) {
  vec near = d[step] + d[2 * step], far = d[3 * step] + d[4 * step];
  t[0] = d[0] * 0.25f - near * (1 / 6.f) + far * (1 / 24.f);
  t[to] = (d[2 * step] - d[step]) * (1 / 6.f) + (d[3 * step] - d[4 * step]) * (1 / 12.f);
  t[2 * to] = (far - near) * (1 / 6.f) + d[5 * step];
}

static void transform_parts(const Loop *loop, int64_t channel, float *scratch) {
  const Sums *s = loop->job;
  for (int64_t c = 0; c < s->out; c += LANES) {
    vec d[36], columns[18], out[9];
    for (int p = 0; p < 36; p++) {
      const float *from = s->parts + (p * s->in + channel) * s->out + c;
      d[p] = load(from);
      for (int64_t part = 1; part < s->number; part++) d[p] += load(from + part * s->size);
    }
    UNROLL for (int j = 0; j < 6; j++) kernel_transposed3(d + j, 6, columns + j, 6);
    UNROLL for (int i = 0; i < 3; i++) kernel_transposed3(columns + 6 * i, 1, out + 3 * i, 1);
    for (int i = 0; i < 9; i++) store(s->y + (i * s->in + channel) * s->out + c, out[i]);
  }
}

static Job winograd(XLA_FFI_CallFrame *frame, const XLA_FFI_Buffer *output, int64_t group) {
  const int64_t *v = geometry(frame);
  Job w = job(frame, output);
  w.top = v[0], w.left = v[1], w.down = (w.rows + 3) / 4, w.across = (w.columns + 3) / 4, w.group = group;
  w.tiles = w.batch * w.down * w.across;
  return w;
}

static size_t winograd_scratch(const Job *w) {
  return 36 * (PLACE(w->in) + PLACE(w->out)) + 36 * (w->in > w->out ? w->in : w->out);
}

HANDLER resnet_jax_winograd(XLA_FFI_CallFrame *frame) {
  if (metadata(frame)) return NULL;
  Job w = winograd(frame, BUFFER(rets, 0), TILES);
  return run(frame, winograd_unit, (w.tiles + w.group - 1) / w.group, winograd_scratch(&w), &w);
}

HANDLER resnet_jax_winograd_kernel_gradient(XLA_FFI_CallFrame *frame) {
  if (metadata(frame)) return NULL;
  Job w = winograd(frame, BUFFER(args, 1), GRADIENT_TILES);
  int64_t parts = BUFFER(rets, 1)->dims[0], threads = threads_of(frame); /* each slice transforms the images again */
  while (parts * w.slices < threads && w.out / w.slices > 2 * LANES && w.out / w.slices % (2 * LANES) == 0) w.slices *= 2;
  return run_parts(frame, &w, winograd_gradient_part, winograd_scratch(&w), 36 * w.in * w.out, transform_parts, w.in);
}
