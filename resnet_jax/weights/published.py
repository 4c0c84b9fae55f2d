"""The table of published weights by name: `find_weights('timm/resnet50.a1_in1k')`.

Facts and their sources; facts that a source does not state are empty here.

  torchvision  torchvision 0.29, torchvision/models/resnet.py and alexnet.py: address (the file name ends with the first
               eight digits of the SHA-256), size of image and crop, top-1 accuracy. Licence: as stated by timm's copies
               (timm/*.tv_in1k).
  timm         huggingface.co/timm: SHA-256 of model.safetensors (the file's page), licence (model card). Size of image,
               crop, mean and std from timm/models/resnet.py; top-1 accuracy at this size and crop from
               results/results-imagenet.csv.
  chenyaofo    github.com/chenyaofo/pytorch-cifar-models: address and top-1 accuracy (README.md), licence (LICENSE). Mean and
               std from conf/cifar10.conf and cifar100.conf of chenyaofo/image-classification-codebase. No hash is stated.
  akamaster    github.com/akamaster/pytorch_resnet_cifar10: address and test error (README.md), mean and std (trainer.py),
               licence (LICENSE). The file names end with the first digits of the SHA-256; all 64 digits were computed from
               the files.
  resnet_jax   trained by this package; digits/README.md has the command.
"""

import dataclasses
from collections.abc import Iterator
from types import MappingProxyType

from resnet_jax.errors import ConfigError, did_you_mean
from resnet_jax.models import create_model
from resnet_jax.typing import Json, JsonDict

_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_HALF = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)


@dataclasses.dataclass(frozen=True)
class PublishedWeights:
    """Published weights, with the facts that are needed to use them.

    Attributes:
      name: '<publisher>/<model>.<recipe and data>'.
      url: https://..., hf://OWNER/REPOSITORY/FILE on the Hugging Face Hub, or package:FILE below this folder.
      sha256: SHA-256 of the file, in hexadecimal: all 64 digits, the first digits, or '' if none are published.
      licence: identifier of the Hugging Face Hub; '' if it is not stated.
      model, model_kwargs: the arguments of `create_model`.
      dataset: the training data: 'imagenet', 'cifar10', 'cifar100' or 'digits'.
      image_shape: (height, width, channels) for which the accuracy is published.
      mean, std: mean and standard deviation of pixels scaled to [0, 1].
      crop: side of the centre square that is used, as a share of the shorter side of the image.
      interpolation: 'bilinear' or 'bicubic'.
      accuracy: published top-1 accuracy on the test set (ImageNet: validation set), in percent; None if none is stated.
    """

    name: str
    url: str
    sha256: str
    licence: str
    model: str
    model_kwargs: Json
    dataset: str
    image_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop: float
    interpolation: str
    accuracy: float | None

    @property
    def num_classes(self) -> int:
        """Number of logits."""
        return {'imagenet': 1000, 'cifar100': 100}.get(self.dataset, 10)

    @property
    def preprocessing(self) -> JsonDict:
        """The facts that are not in the file of weights, by the names of `Classifier.describe`."""
        names = 'mean', 'std', 'crop', 'interpolation', 'dataset', 'licence'
        return {name: getattr(self, name) for name in names}

    def checked(self, model: str | None) -> str:
        """Returns the name of the model; `model` is the name that the caller expects, or None.

        Raises:
          ConfigError: the weights are of another model.
        """
        if model not in (None, self.model):
            others = available_weights(model)
            instead = f'{others[0]} are of {model}' if others else f'no weights of {model} have a name here'
            raise ConfigError(
                f'{self.name} are weights of {self.model}, not of {model}; expected model={self.model}; {instead}'
            )
        return self.model


