"""ResNet-8 on scikit-learn's bundled digits (1,797 images of 8x8 pixels): no network needed, about a minute on a CPU."""

from configs import default


def get_config():
    config = default.get_config()
    config.dataset = 'digits'
    config.model = 'resnet8'
    config.num_epochs = 20
    config.batch_size = 64
    config.base_batch_size = 64
    config.learning_rate = 0.1
    config.crop_padding = 1
    config.flip = False
    config.warmup_epochs = 2.0
    config.log_every = 50
    config.checkpoint_every_epochs = 5
    return config
