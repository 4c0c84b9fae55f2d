"""`resnet-jax predict` from a checkout: python bin/predict.py --help"""

from resnet_jax.cli.main import main

if __name__ == '__main__':
    main('predict')
