"""The classic residual networks for CIFAR-10 with their papers' recipes, on a GPU.

Command:  python bin/study.py --config=configs/study/classics.py [--devices=0,1,2,3]
          --size=cpu trains one epoch of 2,560 images, which only shows that all networks train and what they cost
          --report_only shows only the published figures, and 'not run' for entries that have not been run
Expected: 'expected' of each entry, test accuracy in per cent: 100 minus the error in its source; not yet run here.
Hardware: a GPU; --dry_run estimates the time. For bfloat16, add 'dtype': 'bfloat16' to the overrides of 'full' in a copy of
          this file; like any change, this makes a different study.

He et al. is arXiv:1512.03385, the pre-activation networks are arXiv:1603.05027, Wide ResNets arXiv:1605.07146, version 4,
ResNeXt arXiv:1611.05431. Differences from the papers: all 50,000 training images are used; for networks of 110 layers and
more, a warm-up of one epoch (linear from 0) replaces He et al.'s 400 iterations at a rate of 0.01.
"""


def _he(model, accuracy, where, **overrides):
    return {
        'config': 'resnet20',
        'overrides': {'model': model, **overrides},
        'expected': {'accuracy': accuracy, 'source': where},
    }


def _wide(model, accuracy, where):
    return {
        'config': 'wrn28_10',
        'overrides': {'model': model, 'crop_mode': 'reflect'},
        'expected': {'accuracy': accuracy, 'source': where},
    }


def get_study():
    he, preact = 'He et al., table 6', 'He et al. (pre-activation), table 3, median of 5'
    wide = 'Zagoruyko and Komodakis, table 5'
    return {
        'baseline': 'resnet20',
        'entries': {
            'resnet20': _he('resnet20', 91.25, he),
            'resnet32': _he('resnet32', 92.49, he),
            'resnet44': _he('resnet44', 92.83, he),
            'resnet56': _he('resnet56', 93.03, he),
            'resnet110': _he('resnet110', 93.57, f'{he}: the best of 5, whose mean is 93.39', warmup_epochs=1.0),
            'preact_resnet164': _he('resnet164', 94.54, preact, warmup_epochs=1.0),
            'wrn_40_4': _wide('wrn_40_4', 95.47, wide),
            'wrn_16_8': _wide('wrn_16_8', 95.73, wide),
            'wrn_28_10': _wide('wrn_28_10', 96.00, wide),
            'resnext29_8x64d': {
                'config': 'resnext29',
                'expected': {'accuracy': 96.35, 'source': 'Xie et al., table 7: mean of 10'},
            },
        },
        'sizes': {
            'full': {'seeds': [0, 1, 2]},
            'cpu': {'seeds': [0], 'overrides': {'num_epochs': 1, 'train_size': 2560, 'warmup_epochs': 0.5}},
        },
    }
