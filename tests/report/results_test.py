"""Texts that the report shows come whole from the tokenizer."""

import numpy as np
import transformers

from ddt_jax.data import chat
from ddt_jax.report import results
from tests.support import paths


def test_a_shown_text_is_the_response_after_its_prompt():
  tokenizer = transformers.AutoTokenizer.from_pretrained(
      paths.GOLDEN / 'tokenizer')
  turns = [{'role': 'user', 'content': 'Ann has 3 pears. How many?'},
           {'role': 'assistant', 'content': r'3*1=3. \boxed{3}'}]
  end = chat.turn_end(tokenizer)
  example = chat.encode(tokenizer, turns, end)
  phi = np.arange(example.supervised.sum()) / 8
  shown = results.ShownText.of(tokenizer, example, phi.tolist(), (-phi).tolist())
  turn, = shown.turns
  assert ''.join(turn.tokens) == r'3*1=3. \boxed{3}' + end.text
  assert turn.phi_before[-1] == phi[-1] == -turn.phi_after[-1]
  assert 'Ann has 3 pears. How many?' in turn.context
  assert 'boxed' not in turn.context
