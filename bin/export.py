"""`resnet-jax export` from a checkout: python bin/export.py --help"""

from resnet_jax.cli.main import main

if __name__ == '__main__':
    main('export')
