import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(TESTS / 'models'), str(TESTS / 'weights')]  # for torch_reference and weight_files
