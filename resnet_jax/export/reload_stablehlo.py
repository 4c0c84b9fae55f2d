"""Runs an artifact as a user would, with only jax: python -I reload_stablehlo.py ARTIFACT [IMAGES.npy ANSWER.npy]..."""

import sys
from pathlib import Path

for _name in ('resnet_jax', 'flax', 'optax', 'orbax'):
    sys.modules[_name] = None  # type: ignore[assignment]  # from now on `import` raises ImportError, even if it is installed


def main(artifact: str, *files: str) -> None:
    """For each pair of files, runs the artifact's network on the images and writes the answers."""
    import jax
    import numpy as np
    from jax import export

    classify = jax.jit(export.deserialize(bytearray(Path(artifact).read_bytes())).call)
    for images, answer in zip(files[::2], files[1::2], strict=True):
        np.save(answer, classify(np.load(images)))


if __name__ == '__main__':
    main(*sys.argv[1:])
