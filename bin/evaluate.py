"""`resnet-jax evaluate` from a checkout: python bin/evaluate.py --help"""

from resnet_jax.cli.main import main

if __name__ == '__main__':
    main('evaluate')
