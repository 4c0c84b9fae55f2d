"""The paper's study: an AlexNet against D2L's ResNet-18; 5, 8 and 10 blocks; a third convolution.

Command:  python bin/study.py --config=configs/study/paper.py [--size=full]
Expected: not yet run. The size 'cpu' trains for fewer epochs, which its report must be read with.
"""

_CONSTANT = {'schedule': 'one_cycle', 'batch_size': 100, 'base_batch_size': 100}


def get_study():
    return {
        'baseline': 'd2l_resnet18',
        'entries': {
            'd2l_resnet18': {'config': 'd2l_resnet18', 'overrides': _CONSTANT},
            'alexnet': {'config': 'alexnet', 'overrides': _CONSTANT},
            'blocks_5': {'config': 'd2l_resnet18', 'overrides': {**_CONSTANT, 'model_kwargs.stage_sizes': [1, 1, 1, 2]}},
            'blocks_10': {'config': 'd2l_resnet18', 'overrides': {**_CONSTANT, 'model_kwargs.stage_sizes': [2, 2, 3, 3]}},
            'three_conv': {'config': 'd2l_resnet18', 'overrides': {**_CONSTANT, 'model': 'd2l_resnet18_3conv'}},
        },
        'sizes': {
            'cpu': {'seeds': [0, 1], 'overrides': {'num_epochs': 3}},
            'full': {'seeds': [0, 1, 2], 'overrides': {'num_epochs': 30}},
        },
    }
