"""The commands: `python -m experiments.<name>`."""

import os

# Or transformers tells everybody that PyTorch is missing, when it is imported.
os.environ.setdefault('TRANSFORMERS_VERBOSITY', 'error')
os.environ.setdefault('TRANSFORMERS_NO_ADVISORY_WARNINGS', '1')
