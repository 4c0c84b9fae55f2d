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

static void conv_image(const Loop *loop, int64_t image, float *scratch) {
  const Job *d = loop->job;
  const float *x = pad(d, d->x + image * d->height * d->width * d->in, scratch);
  float *y = d->y + image * d->rows * d->columns * d->out;
  int64_t x_row = d->padded_width * d->in, s = d->in_step, t = d->out_step;
  for (int64_t i = 0; i < d->phases; i++) {
    const int64_t *p = d->phase + 7 * i;
    int64_t depth = p[1] * d->in, columns = (d->columns - p[3] + t - 1) / t;
    for (int64_t row = p[2], r = 0; row < d->rows; row += t, r++)
      all_products(columns, d->out, p[0], depth, x + (r * s + p[4]) * x_row + p[5] * d->in, x_row, s * d->in, d->b + p[6],
                   depth * d->out, d->out, y + (row * d->columns + p[3]) * d->out, t * d->out);
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
  return run(frame, conv_image, d.batch, d.padded_height * d.padded_width * d.in, &d);
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
