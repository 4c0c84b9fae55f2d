import pytest
from commands_support import ROOT, error_line, run

from resnet_jax import config_file
from resnet_jax.cli import command
from resnet_jax.config import default_config
from resnet_jax.errors import ConfigError


def test_the_package_has_every_config():
    assert config_file.packaged_configs() == sorted(path.stem for path in (ROOT / 'configs').glob('[!_]*.py'))
    assert config_file.packaged_configs('study') == sorted(path.stem for path in (ROOT / 'configs' / 'study').glob('[!_]*.py'))
    assert config_file.load_config('default') == default_config()


@pytest.mark.parametrize(('name', 'kind'), [('resnet18', ''), ('paper', 'study'), ('study/paper', 'study')])
def test_a_name_is_found_anywhere(name, kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = config_file.find(name, kind)
    assert path.resolve() == (ROOT / 'configs' / kind / f'{name.rpartition("/")[2]}.py').resolve()


def test_a_path_is_a_file_of_the_users(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'resnet18.py').touch()
    assert str(config_file.find('resnet18.py')) == 'resnet18.py'
    assert config_file.find('resnet18').parent.name == 'configs'  # a name is always the package's


@pytest.mark.parametrize(
    ('name', 'kind', 'text'),
    [
        ('resnet81', '', r"no config 'resnet81'; expected .* resnet18, .*; did you mean 'resnet18'\?$"),
        ('paperr', 'study', r"no study 'paperr'; expected .* paper, .*; did you mean 'paper'\?$"),
        ('configs/resnet18.py', '', r"no config file '.*'; expected one of .*; did you mean 'resnet18', which comes with"),
        ('configs/resnet18', '', r"no config file 'configs/resnet18'"),
        ('mine.py', '', r"no config file 'mine.py'; expected one of other.py$"),
        ('', '', r"no config ''; expected a path"),
    ],
)
def test_a_missing_config_says_what_there_is(name, kind, text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'other.py').touch()
    with pytest.raises(ConfigError, match=text):
        config_file.find(name, kind)


@pytest.mark.parametrize(
    ('content', 'text'),
    [
        ('1 / 0', r'mine.py could not be read \(ZeroDivisionError: division by zero\); expected get_config\(\) in it'),
        ('raise SystemExit(7)', r'mine.py could not be read \(SystemExit: 7\)'),
        ('x = 1', "has no attribute 'get_config'"),
        ('def get_config(): return 3', 'returned int, expected an ml_collections.ConfigDict'),
        ('def get_config(): raise ValueError("no\\nsense")', 'no'),
    ],
)
def test_a_config_that_fails_says_why(content, text, tmp_path):
    (tmp_path / 'mine.py').write_text(content)
    with pytest.raises(ConfigError, match=text):
        config_file.load_config(str(tmp_path / 'mine.py'))


def test_names_become_paths_before_the_flags_are_parsed(tmp_path):
    quickstart, own = str(config_file.find('quickstart')), tmp_path / 'own.py'
    own.touch()
    assert command.resolve_config(['--config=quickstart', '--config.seed=1']) == [f'--config={quickstart}', '--config.seed=1']
    assert command.resolve_config(['--ema', '--config', 'quickstart']) == ['--ema', '--config', quickstart]
    assert command.resolve_config([f'--config={own}:argument']) == [f'--config={own}:argument']
    assert command.resolve_config(['--workdir=quickstart', '--', '--config=none']) == [
        '--workdir=quickstart',
        '--',
        '--config=none',
    ]
    with pytest.raises(ConfigError, match='--config has no value'):
        command.resolve_config(['--config='])


@pytest.mark.parametrize(
    ('content', 'argument', 'text'),
    [
        (
            'return {"dataset": "digits"}',
            '',
            'get_config() returned dict, expected an ml_collections.ConfigDict; correct the file',
        ),
        ('return default_config()', ':fast', 'get_config() takes no argument, expected nothing after the colon'),
        ('c = default_config(); c.learning_rate = "x"; return c', '', "field 'learning_rate' is x of type str, expected float"),
        ('raise SystemExit(7)', '', 'could not be read as a config (SystemExit: 7)'),
        ('import nowhere', '', "could not be read as a config (ModuleNotFoundError: No module named 'nowhere')"),
    ],
)
def test_a_config_that_the_command_cannot_use_is_one_line(content, argument, text, tmp_path):
    path = tmp_path / 'mine.py'
    path.write_text(f'from resnet_jax import default_config\n\n\ndef get_config():\n    {content}\n')
    line = error_line(run('train.py', f'--config={path}{argument}', f'--workdir={tmp_path / "run"}', code=2))
    assert str(path) in line and text in line


def test_a_config_that_needs_an_argument_says_so(tmp_path):
    path = tmp_path / 'mine.py'
    path.write_text('def get_config(size):\n    return size\n')
    line = error_line(run('train.py', f'--config={path}', f'--workdir={tmp_path / "run"}', code=2))
    assert 'get_config() needs an argument, expected --config=FILE:size' in line
