"""He et al. 2016, figure 6: plain networks of 20 and 56 layers against residual ones.

Command:  python bin/study.py --config=configs/study/degradation.py [--size=full]
Expected: not yet run. The size 'cpu' trains for one epoch, which its report must be read with.
"""


def get_study():
    return {
        'baseline': 'resnet20',
        'entries': {
            'resnet20': {'config': 'resnet20'},
            'resnet56': {'config': 'resnet20', 'overrides': {'model': 'resnet56'}},
            'plain20': {'config': 'resnet20', 'overrides': {'model': 'plain20'}},
            'plain56': {'config': 'resnet20', 'overrides': {'model': 'plain56'}},
        },
        'sizes': {
            'cpu': {'seeds': [0, 1], 'overrides': {'num_epochs': 1}},
            'full': {'seeds': [0, 1, 2]},
        },
    }
