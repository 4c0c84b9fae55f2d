"""Three constant learning rates: with which does d2l_resnet18 follow the paper's series? For paper_length.py.

Command:  python bin/study.py --config=configs/study/paper_rate.py
Expected: 0.03 is ahead of 0.01 and 0.1, at 66.8 % after 2,000 iterations (one seed); a quarter of an hour on two cores.
Source:   the paper names neither optimizer nor learning rate.
"""

from resnet_jax.study.entries import grid, sweep

_RECIPE = {
    'batch_size': 100,
    'base_batch_size': 100,
    'eval_every_steps': 250,
    'schedule': 'constant',
    'warmup_epochs': 0.0,
}


def get_study():
    entries = sweep('d2l_resnet18', grid(learning_rate=[0.03, 0.1, 0.01]))
    for entry in entries.values():
        entry['overrides'].update(_RECIPE)
    return {
        'baseline': 'learning_rate=0.03',
        'entries': entries,
        'sizes': {'cpu': {'seeds': [0], 'overrides': {'num_epochs': 4}}},
    }
