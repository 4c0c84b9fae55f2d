import numpy as np
import pytest
from made_once import made_once
from PIL import Image
from server_process import DIGITS, ServeProcess


@pytest.fixture(scope='session')
def digit_file(tmp_path_factory):
    """A file with the first of scikit-learn's digits, a zero, at three times its size."""
    from sklearn.datasets import load_digits

    path = tmp_path_factory.mktemp('digit') / 'zero.png'
    image = Image.fromarray((load_digits().images[0] * 255 / 16).astype(np.uint8))
    image.resize((24, 24), Image.Resampling.NEAREST).save(path)
    return path


@pytest.fixture(scope='session')
def exported_folder(tmp_path_factory):
    """The network for digits, exported as StableHLO and ONNX."""
    import resnet_jax
    from resnet_jax.export import export_classifier

    def export(folder):
        export_classifier(resnet_jax.load(DIGITS), folder, ('stablehlo', 'onnx'))

    return made_once(tmp_path_factory, 'program', export)[0]


@pytest.fixture(scope='session')
def server(exported_folder):
    """A server of two networks with small limits."""
    limits = ('--max_batch=4', '--max_images=3', '--max_mib=0.5', '--max_megapixels=1')
    with ServeProcess(DIGITS, exported_folder, *limits) as process:
        yield process
