/* Calls a kernel as XLA does, in a program of another processor: call_kernel NAME FILE.

   FILE has int64 numbers: arguments, results, geometry's length, geometry, then rank and dimensions of each argument and
   result; and behind them the arguments' floats. The first result's floats go to standard output. */

#include <stdio.h>

#include "kernels.h"

HANDLER resnet_jax_conv(XLA_FFI_CallFrame *);
HANDLER resnet_jax_kernel_gradient(XLA_FFI_CallFrame *);
HANDLER resnet_jax_winograd(XLA_FFI_CallFrame *);
HANDLER resnet_jax_winograd_kernel_gradient(XLA_FFI_CallFrame *);

static XLA_FFI_Error *create_error(XLA_FFI_Error_Create_Args *args) {
  fprintf(stderr, "%s\n", args->message);
  exit(1);
}

static XLA_FFI_Error *threads(XLA_FFI_ThreadPool_NumThreads_Args *args) {
  *args->num_threads = 12; /* more than parts: slices */
  return NULL;
}

typedef struct {
  XLA_FFI_Task *task;
  void *data;
} Scheduled;

static void *start(void *scheduled) {
  ((Scheduled *)scheduled)->task(((Scheduled *)scheduled)->data);
  return NULL;
}

static XLA_FFI_Error *schedule(XLA_FFI_ThreadPool_Schedule_Args *args) {
  Scheduled *scheduled = malloc(sizeof(Scheduled));
  *scheduled = (Scheduled){args->task, args->data};
  pthread_t thread;
  pthread_create(&thread, NULL, start, scheduled);
  return NULL;
}

static int64_t number(FILE *file) {
  int64_t value;
  if (fread(&value, sizeof(value), 1, file) != 1) exit(2);
  return value;
}

int main(int count, char **arguments) {
  FILE *file = fopen(arguments[count - 1], "rb");
  int64_t args = number(file), rets = number(file), length = number(file), values[256], size[8];
  for (int64_t i = 0; i < length; i++) values[i] = number(file);
  XLA_FFI_Buffer buffers[8] = {0};
  void *list[8];
  for (int64_t i = 0; i < args + rets; i++) {
    buffers[i].rank = number(file);
    buffers[i].dims = malloc(8 * sizeof(int64_t));
    size[i] = 1;
    for (int64_t d = 0; d < buffers[i].rank; d++) size[i] *= buffers[i].dims[d] = number(file);
    buffers[i].data = aligned_alloc(64, (size[i] * 4 + 63) / 64 * 64);
    memset(buffers[i].data, 0xff, size[i] * 4); /* NaN: what is not written shows */
    list[i] = &buffers[i];
  }
  for (int64_t i = 0; i < args; i++)
    if (fread(buffers[i].data, 4, size[i], file) != (size_t)size[i]) return 2;
  XLA_FFI_Api api = {.XLA_FFI_Error_Create = create_error,
                     .XLA_FFI_ThreadPool_NumThreads = threads,
                     .XLA_FFI_ThreadPool_Schedule = schedule};
  XLA_FFI_Array geometry = {.size = length, .data = values};
  void *attributes[] = {&geometry};
  XLA_FFI_CallFrame frame = {.api = &api,
                             .args = {.size = args, .args = list},
                             .rets = {.size = rets, .rets = list + args},
                             .attrs = {.size = 1, .attrs = attributes}};
  const char *name = arguments[1];
  XLA_FFI_Error *(*kernel)(XLA_FFI_CallFrame *) = !strcmp(name, "conv")              ? resnet_jax_conv
                                                  : !strcmp(name, "kernel_gradient") ? resnet_jax_kernel_gradient
                                                  : !strcmp(name, "winograd")        ? resnet_jax_winograd
                                                                                     : resnet_jax_winograd_kernel_gradient;
  if (kernel(&frame)) return 1;
  fwrite(buffers[args].data, 4, size[args], stdout);
  return 0;
}
