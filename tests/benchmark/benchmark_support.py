from configs import quickstart
from resnet_jax.benchmark.measure import on_random_data
from resnet_jax.config import TrainConfig


def config(source=quickstart, **changes):
    values = source.get_config()
    values.update({'model_kwargs': {'num_filters': 4}, **changes})
    return on_random_data(TrainConfig.from_mapping(values).to_dict())
