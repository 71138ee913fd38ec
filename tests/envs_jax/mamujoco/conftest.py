"""The tests here share `compare.py`; the flags that compile fast are set for all tests, in `tests/conftest.py`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
