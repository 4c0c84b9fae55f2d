"""`python -m resnet_jax COMMAND`."""

from resnet_jax.cli.main import main

if __name__ == '__main__':
    main()
