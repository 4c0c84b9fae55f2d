"""D2L ResNet-18 on CIFAR-10."""

from configs import default


def get_config():
    config = default.get_config()
    config.model = 'd2l_resnet18'
    config.num_epochs = 15
    config.schedule = 'one_cycle'
    config.learning_rate = 0.1
    return config
