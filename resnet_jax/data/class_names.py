"""Class names of well-known data sets, in the order of the labels, for networks whose data are not available.

Sources: for CIFAR-10 and CIFAR-100, batches.meta.txt and fine_label_names.txt of the official archives. For ImageNet
(imagenet_classes.txt), the list that torchvision publishes as meta['categories'] of its weights (torchvision/models/_meta.py,
version 0.29; BSD 3-Clause, Copyright (c) Soumith Chintala 2016). This list distinguishes two names that occur twice in the
list of ImageNet.
"""

from pathlib import Path

_CIFAR10 = 'airplane automobile bird cat deer dog frog horse ship truck'
_CIFAR100 = """apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant flatfish forest fox
girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle mountain mouse
mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon
ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table
tank telephone television tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm"""


def class_names(dataset: str) -> tuple[str, ...]:
    """Returns the names of 'cifar10', 'cifar100', 'digits' or 'imagenet' (1,000 classes).

    Raises:
      KeyError: `dataset` has another name.
    """
    if dataset == 'imagenet':
        return tuple(Path(__file__).with_name('imagenet_classes.txt').read_text(encoding='utf-8').splitlines())
    names = {'cifar10': _CIFAR10, 'cifar100': _CIFAR100, 'digits': '0 1 2 3 4 5 6 7 8 9'}
    return tuple(names[dataset].split())
