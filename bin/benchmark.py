"""`resnet-jax benchmark` from a checkout: python bin/benchmark.py --help"""

from resnet_jax.cli.main import main

if __name__ == '__main__':
    main('benchmark')
