"""The recipe of speedrun94.py scaled down for a CPU: a fifth of the multiply-adds per image, five epochs, float32.

Command:  python bin/train.py --config=configs/speedrun_cpu.py
          against plain recipes of the same cost: python bin/study.py --config=configs/study/speedrun.py
Expected: 86.61 % on the JPEG copy of CIFAR-10 (one seed), 85.35 % with one view; about 5 minutes on 2 cores. docs/study.md.
"""

from resnet_jax.configs import speedrun94


def get_config():
    config = speedrun94.get_config()
    config.model_kwargs = {'widths': (32, 96, 96), 'logit_scale': 1 / 96}
    config.dtype = 'float32'
    config.num_epochs = 5
    config.batch_size = 512
    config.eval_batch_size = 1000
    config.eval_every_epochs = 1
    config.checkpoint_every_epochs = 1
    config.log_every = 97
    return config
