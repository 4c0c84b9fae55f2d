"""What a residual network is made of, one change at a time from ResNet-20.

Command:  python bin/study.py --config=configs/study/ingredients.py [--size=full]
Expected: not yet run. The size 'cpu' trains for one epoch, which its report must be read with.
"""


def get_study():
    def changed(**overrides):
        return {'config': 'resnet20', 'overrides': overrides}

    return {
        'baseline': 'resnet20',
        'entries': {
            'resnet20': changed(),
            'sigmoid': changed(**{'model_kwargs.act': 'sigmoid'}),
            'option_b': changed(**{'model_kwargs.shortcut': 'projection'}),
            'preactivation': changed(**{'model_kwargs.block_cls': 'PreActBlock'}),
            'adam': changed(optimizer='adam', learning_rate=1e-3),
            'no_augmentation': changed(crop_padding=0, flip=False),
        },
        'sizes': {
            'cpu': {'seeds': [0, 1], 'overrides': {'num_epochs': 1}},
            'full': {'seeds': [0, 1, 2]},
        },
    }
