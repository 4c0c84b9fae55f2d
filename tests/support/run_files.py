"""Run folders made up for the report, without training."""

import json

import numpy as np
from PIL import Image


def write_folder(folder, seed=0, class_name='frog'):
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    names = ['cat', 'dog', class_name]
    answers = rng.normal(size=(30, 3)).astype(np.float32)
    answers -= np.log(np.exp(answers).sum(1, keepdims=True))
    bins = [{'low': 0.5, 'high': 0.75, 'count': 20, 'confidence': 0.7, 'accuracy': 0.6}]
    files = {
        'config': {'model': 'resnet8', 'seed': seed, 'dataset': class_name, 'batch_size': 50},
        'environment': {'device': class_name, 'packages': {'jax': '0.10.2'}},
        'result': {
            **{'split': 'test', 'selected': 'last', 'accuracy': 0.6, 'loss': 0.5, 'count': 30, 'step': 4, 'epoch': 2},
            'seconds': 12.5,
        },
        'model': {
            'parameters': 75290,
            'multiply_adds': 12000,
            'layers': [
                {'path': path, 'kind': kind} for path, kind in (('conv1', 'Conv'), ('bn1', 'BatchNorm'), ('fc', 'Dense'))
            ],
        },
        'memory': {'state_bytes': 2**20, 'scratch_bytes': 2**21},
        'evaluation': {
            'class_names': names,
            'per_class_accuracy': [0.5, None, 0.7],
            'per_class_precision': [0.5, 0.25, None],
            'confusion': [[5, 5, 0], [0, 0, 0], [3, 3, 14]],
            'calibration': {'ece': 0.1, 'confidence': 0.7, 'bins': bins},
            'data': {
                'name': class_name,
                'image_shape': [8, 8, 3],
                'class_names': names,
                'mean': [0.5] * 3,
                'std': [0.25] * 3,
                'counts': {'train': [20, 10, 5], 'test': [10, 0, 20]},
                'duplicates': {'test_in_train': 2, 'with_another_label': 1},
                'notes': [f'1 broken image left out: {class_name}'],
            },
            'map_variance': 0.25,
            'pairs': [{'label': 0, 'predicted': 1, 'count': 5, 'index': 1, 'like': 2}],
            'wrong': [{'index': 1, 'label': 2, 'predicted': 0, 'confidence': 0.9, 'label_probability': 0.05}],
        },
        'corruptions': {
            'errors': {'fog': [0.4, 0.5, 0.5, 0.6, 0.7]},
            'corruption_errors': {'fog': 0.54},
            'mean_corruption_error': 0.54,
            'clean_error': 0.4,
        },
    }
    for name, value in files.items():
        (folder / f'{name}.json').write_text(json.dumps(value))
    rows = [
        {'step': s, 'split': k, 'loss': 2 / s, 'accuracy': s / 9, 'grad_norm': 1.5} for s in (2, 4) for k in ('train', 'test')
    ]
    norms = {'conv1': 0.5, 'fc': 2.0}
    rows += [{'step': s, 'split': 'gradients', 'norms': {k: v / s for k, v in norms.items()}} for s in (1, 4)]
    (folder / 'metrics.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows) + '{"half')
    times = [{'step': s, 'split': 'train', 'seconds': 3.0 * s, 'images_per_second': 100.0} for s in (2, 4)]
    (folder / 'timing.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in times))
    (folder / 'plots').mkdir()
    for name in ('augmentation', 'samples'):
        Image.fromarray(np.full((20, 30, 3), 80 + seed, np.uint8)).save(folder / 'plots' / f'{name}.png')
    np.savez(
        folder / 'samples.npz',
        wrong=np.full((1, 8, 8, 3), 9, np.uint8),
        wrong_maps=np.full((1, 8, 8), 255, np.uint8),
        pairs=np.full((1, 2, 8, 8, 3), 7, np.uint8),
        map=rng.normal(size=(5, 2)),
        map_labels=np.arange(5) % 3,
        filters=rng.normal(size=(3, 3, 3, 4)),
    )
    np.savez(folder / 'predictions.npz', log_probabilities=answers, labels=np.arange(30) % 3, fingerprint=np.array('x'))
    return folder
