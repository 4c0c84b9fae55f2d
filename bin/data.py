"""`resnet-jax data` from a checkout: python bin/data.py --help"""

from resnet_jax.cli.main import main

if __name__ == '__main__':
    main('data')
