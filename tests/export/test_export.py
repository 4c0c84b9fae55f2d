import ast
import dataclasses
import functools
import json
import re
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import onnx
import pytest
import yaml
from sampling import sample

from resnet_jax import export
from resnet_jax.classifier import Classifier, Origin, create_classifier
from resnet_jax.config import TrainConfig
from resnet_jax.errors import ConfigError, ExportError, InputFileError, ResourceError
from resnet_jax.export import compare, stablehlo
from resnet_jax.export import onnx as onnx_file
from resnet_jax.export.card import model_card
from resnet_jax.models import create_model, resnet
from resnet_jax.ops.pooling import max_pool


def trained(model='resnet50', image_shape=(16, 18, 3), dtype='float32', path='runs/a', ema=False, **kwargs):
    """A run of a small network; random BatchNorm statistics, so that nothing is an identity."""
    kwargs = {'stage_sizes': (1,), 'num_filters': 4, **kwargs}
    kwargs = {key: value for key, value in kwargs.items() if value is not None}
    network = create_model(model, dtype=jnp.dtype(dtype), **kwargs)
    images = jnp.zeros((1, *image_shape))
    shapes = jax.eval_shape(functools.partial(network.init, train=False), jax.random.key(0), images)
    rng = np.random.default_rng(0)

    def draw(leaf):
        if len(leaf.shape) == 1:  # scales, biases and statistics
            return rng.uniform(0.5, 1.5, leaf.shape).astype(leaf.dtype)
        return (rng.normal(size=leaf.shape) * (2 / np.prod(leaf.shape[:-1])) ** 0.5).astype(leaf.dtype)

    variables = jax.tree.map(draw, shapes)
    dataset = {
        'name': 'stripes',
        'fingerprint': 'f',
        'image_shape': image_shape,
        'class_names': [f'class {i}' for i in range(10)],
        'mean': (0.4,) * image_shape[-1],
        'std': (0.2,) * image_shape[-1],
    }
    config = TrainConfig(model=model, dtype=dtype, ema_decay=0.9, data_dir='/home/alice/data')
    return create_classifier(config, network, variables, dataset, 7, str(path), ema=ema)


NETWORKS = [
    {'stem': 'imagenet'},  # padded max pooling
    {'model': 'resnet18', 'stem': 'd2l', 'image_shape': (9, 9, 1), 'dtype': 'bfloat16'},
    {
        'model': 'resnet20',
        'shortcut': 'identity',
        'image_shape': (2, 2, 3),
        'stage_sizes': (1, 1),
    },  # images smaller than the kernel
]


@pytest.mark.parametrize('kwargs', sample(NETWORKS, 3))
def test_stablehlo_answers_as_the_network_without_the_package(kwargs, tmp_path):
    run, path = trained(**kwargs), tmp_path / 'model.stablehlo'
    assert compare.check(stablehlo.write(run, path), path, stablehlo.reload) < 1e-6
    exported = jax.export.deserialize(bytearray(path.read_bytes()))
    assert exported.platforms == ('cpu', 'cuda', 'tpu')
    (images,), (probabilities,) = exported.in_avals, exported.out_avals
    assert images.dtype == np.uint8 and str(images.shape[0]) == str(probabilities.shape[0]) == 'batch'
    assert images.shape[1:] == tuple(run.image_shape) and probabilities.dtype == np.float32


