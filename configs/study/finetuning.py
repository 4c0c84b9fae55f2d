"""Akamaster's published networks, fine-tuned on few images, against the same training from scratch.

3x10 is ten images of each of three classes of CIFAR-10, and so on. The two runs of a pair have the same network, images,
iterations (about 200), batch, augmentation and schedule. They differ in their initial weights, in the mean and standard
deviation of the pixels (from the weights or from the data set), and in the learning rate: from scratch it is the recipe's rate;
from the weights it is a tenth of this rate, as in `Classifier.finetune`. No rate was tuned.

Command:  python bin/study.py --config=configs/study/finetuning.py [--size=resnet56]
Data:     CIFAR-10; the digits of scikit-learn; and ants and bees, the photographs of PyTorch's transfer-learning tutorial:
          unpack https://download.pytorch.org/tutorial/hymenoptera_data.zip in the folder where you start the command.
Expected: see docs/study.md, with three seeds (--seeds=3). The size 'resnet56' has not been run.
"""

_ITERATIONS, _BATCH = 200, 25


def _pair(name, config, learning_rate, **overrides):
    """Returns two entries: from scratch and from the weights."""

    def entry(overrides, weights):
        sizes = {
            model: {'overrides': {'model': model} | ({'init_from': f'akamaster/{model}.cifar10'} if weights else {})}
            for model in ('resnet20', 'resnet56')
        }
        return {'config': config, 'overrides': overrides, 'baseline': f'{name}_scratch', 'sizes': sizes}

    return {
        f'{name}_scratch': entry({**overrides, 'learning_rate': learning_rate}, weights=False),
        f'{name}_tuned': entry({**overrides, 'learning_rate': learning_rate / 10}, weights=True),
    }


def _few(name, dataset, classes, images, config='default'):
    """Returns a pair with `images` images of each class."""
    epochs = round(_ITERATIONS / (classes * images // _BATCH))
    return _pair(
        name,
        config,
        0.1,
        dataset=dataset,
        train_size=classes * images,
        batch_size=_BATCH,
        num_epochs=epochs,
        warmup_epochs=epochs / 10,
        eval_every_epochs=epochs,
        checkpoint_every_epochs=epochs,
        log_every=50,
    )


def get_study():
    entries: dict[str, object] = {}
    for dataset, classes in (('cifar10_three', 3), ('cifar10', 10)):
        for images in (10, 50, 250):
            entries |= _few(f'{classes}x{images}', dataset, classes, images)
    entries |= _few('digits_10x10', 'digits', 10, 10, 'quickstart')
    entries |= _pair('digits', 'quickstart', 0.1, num_epochs=9, warmup_epochs=1.0)
    pictures = {'dataset': 'folder:hymenoptera_data', 'num_epochs': 30, 'warmup_epochs': 3.0, 'eval_every_epochs': 30}
    entries |= _pair('ants_bees', 'images', 0.1, **pictures)
    seeds = [0, 1, 2, 3, 4]
    return {
        'imports': ['resnet_jax.configs.study._cifar10_three'],
        'entries': entries,
        'sizes': {'resnet20': {'seeds': seeds}, 'resnet56': {'seeds': seeds}},
    }
