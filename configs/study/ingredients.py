"""The ingredients of a residual network, one change at a time from ResNet-20.

Command:  python bin/study.py --config=configs/study/ingredients.py [--size=full]
Expected: see docs/study.md. The size 'cpu' trains for 520 iterations, 13 epochs of 5,120 images: with more images and fewer
          epochs, no network would see an image often enough for augmentation to matter.
"""


def get_study():
    def changed(**overrides):
        return {'config': 'resnet20', 'overrides': overrides}

    return {
        'baseline': 'resnet20',
        'entries': {
            'resnet20': changed(),
            'sigmoid': changed(**{'model_kwargs.act': 'sigmoid'}),
            'no_batch_norm': changed(**{'model_kwargs.norm': 'none'}),
            # Two changes: the network above, with a learning rate at which it can be trained.
            'no_batch_norm_low_rate': changed(**{'model_kwargs.norm': 'none', 'learning_rate': 0.01}),
            'option_b': changed(**{'model_kwargs.shortcut': 'projection'}),
            'preactivation': changed(**{'model_kwargs.block_cls': 'PreActBlock'}),
            'adam': changed(optimizer='adam', learning_rate=1e-3),
            'no_augmentation': changed(crop_padding=0, flip=False),
        },
        'sizes': {
            'cpu': {
                'seeds': [0, 1],
                'overrides': {'num_epochs': 13, 'train_size': 5120, 'eval_every_steps': 130, 'log_every': 20},
            },
            'full': {'seeds': [0, 1, 2]},
        },
    }
