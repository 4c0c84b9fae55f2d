"""`resnet-jax convert` from a checkout: python bin/convert.py --help"""

from resnet_jax.cli.main import main

if __name__ == '__main__':
    main('convert')
