"""The paper's study: an AlexNet against D2L's ResNet-18; 5, 8 and 10 blocks; a third convolution; width.

Command:  python bin/study.py --config=configs/study/paper.py [--size=full]
Expected: see docs/study.md. The size 'cpu' trains for 3 epochs; the networks of the width part, which all have 5 blocks, train
          for one epoch on 5,000 images. The widths of their stages are num_filters times 1, 2, 4 and 8: with 256 filters
          three blocks have more than 1000 units; with 1024, four have more than 4000, and the last two 8192.
Source:   the paper does not specify optimizer and schedule; they are as in d2l_resnet18.py and alexnet.py, with a batch size
          of 100. The width part has a constant rate: a warm-up would hide the effect of the width on the first iterations.
"""

_RECIPE = {'batch_size': 100, 'base_batch_size': 100, 'eval_every_steps': 250}
_BLOCKS_5 = {**_RECIPE, 'model_kwargs.stage_sizes': [1, 1, 1, 2]}


def _wide(filters, **overrides):
    return {
        'config': 'd2l_resnet18',
        'overrides': {
            **_BLOCKS_5,
            'model_kwargs.num_filters': filters,
            'schedule': 'constant',
            'warmup_epochs': 0.0,
            'log_every': 5,
            'log_gradient_norms': True,
            **overrides,
        },
        'sizes': {'cpu': {'seeds': [0], 'overrides': {'num_epochs': 1, 'train_size': 5000}}},
        'baseline': 'width_64',
    }


def get_study():
    return {
        'baseline': 'd2l_resnet18',
        'entries': {
            'd2l_resnet18': {'config': 'd2l_resnet18', 'overrides': _RECIPE},
            'alexnet': {'config': 'alexnet', 'overrides': _RECIPE},
            'blocks_5': {'config': 'd2l_resnet18', 'overrides': _BLOCKS_5},
            'blocks_10': {'config': 'd2l_resnet18', 'overrides': {**_RECIPE, 'model_kwargs.stage_sizes': [2, 2, 3, 3]}},
            'three_conv': {'config': 'd2l_resnet18', 'overrides': {**_RECIPE, 'model': 'd2l_resnet18_3conv'}},
            'width_64': _wide(64),
            'width_256': _wide(256),
            'width_256_low_rate': _wide(256, learning_rate=0.01),
            'width_256_xavier': _wide(256, **{'model_kwargs.kernel_init': 'xavier_uniform'}),
            'width_1024': _wide(1024),
        },
        'sizes': {
            'cpu': {'seeds': [0, 1], 'overrides': {'num_epochs': 3}},
            'full': {'seeds': [0, 1, 2], 'overrides': {'num_epochs': 30}},
        },
        # Test accuracy in per cent by iteration, from the paper; an epoch is 500 iterations at a batch size of 100.
        'published': {
            'paper, larger run': {
                'accuracy': [
                    [500, 60.3], [1000, 67.5], [1500, 72.4], [2000, 74.1], [2500, 75.4], [3000, 75.4],
                    [4000, 75.5], [5000, 75.7], [6000, 75.9], [7000, 75.8], [8000, 76.8], [9000, 76.5],
                ],
            },
            'paper, smaller run': {
                'accuracy': [
                    [250, 39.7], [500, 52.0], [750, 58.4], [1000, 61.8], [1500, 68.1],
                    [2000, 71.9], [2500, 71.9], [3000, 72.9], [3500, 74.3], [4250, 73.2],
                ],
            },
        },
    }  # fmt: skip
