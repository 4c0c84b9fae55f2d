"""Several networks as one network with the mean of their logits."""

import flax.linen as nn
import jax


class Ensemble(nn.Module):
    """The mean of the logits of several networks.

    Attributes:
      members: the networks, with equal numbers of classes. The variables of the i-th network are under 'members_<i>'.
    """

    members: tuple[nn.Module, ...]

    @property
    def num_classes(self) -> int:
        """Number of logits."""
        return self.members[0].num_classes  # type: ignore[no-any-return]

    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Returns float32 logits `[batch, num_classes]` of normalised images `[batch, height, width, channels]`."""
        logits: jax.Array = sum(member(images, train=train) for member in self.members) / len(self.members)
        return logits
