"""ResNet-20 (0.27 M parameters) on your own pictures, resized to 64x64 pixels, from scratch.

Command:  python bin/train.py --config=configs/images.py --config.dataset=folder:pictures
Expected: 72.06 % (sd 0.63 %, n = 4) on 153 photographs of ants and bees, after training on 245: the data set of PyTorch's
          tutorial on transfer learning. To start from trained weights instead: docs/finetuning.md.
Hardware: any.
"""

from resnet_jax import default_config


def get_config():
    config = default_config()
    config.dataset = 'folder:pictures'  # one folder of pictures for each class
    config.image_size = 64
    config.model = 'resnet20'
    config.num_epochs = 60
    config.batch_size = 32
    config.crop_padding = 8
    config.log_every = 50
    config.checkpoint_every_epochs = 5
    return config
