"""Makes the tables of docs/study.md from docs/study/*/results.json again: python docs/update_study.py [FOLDER...] [--check]

A FOLDER, as bin/study.py leaves it (runs/study/paper-cpu), has its results and plots copied to docs/study/<name> first.
--check changes nothing, and fails if the page would change.
"""

import json
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from resnet_jax.report.markdown import fill

DOCS = Path(__file__).resolve().parent


def main(arguments):
    check = '--check' in arguments
    for folder in (Path(argument) for argument in arguments if argument != '--check'):
        if not (folder / 'results.json').is_file():
            sys.exit(f'error: no results.json in {folder}; expected a folder that bin/study.py has made')
        name = json.loads((folder / 'results.json').read_text())['name'].partition(',')[0]
        target = DOCS / 'study' / name
        target.mkdir(parents=True, exist_ok=True)
        for path in [folder / 'results.json', folder / 'results.csv', *sorted((folder / 'plots').iterdir())]:
            shutil.copy(path, target)
    page = DOCS / 'study.md'
    results = {path.parent.name: json.loads(path.read_text()) for path in sorted(DOCS.glob('study/*/results.json'))}
    before = page.read_text()
    after = fill(before, results)
    if check and after != before:
        sys.exit('error: docs/study.md does not say what docs/study/*/results.json hold; run python docs/update_study.py')
    if not check:
        page.write_text(after)


if __name__ == '__main__':
    main(sys.argv[1:])
