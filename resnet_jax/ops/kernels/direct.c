/* Direct convolutions of float32 NHWC images, of any kernel, stride and padding.

   resnet_jax_conv             the output; with out_step above 1 the input gradient, one phase per position modulo out_step
   resnet_jax_kernel_gradient  the kernel gradient */

#include "kernels.h"

/* Returns the image padded with zeros (cropped if the padding is negative); in scratch, unless it needs no padding. */
static const float *pad(const Job *d, const float *x, float *scratch) {
  if (!d->top && !d->left && d->padded_height == d->height && d->padded_width == d->width) return x;
  int64_t row = d->padded_width * d->in, first = d->left < 0 ? -d->left : 0, before = d->left > 0 ? d->left : 0;
  int64_t columns = d->width - first;
  if (columns > d->padded_width - before) columns = d->padded_width - before;
  if (columns < 0) columns = 0;
  for (int64_t i = 0; i < d->padded_height; i++) {
    float *to = scratch + i * row;
    int64_t source = i - d->top;
    if (source < 0 || source >= d->height) {
      memset(to, 0, row * 4);
    } else {
      memset(to, 0, before * d->in * 4);
      memcpy(to + before * d->in, x + (source * d->width + first) * d->in, columns * d->in * 4);
      memset(to + (before + columns) * d->in, 0, (row - (before + columns) * d->in) * 4);
    }
  }
  return scratch;
}

#define PIXELS 128 /* pixels for which a panel of the kernel, 2 * LANES columns, is read once */

#define DEFINE_PIXELS(VECS)                                                                                            \
  static __attribute__((noinline)) void pixels_##VECS(int64_t number, int64_t count, int64_t depth, const float *x,    \
                                                      int64_t x_next, const int64_t *from, const float *b,             \
                                                      int64_t b_next, int64_t b_row, float *y, const int64_t *to) {    \
    int64_t n = 0;                                                                                                     \
    for (; n + ROWS <= number; n += ROWS)                                                                              \
      scattered(ROWS, VECS, count, depth, x, x_next, from + n, b, b_next, b_row, y, to + n);                           \
    if (number - n >= 4) {                                                                                             \
      scattered(4, VECS, count, depth, x, x_next, from + n, b, b_next, b_row, y, to + n);                              \
      n += 4;                                                                                                          \
    }                                                                                                                  \
    for (; n < number; n++) scattered(1, VECS, count, depth, x, x_next, from + n, b, b_next, b_row, y, to + n);        \
  }
DEFINE_PIXELS(1)
DEFINE_PIXELS(2)

static void conv_unit(const Loop *loop, int64_t unit, float *scratch) {
  const Job *d = loop->job;
  int64_t first = unit * d->group, images = d->batch - first < d->group ? d->batch - first : d->group;
  int64_t size = d->height * d->width * d->in, padded = d->padded_height * d->padded_width * d->in;
  const float *x = pad(d, d->x + first * size, scratch);
  if (x == scratch)
    for (int64_t i = 1; i < images; i++) pad(d, d->x + (first + i) * size, scratch + i * padded);
  float *y = d->y + first * d->rows * d->columns * d->out;
  int64_t x_row = d->padded_width * d->in, s = d->in_step, t = d->out_step;
  for (int64_t i = 0; i < d->phases; i++) {
    const int64_t *p = d->phase + 7 * i;
    int64_t depth = p[1] * d->in, column = p[3], row = p[2], image = 0; /* the next pixel */
    if (column >= d->columns || row >= d->rows) continue;
    while (image < images) {
      int64_t number = 0, from[PIXELS], to[PIXELS], c = 0;
      while (number < PIXELS && image < images) {
        int64_t f = image * padded + ((row - p[2]) / t * s + p[4]) * x_row + ((column - p[3]) / t * s + p[5]) * d->in;
        int64_t o = ((image * d->rows + row) * d->columns + column) * d->out;
        for (; number < PIXELS && column < d->columns; column += t, f += s * d->in, o += t * d->out)
          from[number] = f, to[number++] = o;
        if (column >= d->columns) column = p[3], row += t;
        if (row >= d->rows) row = p[2], image++;
      }
      for (; c + 2 * LANES <= d->out; c += 2 * LANES)
        pixels_2(number, p[0], depth, x, x_row, from, d->b + p[6] + c, depth * d->out, d->out, y + c, to);
      for (; c < d->out; c += LANES)
        pixels_1(number, p[0], depth, x, x_row, from, d->b + p[6] + c, depth * d->out, d->out, y + c, to);
    }
  }
}

