"""ResNet-50 on ImageNet: the recipe of Goyal et al. 2017 (arXiv:1706.02677, sections 2 and 5.1) with a cosine schedule.

SGD with Nesterov momentum, learning rate 0.1 for each 256 images of a batch, 5 epochs of warm-up, weight decay 1e-4 except on
BatchNorm and biases, random resized crops of 8 % to 100 % and mirror images, label smoothing 0.1; tested on the central
224 pixels of 256. Every picture is decoded each time it is used: only the data set itself is kept on disk.

Command:  python bin/train.py --config=configs/imagenet_resnet50.py            # as tensorflow-datasets prepares it
          python bin/train.py --config=configs/imagenet_resnet50.py --config.dataset=folder:PATH   # PATH/train, PATH/val
Expected: about 76 to 77 % top-1, as published for such recipes (76.4 % with a step schedule in the paper). Not trained here:
          docs/own_images.md says what was tried.
Hardware: a GPU with 16 GB or more, by XLA's analysis for batch 256 in bfloat16; for smaller GPUs gradient_accumulation_steps=2.
          decode_workers: one per core; a core decodes 100 to 300 pictures a second.
"""

from resnet_jax import default_config


def get_config():
    config = default_config()
    config.dataset = 'tfds:imagenet2012'
    config.decode = 'always'
    config.decode_workers = 16
    config.image_size = 224
    config.test_crop = 0.875
    config.normalization = 'imagenet'
    config.model = 'resnet50'
    config.model_kwargs = {'stem': 'imagenet'}
    config.dtype = 'bfloat16'
    config.num_epochs = 90
    config.batch_size = 256
    config.base_batch_size = 256
    config.learning_rate = 0.1
    config.warmup_epochs = 5.0
    config.weight_decay = 1e-4
    config.label_smoothing = 0.1
    config.resized_crop_area = 0.08
    config.crop_padding = 0
    config.eval_batch_size = 250
    config.log_every = 100
    return config
