#!/usr/bin/env bash
# Installs the checkout on one host of a TPU VM. Its own Python may be too old (3.10 on
# Ubuntu 22.04), so uv brings another. A second call changes only what is out of date.
set -euo pipefail
cd "$(dirname "$0")/../.."
export PATH="$HOME/.local/bin:$PATH"
command -v uv > /dev/null || curl -LsSf https://astral.sh/uv/install.sh | sh
test -x .venv/bin/python || uv venv --quiet --python 3.12 .venv
uv pip install --quiet --python .venv/bin/python -e '.[tpu,gcs]'
