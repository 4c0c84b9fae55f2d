"""Trains a network of resnet_jax in your own training loop, with Flax linen and optax: python examples/train_linen.py"""

import jax
import numpy as np
import optax

from resnet_jax import create_model, load_dataset

EPOCHS, BATCH_SIZE = 5, 64

data = load_dataset('digits')  # uint8 images [n, 8, 8, 1]; pip install 'resnet_jax[quickstart]'
model = create_model('resnet8', num_classes=len(data.class_names))


def normalized(images):
    return (images.astype(np.float32) / 255 - data.mean) / data.std


@jax.jit
def train_step(variables, optimizer_state, images, labels):
    def loss_fn(params):
        inputs = {**variables, 'params': params}
        logits, updated = model.apply(inputs, images, train=True, mutable=['batch_stats'])
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), updated

    (loss, updated), gradients = jax.value_and_grad(loss_fn, has_aux=True)(variables['params'])
    updates, optimizer_state = optimizer.update(gradients, optimizer_state)
    return {'params': optax.apply_updates(variables['params'], updates), **updated}, optimizer_state, loss


rng = np.random.default_rng(0)
optimizer = optax.sgd(0.05, momentum=0.9, nesterov=True)
variables = model.init(jax.random.key(0), normalized(data.train.image[:1]), train=False)
optimizer_state = optimizer.init(variables['params'])
for epoch in range(EPOCHS):
    for batch in np.split(rng.permutation(len(data.train.image)), range(BATCH_SIZE, len(data.train.image), BATCH_SIZE))[:-1]:
        images, labels = normalized(data.train.image[batch]), data.train.label[batch]
        variables, optimizer_state, loss = train_step(variables, optimizer_state, images, labels)
    logits = jax.jit(lambda variables, images: model.apply(variables, images, train=False))(
        variables, normalized(data.test.image)
    )
    print(f'Epoch {epoch + 1}: loss {loss:.3f}, test accuracy {(logits.argmax(1) == data.test.label).mean():.1%}')
