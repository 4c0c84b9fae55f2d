"""Trains a network of resnet_jax in your own training loop, with Flax NNX and optax: python examples/train_nnx.py"""

import numpy as np
import optax
from flax import nnx

from resnet_jax import load_dataset
from resnet_jax.nnx import create_model

EPOCHS, BATCH_SIZE = 5, 64

data = load_dataset('digits')  # uint8 images [n, 8, 8, 1]; pip install 'resnet_jax[quickstart]'
model = create_model('resnet8', num_classes=len(data.class_names), rngs=nnx.Rngs(0), image_shape=(8, 8, 1))


def normalized(images):
    return (images.astype(np.float32) / 255 - data.mean) / data.std


@nnx.jit
def train_step(model, optimizer, images, labels):
    def loss_fn(model):
        return optax.softmax_cross_entropy_with_integer_labels(model(images), labels).mean()

    loss, gradients = nnx.value_and_grad(loss_fn)(model)
    optimizer.update(model, gradients)
    return loss


rng = np.random.default_rng(0)
optimizer = nnx.Optimizer(model, optax.sgd(0.05, momentum=0.9, nesterov=True), wrt=nnx.Param)
for epoch in range(EPOCHS):
    model.train()
    for batch in np.split(rng.permutation(len(data.train.image)), range(BATCH_SIZE, len(data.train.image), BATCH_SIZE))[:-1]:
        loss = train_step(model, optimizer, normalized(data.train.image[batch]), data.train.label[batch])
    model.eval()
    logits = nnx.jit(lambda model, images: model(images))(model, normalized(data.test.image))
    print(f'Epoch {epoch + 1}: loss {loss:.3f}, test accuracy {(logits.argmax(1) == data.test.label).mean():.1%}')
