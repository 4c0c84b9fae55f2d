from pathlib import Path

import pytest

from resnet_jax.data.messages import writing
from resnet_jax.errors import ResourceError, one_line


def test_one_line():
    assert one_line(ValueError('a\n  b\t c ')) == 'a b c'
    assert one_line(KeyError()) == 'KeyError'


def test_writing():
    with pytest.raises(ResourceError, match=r'cannot write /data/x \(Permission denied\)') as error, writing(Path('/data/x')):
        raise PermissionError(13, 'Permission denied')
    assert error.value.exit_code == 5
    with pytest.raises(ResourceError, match=r'\(two lines\)'), writing(Path('/data/x')):
        raise OSError('two\nlines')
    with pytest.raises(KeyError), writing(Path('/data/x')):
        raise KeyError
