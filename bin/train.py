"""`resnet-jax train` from a checkout: python bin/train.py --help"""

from resnet_jax.cli.main import main

if __name__ == '__main__':
    main('train')
