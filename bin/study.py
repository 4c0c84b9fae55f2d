"""`resnet-jax study` from a checkout: python bin/study.py --help"""

from resnet_jax.cli.main import main

if __name__ == '__main__':
    main('study')
