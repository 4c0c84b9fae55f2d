"""Restores checkpoints on all devices of this process and prints what it has then: `python restored.py CHECKPOINT ...`"""

import hashlib
import json
import sys
from pathlib import Path

import jax
import numpy as np

from resnet_jax.data import dataset_info
from resnet_jax.data.order import epoch_order
from resnet_jax.runs import checkpoint
from resnet_jax.runs.metadata import read_metadata
from resnet_jax.runtime.devices import device_positions, replicate
from resnet_jax.training.experiment import create_experiment


def describe(path):
    """Returns checksums of every leaf, on each device, and of the examples that the devices take together in each step."""
    config = read_metadata(path).config
    experiment = create_experiment(config, dataset_info(config.dataset))
    state = replicate(checkpoint.restore(path, jax.eval_shape(experiment.create_state)))
    leaves = {
        name: [hashlib.sha256(np.asarray(shard.data)).hexdigest() for shard in leaf.addressable_shards]
        for name, leaf in checkpoint.leaves_by_name(state).items()
    }
    orders = [epoch_order(config.seed, epoch, experiment.num_examples, config.batch_size) for epoch in range(3)]
    taken = [order[:, device_positions(config.batch_size).reshape(-1)] for order in orders]
    return {'leaves': leaves, 'order': hashlib.sha256(np.stack(taken).tobytes()).hexdigest()}


if __name__ == '__main__':
    print(json.dumps([describe(Path(path)) for path in sys.argv[1:]]))
