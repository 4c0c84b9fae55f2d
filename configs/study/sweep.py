"""An example of a custom sweep on the digits: one field crossed with a pair of fields that change together; a minute or two.

Command:  python bin/study.py --config=configs/study/sweep.py
"""

from resnet_jax.study.entries import cross, grid, sweep, zipped


def get_study():
    optimizers = zipped(optimizer=['sgd', 'adam'], learning_rate=[0.1, 0.001])  # pairs: the first with the first, ...
    points = cross(optimizers, grid(weight_decay=[0.0, 5e-4]))  # every combination
    return {
        'entries': sweep('quickstart', points),
        'sizes': {'cpu': {'seeds': [0, 1], 'overrides': {'num_epochs': 5}}},
    }
