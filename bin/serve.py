"""`resnet-jax serve` from a checkout: python bin/serve.py --help"""

from resnet_jax.cli.main import main

if __name__ == '__main__':
    main('serve')
