"""`resnet-jax compare` from a checkout: python bin/compare.py --help"""

from resnet_jax.cli.main import main

if __name__ == '__main__':
    main('compare')