/* A slice of a part: one row of the kernel, or all rows. */
static void gradient_part(const Loop *loop, int64_t piece, float *scratch) {
  const Job *d = loop->job;
  int64_t depth = d->kw * d->in, x_row = d->padded_width * d->in, s = d->in_step, size = d->kh * depth * d->out;
  int64_t part = piece / d->slices, rows = d->kh / d->slices, first = piece % d->slices * rows;
  float *y = d->y + part * size;
  memset(y + first * depth * d->out, 0, rows * depth * d->out * 4);
  for (int64_t image = part; image < d->batch; image += d->parts) {
    const float *x = pad(d, d->x + image * d->height * d->width * d->in, scratch);
    const float *g = d->b + image * d->rows * d->columns * d->out;
    for (int64_t i = first; i < first + rows; i++)
      all_outer(depth, d->out, d->rows, d->columns, x + i * x_row, s * x_row, s * d->in, g, d->columns * d->out, d->out,
                y + i * depth * d->out, d->out);
  }
}

#define SUM 4096 /* floats in a unit */

static void sum_parts(const Loop *loop, int64_t unit, float *scratch) {
  const Sums *s = loop->job;
  int64_t first = unit * SUM, last = first + SUM < s->size ? first + SUM : s->size;
  memcpy(s->y + first, s->parts + first, (last - first) * 4);
  for (int64_t part = 1; part < s->number; part++)
    for (int64_t i = first; i < last; i += LANES) store(s->y + i, load(s->y + i) + load(s->parts + part * s->size + i));
}

static Job direct(XLA_FFI_CallFrame *frame, const XLA_FFI_Buffer *output) {
  const int64_t *v = geometry(frame);
  Job d = job(frame, output);
  d.in_step = v[0], d.out_step = v[1], d.top = v[2], d.left = v[3], d.padded_height = v[4], d.padded_width = v[5];
  return d;
}

PUBLIC int resnet_jax_lanes(void) { return LANES; }

HANDLER resnet_jax_conv(XLA_FFI_CallFrame *frame) {
  if (metadata(frame)) return NULL;
  Job d = direct(frame, BUFFER(rets, 0));
  d.phases = geometry(frame)[6];
  d.phase = geometry(frame) + 7;
  int64_t pixels = d.rows * d.columns;
  d.group = pixels && pixels < PIXELS ? PIXELS / pixels : 1;
  while (d.group > 1 && d.batch < 4 * d.group * threads_of(frame)) d.group /= 2; /* enough units for all threads */
  return run(frame, conv_unit, (d.batch + d.group - 1) / d.group, d.group * d.padded_height * d.padded_width * d.in, &d);
}

HANDLER resnet_jax_kernel_gradient(XLA_FFI_CallFrame *frame) {
  if (metadata(frame)) return NULL;
  Job d = direct(frame, BUFFER(args, 1));
  const int64_t *y = BUFFER(rets, 0)->dims;
  d.kh = y[0], d.kw = y[1];
  int64_t size = d.kh * d.kw * d.in * d.out;
  size_t scratch = d.padded_height * d.padded_width * d.in;
  if (BUFFER(rets, 1)->dims[0] < threads_of(frame)) d.slices = d.kh; /* each slice pads the images again */
  return run_parts(frame, &d, gradient_part, scratch, size, sum_parts, (size + SUM - 1) / SUM);
}
