"""He et al. 2016, figure 6: plain against residual networks of 20 and 56 layers, with every layer's gradient norm.

Command:  python bin/study.py --config=configs/study/degradation.py [--size=full]
Expected: see docs/study.md. The size 'cpu' trains for 600 iterations, 3 epochs of 25,600 images, instead of the paper's 64,000;
          it shows how training begins, not its final result. The first epoch is a warm-up: at the full rate ResNet-56 needs
          some hundred iterations before it begins to learn, which matters in such a short run (the paper itself starts
          ResNet-110 at a tenth of the rate).
"""


def get_study():
    def network(model):
        return {'config': 'resnet20', 'overrides': {'model': model, 'log_gradient_norms': True}}

    return {
        'baseline': 'resnet20',
        'entries': {model: network(model) for model in ('resnet20', 'resnet56', 'plain20', 'plain56')},
        'sizes': {
            'cpu': {
                'seeds': [0, 1],
                'overrides': {'num_epochs': 3, 'train_size': 25600, 'warmup_epochs': 1.0, 'log_every': 25},
            },
            'full': {'seeds': [0, 1, 2]},
        },
    }