@pytest.mark.parametrize('name', ['resnet_jax', 'flax'])
def test_the_process_that_compares_cannot_import_the_package(name):
    program = f'import runpy, sys; runpy.run_path(sys.argv[1]); import jax; print("jax"); import {name}'
    done = subprocess.run([sys.executable, '-I', '-c', program, stablehlo._RELOAD], capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout == 'jax\n'
    assert done.stderr.splitlines()[-1].startswith(f'ModuleNotFoundError: import of {name} halted')


def test_an_artifact_that_does_not_load_is_an_error(tmp_path):
    (tmp_path / 'model.stablehlo').write_bytes(b'no artifact')
    with pytest.raises(ExportError, match=r'could not be loaded again \(.+\); not exported'):
        compare.check(trained(), tmp_path / 'model.stablehlo', stablehlo.reload)
    assert not list(tmp_path.iterdir())


ONNX_NETWORKS = [
    *NETWORKS,
    {'model': 'resnet50d', 'stage_sizes': (1, 1), 'image_shape': (42, 42, 3), 'num_filters': 8},  # odd sizes before a pool
    {'model': 'resnext50_32x4d', 'stage_sizes': (1, 1), 'num_filters': 64, 'image_shape': (33, 33, 3)},  # groups
    {'model': 'seresnet18', 'image_shape': (33, 33, 3)},
    {'model': 'preact_resnet18', 'dropout': 0.5},
    {'model': 'd2l_resnext26', 'stage_sizes': (1, 1), 'num_filters': 16, 'image_shape': (32, 32, 3)},
    {'model': 'resnet18', 'act': 'gelu'},
    {'model': 'resnet18', 'act': 'silu'},
    {'model': 'speedrun94', 'image_shape': (32, 32, 3), 'stage_sizes': None, 'num_filters': None},
    {'model': 'lenet5', 'image_shape': (32, 32, 3), 'stage_sizes': None, 'num_filters': None},
]


@pytest.mark.parametrize('kwargs', sample(ONNX_NETWORKS, 3), ids=str)
def test_onnx_answers_as_the_network_in_float32(kwargs, tmp_path):
    run, path = trained(**kwargs), tmp_path / 'model.onnx'
    assert compare.check(onnx_file.write(run, path), path, onnx_file.reload) < 1e-5
    model = onnx.load(path)
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == 'batch'
    assert model.graph.output[0].type.tensor_type.shape.dim[0].dim_param == 'batch'


def test_an_onnx_file_has_one_transpose_and_the_names_of_the_network(tmp_path):
    onnx_file.write(trained('resnet18'), tmp_path / 'model.onnx')
    graph = onnx.load(tmp_path / 'model.onnx').graph
    kinds = [node.op_type for node in graph.node]
    assert kinds.count('Conv') == 3 and kinds.count('Transpose') == 1  # of the input alone
    assert 'Sub' not in kinds[: kinds.index('MatMul')]  # onnxruntime joins a convolution with Mul and Add
    assert {'params/conv1/kernel', 'params/layer1_0/conv2/kernel'} <= {array.name for array in graph.initializer}
    assert any(node.name.endswith('layer1_0/conv1/Conv') for node in graph.node)


class OwnNetwork(nn.Module):
    """What a user's network may have and none of ours has."""

    num_classes: int = 10
    dtype: np.dtype = np.float32

    @nn.compact
    def __call__(self, x, *, train):
        x = nn.Conv(8, (3, 3), (2, 1), kernel_dilation=(2, 1), feature_group_count=1)(x)
        x = nn.LayerNorm()(x)
        x = jnp.where(x > 0, nn.softplus(x), nn.elu(x))
        x = nn.max_pool(x, (3, 2), (2, 1), 'SAME') + nn.avg_pool(x, (3, 2), (2, 1), 'SAME')
        left, right = jnp.split(jnp.clip(x, -3, 3), 2, -1)
        x = jnp.concatenate([left * nn.tanh(right), jnp.abs(right) ** 3, jnp.square(left)], -1)
        x = nn.Conv(6, (1, 1), use_bias=False)(nn.leaky_relu(x))
        x = x.transpose(0, 3, 1, 2).reshape(x.shape[0], 6, -1)
        scores = nn.softmax(jnp.einsum('bij,bkj->bik', x, x) / 8)
        x = jnp.einsum('bik,bkj->bij', scores, x)
        first = x.argmax(axis=2).astype(jnp.float32)
        x = jnp.concatenate(
            [x.mean(2), x.max(2), x.min(2) + jnp.log1p(jnp.exp(-first)), jnp.sqrt(jnp.maximum(x.sum(2), 1.0))], 1
        )
        return nn.Dense(self.num_classes)(x)


def classifier_of(network, shape=(9, 8, 3)):
    variables = jax.jit(functools.partial(network.init, train=False))(jax.random.key(0), jnp.zeros((1, *shape)))
    return Classifier(network, variables, shape, tuple(map(str, range(10))), (0.4,), (0.2,))


@pytest.mark.slow
def test_an_own_network_becomes_onnx(tmp_path):
    with jax.numpy_rank_promotion('allow'):
        run, path = classifier_of(OwnNetwork()), tmp_path / 'model.onnx'
        assert compare.check(onnx_file.write(run, path), path, onnx_file.reload) < 1e-5


@pytest.mark.parametrize(
    ('name', 'function'),
    [
        ('sort', lambda x: jnp.sort(x, 1)),
        ('scan', lambda x: jax.lax.scan(lambda total, _: (total * 0.5, None), x, length=2)[0]),
        ('cumsum', lambda x: jnp.cumsum(x, 1)),
    ],
)
def test_an_operation_that_onnx_export_does_not_know_is_named(name, function, tmp_path):
    class Odd(nn.Module):
        num_classes: int = 10
        dtype: np.dtype = np.float32

        @nn.compact
        def __call__(self, x, *, train):
            return nn.Dense(self.num_classes)(function(x.mean((1, 2))))

    with (
        jax.numpy_rank_promotion('allow'),
        pytest.raises(ExportError, match=f'operation {name}.*expected .* stablehlo'),
    ):
        onnx_file.write(classifier_of(Odd()), tmp_path / 'model.onnx')
    assert not list(tmp_path.iterdir())


def test_images_for_the_comparison():
    batches = compare.sample_images((8, 10, 3))
    assert [b.shape for b in batches] == [(n, 8, 10, 3) for n in compare.BATCH_SIZES]
    assert all(b.dtype == np.uint8 for b in batches)
    images = np.concatenate(batches).astype(float)
    roughness = np.abs(np.diff(images, axis=2)).mean(axis=(1, 2, 3))
    assert (roughness < 50).sum() >= 12 and (roughness > 60).sum() >= 8
    for one, two in zip(batches, compare.sample_images((8, 10, 3)), strict=True):
        np.testing.assert_array_equal(one, two)


def test_a_network_that_lost_the_padding_of_its_pool_is_refused(tmp_path, monkeypatch):
    run, path = trained(stem='imagenet'), tmp_path / 'model.onnx'

    def reload(path, batches):
        with monkeypatch.context() as patch:
            patch.setattr(resnet, 'max_pool', lambda x, window, strides, padding: max_pool(x, window, strides))
            return [dataclasses.replace(run).probabilities(batch) for batch in batches]  # compiled anew

    path.touch()
    with pytest.raises(ExportError, match=r'model\.onnx differs from the network by up to .* not exported'):
        compare.check(run, path, reload)
    assert not path.exists()


@pytest.mark.parametrize(
    'change',
    [lambda a: a.astype(np.float64), lambda a: a[:, :9], lambda a: a * np.nan, lambda a: a[:1], lambda a: a + np.float32(1e-2)],
)
def test_wrong_answers_are_refused(change, tmp_path):
    run, path = trained(), tmp_path / 'model.onnx'
    path.touch()
    with pytest.raises(ExportError, match=r'model\.onnx'):
        compare.check(run, path, lambda path, batches: [change(run.probabilities(batch)) for batch in batches])
    assert not path.exists()


class Fake:
    """A format whose file is empty."""

    def write(self, run, path):
        path.touch()
        self.run = run
        return run

    def reload(self, path, batches):
        return [self.run.probabilities(batch) for batch in batches]


class TestExportClassifier:
    @pytest.fixture(autouse=True)
    def quick(self, request, monkeypatch):
        if 'package' not in request.fixturenames:
            monkeypatch.setitem(export.FORMATS, 'stablehlo', Fake())

    @pytest.fixture
    def classifier(self, tmp_path_factory):
        return trained('resnet20', path=tmp_path_factory.mktemp('run'))

    def test_out_appears_when_all_is_written(self, classifier, tmp_path):
        out = tmp_path / 'a' / 'b'
        assert export.export_classifier(classifier, out) == {'stablehlo': pytest.approx(0, abs=1e-6)}
        assert sorted(p.name for p in out.iterdir()) == ['README.md', 'config.json', 'model.stablehlo']
        assert [p.name for p in out.parent.iterdir()] == ['b']

    def test_an_empty_folder_is_filled_and_any_other_refused(self, classifier, tmp_path):
        (tmp_path / 'file').touch()
        (tmp_path / 'link').symlink_to(tmp_path / 'nowhere')
        for out in (tmp_path, tmp_path / 'file', tmp_path / 'link'):
            with pytest.raises(ConfigError, match='exists; expected the name of a new or empty folder'):
                export.export_classifier(classifier, out)
        (tmp_path / 'empty').mkdir()
        export.export_classifier(classifier, tmp_path / 'empty')
        assert (tmp_path / 'empty' / 'README.md').is_file()

    def test_a_mismatch_leaves_nothing(self, classifier, tmp_path, monkeypatch):
        answers = export.FORMATS['stablehlo'].reload
        monkeypatch.setattr(export.FORMATS['stablehlo'], 'reload', lambda *args: [a * np.float32(1.01) for a in answers(*args)])
        with pytest.raises(ExportError):
            export.export_classifier(classifier, tmp_path / 'out')
        assert not list(tmp_path.iterdir())

    def test_a_place_that_cannot_be_written_is_named(self, classifier, tmp_path):
        (tmp_path / 'file').touch()
        with pytest.raises(ResourceError, match=r'file/out could not be written'):
            export.export_classifier(classifier, tmp_path / 'file' / 'out')

    @pytest.mark.parametrize('formats', [(), ('tflite',)])
    def test_unknown_formats_are_refused(self, formats, classifier, tmp_path):
        with pytest.raises(ConfigError, match='expected some of stablehlo, onnx'):
            export.export_classifier(classifier, tmp_path / 'out', formats)

    @pytest.mark.parametrize(('name', 'package'), [('stablehlo', 'flatbuffers'), ('onnx', 'onnx'), ('onnx', 'onnxruntime')])
    def test_a_missing_package_is_named(self, name, package, classifier, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(ConfigError, match=rf"needs {package}; pip install 'resnet_jax\[export\]'"):
            export.export_classifier(classifier, tmp_path / 'out', (name,))
        assert not list(tmp_path.iterdir())


class TestCard:
    RESULT = {  # noqa: RUF012
        'split': 'test', 'selected': 'last', 'step': 7, 'epoch': 2, 'count': 360,
        'accuracy': 0.875, 'loss': 0.5, 'ema_accuracy': 0.9, 'ema_loss': 0.4,
    }  # fmt: skip

    def card(self, folder, run=None, result=RESULT, ema=False):
        (folder / 'result.json').write_text(json.dumps(result))
        (folder / 'environment.json').write_text(json.dumps({'device': 'NVIDIA </p> ```\n# H200'}))
        run = run or trained(ema=ema)
        run = dataclasses.replace(run, origin=dataclasses.replace(run.origin, path=str(folder)))
        text = model_card(run, {'stablehlo': 1e-7, 'onnx': 2e-6})
        _, front, body = text.split('---\n', 2)
        return yaml.safe_load(front), body

    def test_it_has_the_metadata_and_the_result_of_the_run(self, tmp_path):
        metadata, body = self.card(tmp_path)
        assert metadata['library_name'] == 'jax' and metadata['license'] == 'apache-2.0'
        assert metadata['datasets'] == ['stripes'] and {'resnet50', 'onnx'} < set(metadata['tags'])
        (result,) = metadata['model-index'][0]['results']
        assert result['metrics'] == [{'type': 'accuracy', 'value': 0.875}, {'type': 'loss', 'value': 0.5}]
        assert 'Test accuracy 87.50 % of 360 images, loss 0.5000, after 2 epochs (7 iterations)' in body
        assert 'The last epoch, not the best.' in body and '3. class 3' in body and 'mean 0.4000, 0.4000, 0.4000' in body
        assert 'alice' not in body  # it is made to be published

    def test_its_programs_need_what_it_says_and_not_this_package(self, tmp_path):
        _, body = self.card(tmp_path)
        programs = re.findall(r'```python\n(.*?)```', body, re.DOTALL)
        nodes = [node for program in programs for node in ast.walk(ast.parse(program))]
        modules = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
        modules |= {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
        assert len(programs) == 2 and modules == {'pathlib', 'jax', 'jax.export', 'onnxruntime'}

    def test_averaged_parameters_have_their_own_result(self, tmp_path):
        metadata, body = self.card(tmp_path, ema=True)
        assert metadata['model-index'][0]['results'][0]['metrics'][0]['value'] == 0.9
        assert 'averages over training, with decay 0.9' in body and 'accuracy 90.00 %' in body

    def test_a_result_with_averaged_views_says_that_the_files_take_one(self, tmp_path):
        metadata, body = self.card(tmp_path, result={**self.RESULT, 'tta': 'mirror'})
        accuracy = metadata['model-index'][0]['results'][0]['metrics'][0]
        assert accuracy == {'type': 'accuracy', 'value': 0.875, 'args': {'tta': 'mirror'}}
        assert 'The logits were averaged over views (mirror); the files here take one view.' in body

    def test_the_result_of_another_step_is_not_claimed(self, tmp_path):
        metadata, body = self.card(tmp_path, result={**self.RESULT, 'step': 8})
        assert 'model-index' not in metadata and 'No result' in body and '87.5' not in body

    def test_strings_of_the_run_are_text(self, tmp_path):
        run = trained()
        evil = [
            '<script>x</script>',
            '[a](http://b)',
            '- x',
            '2. y',
            '# z\n---\n# h',
            '   code',
            '`c`',
            'a|b',
            '\x1b[31m',
            'é 猫',
        ]
        origin = dataclasses.replace(run.origin, dataset='x: "y"\n---\n- {z} 🐈')
        metadata, body = self.card(tmp_path, dataclasses.replace(run, class_names=evil, origin=origin))
        assert metadata['datasets'] == ['x: "y" --- - {z} 🐈']
        assert body.splitlines()[1] == r'# resnet50 trained on x: "y" --- - {z} 🐈'
        classes = body.partition('## Classes\n\n')[2].splitlines()[:10]
        assert classes[:4] == [r'0. \<script\>x\</script\>', r'1. \[a\](http://b)', r'2. \- x', r'3. 2\. y']
        assert classes[4:] == [r'4. \# z --- \# h', '5. code', r'6. \`c\`', r'7. a\|b', r'8. \[31m', '9. é 猫']
        assert 'NVIDIA </p> ```\\n# H200' in body.partition('## Trained with')[2]  # a JSON string inside a block of code

    def test_what_cannot_be_read_is_named(self, tmp_path):
        (tmp_path / 'result.json').write_text('{')
        with pytest.raises(InputFileError, match=r'result\.json is not what a run ends with'):
            model_card(trained(path=tmp_path), {})

    def test_weights_from_elsewhere_have_neither_recipe_nor_result(self):
        foreign = dataclasses.replace(trained(), mean=None, std=None, origin=Origin('resnet50', {}, 'a.pth'))
        text = model_card(foreign, {'onnx': 1e-7})
        assert '# resnet50\n\nNo result is known.' in text and 'mean 0.0000 and std 1.0000' in text
        assert 'Recipe' not in text and 'Trained with' not in text and 'datasets' not in text