_TORCHVISION = (  # model, recipe, digits of the SHA-256, side before the crop to 224, accuracy
    ('resnet18', 1, 'f37072fd', 256, 69.758),
    ('resnet34', 1, 'b627a593', 256, 73.314),
    ('resnet50', 1, '0676ba61', 256, 76.130),
    ('resnet50', 2, '11ad3fa6', 232, 80.858),
    ('resnet101', 1, '63fe2227', 256, 77.374),
    ('resnet101', 2, 'cd907fc2', 232, 81.886),
    ('resnet152', 1, '394f9c45', 256, 78.312),
    ('resnet152', 2, 'f82ba261', 232, 82.284),
    ('resnext50_32x4d', 1, '7cdf4587', 256, 77.618),
    ('resnext50_32x4d', 2, '1a0047aa', 232, 81.198),
    ('resnext101_32x8d', 1, '8ba56ff5', 256, 79.312),
    ('resnext101_32x8d', 2, '110c445d', 232, 82.834),
    ('wide_resnet50_2', 1, '95faca4d', 256, 78.468),
    ('wide_resnet50_2', 2, '9ba9bcbe', 232, 81.602),
    ('wide_resnet101_2', 1, '32ee1156', 256, 78.848),
    ('wide_resnet101_2', 2, 'd733dc28', 232, 82.510),
)

_TIMM = (  # model, recipe, side, crop, accuracy
    ('resnet18', 'a1_in1k', 224, 0.95, 71.504),
    ('resnet18d', 'ra2_in1k', 224, 0.875, 72.296),
    ('resnet34', 'a1_in1k', 224, 0.95, 76.420),
    ('resnet34d', 'ra2_in1k', 224, 0.875, 77.108),
    ('resnet50', 'a1_in1k', 224, 0.95, 80.382),
    ('resnet50', 'a2_in1k', 224, 0.95, 79.828),
    ('resnet50', 'b1k_in1k', 224, 0.95, 79.564),
    ('resnet50', 'd_in1k', 224, 0.95, 79.904),
    ('resnet50', 'ra_in1k', 224, 0.875, 78.820),
    ('resnet50d', 'a1_in1k', 224, 0.95, 80.730),
    ('resnet50d', 'ra2_in1k', 224, 0.875, 80.546),
    ('resnet50d', 'ra4_e3600_r224_in1k', 224, 0.95, 80.956),
    ('resnet101', 'a1_in1k', 224, 0.95, 81.494),
    ('resnet101', 'a1h_in1k', 224, 0.95, 81.950),
    ('resnet101d', 'ra2_in1k', 256, 0.95, 82.254),
    ('resnet152', 'a1h_in1k', 224, 0.95, 82.818),
    ('resnet152d', 'ra2_in1k', 256, 0.95, 83.160),
    ('seresnet50', 'a2_in1k', 224, 0.95, 80.102),
    ('seresnet50', 'ra2_in1k', 224, 0.875, 80.260),
    ('resnext50_32x4d', 'a1h_in1k', 224, 0.95, 81.140),
    ('wide_resnet50_2', 'racm_in1k', 224, 0.875, 81.466),
)

