"""The paper's networks at the length of its longer run: 9,000 iterations of 100 images, at a constant learning rate.

Command:  python bin/study.py --config=configs/study/paper_length.py
Expected: 75 to 77 % for each of the five networks (one seed); three hours per seed on two cores.
Source:   the paper names neither optimizer nor learning rate. 0.03 for the residual networks is the best of three in
          paper_rate.py; AlexNet has the rate of the AlexNet paper, 0.01 (Krizhevsky et al. 2012, section 5).
"""


def _constant(config, learning_rate, **overrides):
    return {
        'config': config,
        'overrides': {
            'batch_size': 100,
            'base_batch_size': 100,
            'eval_every_steps': 250,
            'schedule': 'constant',
            'warmup_epochs': 0.0,
            'learning_rate': learning_rate,
            **overrides,
        },
    }


def get_study():
    return {
        'baseline': 'd2l_resnet18',
        'entries': {
            'd2l_resnet18': _constant('d2l_resnet18', 0.03),
            'blocks_10': _constant('d2l_resnet18', 0.03, **{'model_kwargs.stage_sizes': [2, 2, 3, 3]}),
            'blocks_5': _constant('d2l_resnet18', 0.03, **{'model_kwargs.stage_sizes': [1, 1, 1, 2]}),
            'alexnet': _constant('alexnet', 0.01),
            'three_conv': _constant('d2l_resnet18', 0.03, model='d2l_resnet18_3conv'),
        },
        'sizes': {'cpu': {'seeds': [0, 1, 2, 3, 4], 'overrides': {'num_epochs': 18}}},
    }
