"""AlexNet for 32x32 images on CIFAR-10."""

from configs import default


def get_config():
    config = default.get_config()
    config.model = 'alexnet'
    config.num_epochs = 15
    config.schedule = 'one_cycle'
    config.learning_rate = 0.02
    return config
