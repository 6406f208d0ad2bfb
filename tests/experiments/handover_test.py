"""Exported folders in other tools; needs the extras [parity] and [handover]."""

import json
import os
import subprocess
import sys

import jax
import pytest

from ddt_jax import weights
from ddt_jax.embedded import problems
from ddt_jax.rounds import evaluate
from tests.support import paths
from tests.support import student


@pytest.mark.long
def test_lm_eval_measures_what_evaluate_measures(tmp_path):
  config, params = student.load()
  weights.save(tmp_path / 'model', config, params, tokenizer=student.tokenizer())
  held_out = list(problems.problems('test', 32))
  (tmp_path / 'problems.jsonl').write_text(''.join(
      json.dumps({'problem': p.problem, 'answer': p.answer}) + '\n'
      for p in held_out))
  # The command of experiments/README.md.
  subprocess.run(
      [sys.executable, '-m', 'lm_eval', 'run', '--model', 'hf',
       '--model_args', 'pretrained=model,dtype=float32', '--tasks', 'boxed',
       '--include_path', str(paths.ROOT / 'experiments/handover'),
       '--apply_chat_template', '--device', 'cpu', '--batch_size', '32',
       '--output_path', 'measured'],
      cwd=tmp_path, check=True, timeout=900, env=os.environ | {
          'HF_HUB_OFFLINE': '1', 'HF_DATASETS_OFFLINE': '1',
          'TRANSFORMERS_OFFLINE': '1', 'HF_HOME': str(tmp_path / 'hf')})
  file, = (tmp_path / 'measured').rglob('results_*.json')
  measured = json.loads(file.read_text())['results']['boxed']
  ours = evaluate.by_split(
      params, config, student.tokenizer(), {'test': held_out},
      key=jax.random.key(0), verifier={'workers': 1, 'timeout_s': 10.0},
      eos_ids=config.eos_ids, problems=32, samples=0, max_new_tokens=128)
  # Greedy answers of the same weights: the same problems are solved.
  assert measured['exact_match,boxed'] == ours['test'].pass_at_1.value
  assert 0.2 < ours['test'].pass_at_1.value < 0.9
