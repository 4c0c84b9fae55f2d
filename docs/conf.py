"""The site: `make docs`. Pages are Markdown (MyST) or a notebook; docs/update.py writes their generated parts."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import resnet_jax

project = 'resnet_jax'
author = 'The resnet_jax developers'
copyright = author
release = version = resnet_jax.__version__

extensions = ['myst_nb', 'sphinx.ext.autodoc', 'sphinx.ext.napoleon', 'sphinx_copybutton']
exclude_patterns = ['_build']

html_theme = 'furo'
html_title = f'resnet_jax {release}'
html_static_path = ['static']
html_css_files = ['site.css']

myst_heading_anchors = 3  # [text](page.md#heading) works for so many levels
smartquotes = False  # -- is the beginning of a flag
nb_execution_mode = 'off'  # the notebook is committed with its outputs, and a test executes it
nb_ipywidgets_js: dict[str, dict[str, str]] = {}  # there are none, and they would come from another server

default_role = 'code'  # docstrings are Markdown where it matters: `name` is code
autodoc_typehints = 'signature'
autodoc_typehints_format = 'short'
autodoc_member_order = 'bysource'
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
python_maximum_signature_line_length = 88
# Types of other packages, and those of this one that are not on the page: there is no inventory of them without the network.
nitpick_ignore_regex = [('py:.*', r'(?!resnet_jax\.).*')]
