"""Every family against transformers: logits, decoding, and the folder we write."""

import functools

import jax
import numpy as np
import pytest

from ddt_jax import engine
from ddt_jax import model
from ddt_jax import weights
from tests.support import families

pytestmark = pytest.mark.parity
torch = pytest.importorskip('torch')
transformers = pytest.importorskip('transformers')

TIME = 150  # beyond Gemma's window and Llama's original context
IDS = np.random.default_rng(0).integers(0, 470, (2, TIME))
forward = jax.jit(model.forward, static_argnames='config')


def logits_of(theirs, ids, **options):
  with torch.no_grad():
    return theirs(torch.tensor(ids), **options).logits.float().numpy()


def assert_close(ours, expected):
  # Logits spread by some units; float32 differs by the order of sums.
  assert expected.std() > 0.5
  np.testing.assert_allclose(ours, expected, atol=2e-4 * expected.std())


@pytest.fixture(
    params=[(name, new) for name in families.SHAPES for new in (False, True)],
    ids=lambda p: f'{p[0]}-{"rope_parameters" if p[1] else "hub"}')
def made(request, tmp_path):
  """(folder, transformers' model)."""
  name, new_form = request.param
  folder = tmp_path / 'theirs'
  return folder, families.write(folder, families.SHAPES[name], new_form=new_form)


def test_logits_decoding_and_the_folder_that_we_write(made, tmp_path):
  folder, theirs = made
  config, params = weights.load(folder)
  expected = logits_of(theirs, IDS)
  assert_close(forward(params, config, IDS)[0], expected)

  # Left padding, as in a batch of prompts.
  lengths = [TIME, 40]
  mask = np.arange(TIME) >= TIME - np.array(lengths)[:, None]
  positions = np.where(mask, np.cumsum(mask, 1) - 1, model.PADDING)
  padded = logits_of(
      theirs, np.where(mask, IDS, 0), attention_mask=torch.tensor(mask),
      position_ids=torch.tensor(np.maximum(positions, 0)))
  ours = forward(
      params, config, np.where(mask, IDS, 0), positions=positions)[0]
  assert_close(np.asarray(ours)[mask], padded[mask])

  # Greedy decoding from caches, token for token.
  prompts = [IDS[0, :5].tolist(), IDS[1, :60].tolist(), IDS[0, 9:40].tolist()]
  found = engine.generate(
      params, config, prompts, key=jax.random.key(0), max_new_tokens=24,
      greedy=True, eos_ids=(502,), slots=2)
  for prompt, result in zip(prompts, found, strict=True):
    answer = theirs.generate(
        torch.tensor([prompt]), do_sample=False, max_new_tokens=24,
        eos_token_id=502, pad_token_id=0)
    assert result.tokens == answer[0, len(prompt):].tolist()

  weights.save(tmp_path / 'ours', config, params)
  back, info = transformers.AutoModelForCausalLM.from_pretrained(
      tmp_path / 'ours', dtype='float32', output_loading_info=True)
  assert not any(info.values()), info
  np.testing.assert_array_equal(logits_of(back, IDS), expected)
  again, params_again = weights.load(tmp_path / 'ours')
  assert (again.sliding, again.tied_head, again.rope_theta) == (
      config.sliding, config.tied_head, config.rope_theta)
  jax.tree.map(
      functools.partial(np.testing.assert_array_equal), params_again, params)


@pytest.mark.parametrize('name', ['qwen3-1.7b', 'llama3.2-1b', 'gemma3-1b'])
def test_bfloat16_rounds_as_theirs_does(name, tmp_path):
  theirs = families.write(tmp_path / 'theirs', families.SHAPES[name])
  exact = logits_of(theirs, IDS)
  error = logits_of(theirs.to(torch.bfloat16), IDS) - exact
  config, params = weights.load(tmp_path / 'theirs', dtype='bfloat16')
  ours = np.asarray(forward(params, config, IDS)[0]) - exact
  assert 0 < ours.std() < 1.3 * error.std()
