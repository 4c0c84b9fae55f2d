"""`resnet-jax models` from a checkout: python bin/models.py --help"""

from resnet_jax.cli.main import main

if __name__ == '__main__':
    main('models')