_TIMM_SHA256 = {
    'resnet18.a1_in1k': '80c49dee3da4822c009c5a7fe591e9223c5a2cfcf95a4067ca4dfb5a7b89c612',
    'resnet18d.ra2_in1k': '0ad5d924c4269ad863590b6ccdd19f5fb48d0bae695c1dd6751de0b0282d8361',
    'resnet50.a1_in1k': '773525d5821de224f8f30c33377b7a795d7863e08522698200d3217d3f2a41bb',
    'resnet50.a2_in1k': 'f531f9aca4dde1b89e9a465c5b9e3b916a2d1b20a216acf3b9473d1e1212ecf6',
    'resnet50.b1k_in1k': 'cd64707e0ef72aa0526ac6d46fba6495ad2088717adb47a62a0b526eb3cd3480',
    'resnet50.d_in1k': 'd8ed291891c8ee5777f68136665a4eee2f9ddeb2a9bc88acf4b1676b3bbebf55',
    'resnet50.ra_in1k': 'c49195c94e4fe19545a332e706f998d836f63b5d9892cc54526df3ee9b92ba18',
    'resnet50d.a1_in1k': '0b4f757b0732eb4c6584d2c3692923c3b92efe116b8a383fd4b5eb62fda660cb',
    'resnet50d.ra4_e3600_r224_in1k': 'dcfb320732ed8e1e2fe689f577b4116eae0b20272d3b762a187c5999f62ac5bd',
    'resnet101.a1_in1k': '1ba5b660e7c175b3c27c557fc7dc8b2815be830c516815b0155f61b403f27380',
    'resnet101.a1h_in1k': '1a076c0384295e7d3704f201c5711ff245507db934230bab72ff3014a95f90fe',
    'resnet101d.ra2_in1k': 'c2192596da2e8d652cbf0465b8694704247b524efb68ed194504af453830709c',
    'seresnet50.a2_in1k': 'ff82ee22e5b6c607fd984f63b83a9a8b55787b2703c4683a5cd51297d27e9460',
    'resnext50_32x4d.a1h_in1k': 'b952952a7b3e856b16ebf82fb44d2aa8c502e73ec678976c9e3b970fcd530bd5',
}

_CHENYAOFO = (  # data, (mean, std), then layers, end of the file's name, accuracy
    (
        *('cifar10', ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))),
        ((20, '4118986f', 92.60), (32, 'ef93fc4d', 93.53), (44, '2a3cabcb', 94.01), (56, '187c023a', 94.37)),
    ),
    (
        *('cifar100', ((0.5070, 0.4865, 0.4409), (0.2673, 0.2564, 0.2761))),
        ((20, '23dac2f1', 68.83), (32, '84213ce6', 70.16), (44, 'ffe32858', 71.63), (56, 'f2eff4c8', 72.63)),
    ),
)

_AKAMASTER = (  # layers, SHA-256 (its first eight digits are in the file's name), test error
    (20, '12fca82f0bebc4135bf1f32f6e3710e61d5108578464b84fd6d7f5c1b04036c8', 8.27),
    (32, 'd509ac1820d7f25398913559d7e81a13229b1e7adc5648e3bfa5e22dc137f850', 7.37),
    (44, '014dd6541728a1c700b1642ab640e211dc6eb8ed507d70697458dc8f8a0ae2e4', 6.90),
    (56, '4bfd97631478d6b638d2764fd2baff3edb1d7d82252d54439343b6596b9b5367', 6.61),
    (110, '1d1ed7c2', 6.32),
    (1202, 'f3b1deed', 6.18),
)


