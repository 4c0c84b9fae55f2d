"""The speed record's recipe, scaled down for a CPU, against plain recipes of equal cost (multiply-adds within 1 %).

'plain' is the same network with the usual choices: SGD with momentum and cosine decay, weight decay on the kernels, random
flips, and a last layer initialised like PyTorch's. 'resnet20' is resnet20.py with as many epochs as this cost allows. 'sgd' is
the record's recipe with only the optimizer replaced by that of 'plain'.

Command:  python bin/study.py --config=configs/study/speedrun.py [--size=full]
Expected: docs/study.md; the size 'cpu', one seed, 25 minutes on 2 cores. The size 'full' has not been run.
"""

# The usual optimizer. The head's kernel has variance 1, PyTorch's has 1 / (3 * 96); the head's rate makes both learn equally.
_SGD = {
    'optimizer': 'sgd',
    'learning_rate': 0.1,
    'base_batch_size': 128,
    'batch_size': 128,
    'momentum': 0.9,
    'weight_decay': 5e-4,
    'decay_norm_and_bias': False,
    'bias_learning_rate': 0.0,
    'head_learning_rate': 0.1 * 3 * 96,
    'model_kwargs.logit_scale': (3 * 96) ** -0.5,
    'schedule': 'cosine',
    'warmup_epochs': 1.0,
}


# The usual augmentation, and one view of each test image.
_AUGMENTATION = {'crop_padding': 4, 'crop_mode': 'constant', 'alternating_flip': False, 'brightness': 0.0, 'contrast': 0.0}
_PLAIN = {**_SGD, **_AUGMENTATION, 'label_smoothing': 0.0, 'tta': 'none'}


def get_study():
    return {
        'baseline': 'plain',
        'entries': {
            'plain': {'config': 'speedrun_cpu', 'overrides': _PLAIN},
            'resnet20': {'config': 'resnet20', 'overrides': {'num_epochs': 3, 'warmup_epochs': 1.0}},
            'sgd': {'config': 'speedrun_cpu', 'overrides': _SGD},
            'speedrun': {'config': 'speedrun_cpu'},
        },
        'sizes': {
            'cpu': {'seeds': [0]},
            'full': {'seeds': [0, 1, 2, 3, 4]},
        },
    }
