"""Downloads the tables of a data set on the Hugging Face hub, with `huggingface_hub` and its cache."""

import os
import re
from pathlib import Path

from resnet_jax.errors import ConfigError, InputFileError, one_line
from resnet_jax.runtime.untrusted import printable

_ADDRESS = re.compile(r'hf://datasets/(?P<id>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+?))?(/(?P<folder>[\w./-]+))?')


def fetch_tables(address: str) -> Path:
    """Downloads the .parquet files that are not in the cache yet; returns their folder, or the only file.

    HF_ENDPOINT, HF_HOME, HF_TOKEN and HF_HUB_OFFLINE have their usual meaning.

    Args:
      address: hf://datasets/OWNER/NAME[@REVISION][/FOLDER], in the form of `huggingface_hub`'s file system.

    Raises:
      ConfigError: the address has another form, or `huggingface_hub` is not installed.
      InputFileError: there is no such data set, or there is no network and nothing in the cache.
    """
    match = _ADDRESS.fullmatch(address)
    if not match or '..' in address:
        raise ConfigError(
            f"'parquet:{address}' is not an address: expected parquet:hf://datasets/OWNER/NAME[@REVISION][/FOLDER]"
        )
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise ConfigError(
            "huggingface_hub, which brings data sets by name, is missing: pip install 'resnet_jax[hub]', or give a local path"
        ) from None
    # A revision may contain slashes, such as refs/convert/parquet; its first part decides.
    revision, folder = match['revision'], match['folder'] or ''
    if revision == 'refs' and folder:
        parts = folder.split('/')
        revision, folder = '/'.join(['refs', *parts[:2]]), '/'.join(parts[2:])
    pattern = folder if folder.endswith('.parquet') else f'{folder}/*.parquet'.lstrip('/')
    try:
        root = Path(snapshot_download(match['id'], repo_type='dataset', revision=revision, allow_patterns=[pattern]))
    except Exception as error:  # from the hub, its HTTP client or the disk
        where = os.environ.get('HF_ENDPOINT') or 'https://huggingface.co'
        raise InputFileError(
            f'cannot get {address} from {printable(where)} ({printable(one_line(error))[:300]}): expected the name of a '
            'data set that you may read, and a network or a copy in the cache of huggingface_hub'
        ) from None
    return root / folder
