"""Channel means and standard deviations by name, as they were used to train published weights."""

from resnet_jax.data.sources import SOURCES
from resnet_jax.errors import ConfigError, did_you_mean

Normalization = tuple[tuple[float, ...], tuple[float, ...]]

NORMALIZATIONS: dict[str, Normalization] = {
    **{name: (source.mean, source.std) for name, source in SOURCES.items()},
    # torchvision's and timm's weights; on CIFAR-10 also akamaster's.
    'imagenet': ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    # github.com/kuangliu/pytorch-cifar: CIFAR-10 with the mean of per-image standard deviations.
    'kuangliu': ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    'half': ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    'none': ((0.0,), (1.0,)),
}


def find_normalization(name: str) -> Normalization:
    """Returns mean and standard deviation of pixels scaled to [0, 1].

    Raises:
      ConfigError: the name is unknown.
    """
    if name not in NORMALIZATIONS:
        hint = did_you_mean(name, NORMALIZATIONS)
        raise ConfigError(f'unknown normalization {name!r}{hint}; available: {", ".join(NORMALIZATIONS)}')
    return NORMALIZATIONS[name]