def _entries() -> Iterator[PublishedWeights]:
    yield PublishedWeights(
        name='torchvision/alexnet.imagenet1k_v1',
        url='https://download.pytorch.org/models/alexnet-owt-7be5be79.pth',
        sha256='7be5be79',
        licence='bsd-3-clause',
        model='alexnet_imagenet',
        model_kwargs={},
        dataset='imagenet',
        image_shape=(224, 224, 3),
        mean=_IMAGENET[0],
        std=_IMAGENET[1],
        crop=224 / 256,
        interpolation='bilinear',
        accuracy=56.522,
    )
    for model, version, digits, side, accuracy in _TORCHVISION:
        yield PublishedWeights(
            name=f'torchvision/{model}.imagenet1k_v{version}',
            url=f'https://download.pytorch.org/models/{model}-{digits}.pth',
            sha256=digits,
            licence='bsd-3-clause',
            model=model,
            model_kwargs={'stem': 'imagenet'},
            dataset='imagenet',
            image_shape=(224, 224, 3),
            mean=_IMAGENET[0],
            std=_IMAGENET[1],
            crop=224 / side,
            interpolation='bilinear',
            accuracy=accuracy,
        )
    for model, recipe, side, crop, accuracy in _TIMM:
        mean, std = _HALF if recipe.startswith('ra4') else _IMAGENET
        yield PublishedWeights(
            name=f'timm/{model}.{recipe}',
            url=f'hf://timm/{model}.{recipe}/model.safetensors',
            sha256=_TIMM_SHA256.get(f'{model}.{recipe}', ''),
            licence='apache-2.0',
            model=model,
            model_kwargs={} if model.endswith('d') and model.startswith('resnet') else {'stem': 'imagenet'},
            dataset='imagenet',
            image_shape=(side, side, 3),
            mean=mean,
            std=std,
            crop=crop,
            interpolation='bicubic',
            accuracy=accuracy,
        )
    for dataset, (mean, std), files in _CHENYAOFO:
        for layers, end, accuracy in files:
            yield PublishedWeights(
                name=f'chenyaofo/resnet{layers}.{dataset}',
                url='https://github.com/chenyaofo/pytorch-cifar-models/releases/download/resnet/'
                f'{dataset}_resnet{layers}-{end}.pt',
                sha256='',
                licence='bsd-3-clause',
                model=f'resnet{layers}',
                model_kwargs={'shortcut': 'projection'},
                dataset=dataset,
                image_shape=(32, 32, 3),
                mean=mean,
                std=std,
                crop=1.0,
                interpolation='bicubic',
                accuracy=accuracy,
            )
    for layers, sha256, error in _AKAMASTER:
        yield PublishedWeights(
            name=f'akamaster/resnet{layers}.cifar10',
            url='https://github.com/akamaster/pytorch_resnet_cifar10/raw/master/pretrained_models/'
            f'resnet{layers}-{sha256[:8]}.th',
            sha256=sha256,
            licence='bsd-2-clause',
            model=f'resnet{layers}',
            model_kwargs={},
            dataset='cifar10',
            image_shape=(32, 32, 3),
            mean=_IMAGENET[0],
            std=_IMAGENET[1],
            crop=1.0,
            interpolation='bicubic',
            accuracy=round(100 - error, 2),
        )


_OWN = (
    PublishedWeights(
        name='resnet_jax/resnet8.digits',
        url='package:digits/model.safetensors',
        sha256='d87259a2951d9c971c3f2e73d09ad172b09c7b2fe0af7695e9520bc1389b0250',
        licence='apache-2.0',
        model='resnet8',
        model_kwargs={},
        dataset='digits',
        image_shape=(8, 8, 1),
        mean=(0.3052902458826259,),
        std=(0.3759864070187056,),
        crop=1.0,
        interpolation='bicubic',
        accuracy=99.44,
    ),
)
PUBLISHED = MappingProxyType({entry.name: entry for entry in (*_OWN, *_entries())})


def available_weights(model: str | None = None) -> tuple[str, ...]:
    """Returns the names of published weights that `load` takes, of one model or of all.

    Raises:
      ConfigError: there is no such model.
    """
    if model is not None:
        create_model(model)  # checks the name
    return tuple(name for name, entry in PUBLISHED.items() if model in (None, entry.model))


def is_name(text: str) -> bool:
    """Returns whether a text can only be a name of published weights: it starts with a publisher's name."""
    return text.partition('/')[0] in {name.partition('/')[0] for name in PUBLISHED} and text.count('/') == 1


def find_weights(name: str) -> PublishedWeights:
    """Returns the entry of published weights.

    Raises:
      ConfigError: there are no weights with this name.
    """
    if name not in PUBLISHED:
        publisher = [other for other in PUBLISHED if other.startswith(name.partition('/')[0] + '/')]
        some = ', '.join(publisher[:3] or list(PUBLISHED)[:3])
        raise ConfigError(
            f'no weights are called {name!r}{did_you_mean(name, PUBLISHED)}; expected a name as {some}, or another '
            'repository of the Hugging Face Hub, as hf://OWNER/REPOSITORY',
            topic='weights',
        )
    return PUBLISHED[name]
