"""A real language model: SmolLM2-135M-Instruct against PyTorch, and by itself.

transformers reads the GGUF file on its own, so the conversion is tested too.
"""

import functools
import math

import jax
import numpy as np
import pytest
import transformers

from ddt_jax import engine
from ddt_jax import hinted_decode
from ddt_jax import model
from ddt_jax import sharding
from ddt_jax import weights
from ddt_jax.data import chat
from ddt_jax.data import prompts
from ddt_jax.scoring import calibration
from ddt_jax.scoring import controls
from ddt_jax.scoring import forward
from ddt_jax.training import metrics
from tests.support import commands

pytestmark = pytest.mark.real

PROBLEMS = (
    'What is 7 + 5? Answer in one sentence.',
    'Tom has 3 apples and buys 4 more. How many apples does he have?',
    'Name three colours.',
)
SOLUTIONS = (
    'Seven and five make twelve. Answer: 12',
    '3 + 4 = 7, so Tom has seven apples. Answer: 7',
    'Red, green and blue.',
)
KEY = jax.random.key(0)


@functools.cache
def ours():
  """(tokenizer, config, parameters)."""
  folder = weights.smollm2.folder()
  tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
  return tokenizer, *weights.load(folder)


@functools.cache
def theirs():
  """transformers' model, from the GGUF file and not from our folder."""
  import torch  # here, as only these tests need it
  file = weights.smollm2.file()
  torch.set_grad_enabled(False)
  return transformers.AutoModelForCausalLM.from_pretrained(
      file.parent, gguf_file=file.name, dtype=torch.float32).eval()


def torch_logits(ids):
  import torch
  return theirs()(torch.tensor([ids])).logits[0].numpy()


def asked(problem):
  return chat.encode_prompt(ours()[0], prompts.student_chat(problem))


def hinted(problem, solution):
  return asked(f'The solution of the problem is: {solution}\n\n{problem}')


def test_logits_are_those_of_transformers():
  _, config, params = ours()
  text = ' '.join((*PROBLEMS, *SOLUTIONS, 'Ångström, naïve; 3.14 * 2 = 6.28\n\n'))
  ids = asked(text)
  found, _ = jax.jit(model.forward, static_argnums=1)(
      params, config, np.array([ids]))
  np.testing.assert_allclose(found[0], torch_logits(ids), rtol=0, atol=2e-4)


class TorchStream:
  """One context of PyTorch's model, with its cache."""

  def __init__(self, ids):
    self._out = None
    self.read(ids)

  def read(self, ids):
    import torch
    cache = self._out.past_key_values if self._out else None
    self._out = theirs()(
        torch.tensor([list(ids)]), past_key_values=cache, use_cache=True)

  def log_p(self):
    return self._out.logits[0, -1].double().log_softmax(-1).numpy()


def test_greedy_texts_are_those_of_transformers():
  tokenizer, config, params = ours()
  ids = [asked(p) for p in PROBLEMS]
  found = engine.generate(
      params, config, ids, key=KEY, max_new_tokens=24, temperature=1.0, top_p=1.0,
      greedy=True, eos_ids=config.eos_ids)
  for prompt, generated in zip(ids, found, strict=True):
    stream, expected = TorchStream(prompt), []
    while len(expected) < 24 and (not expected or expected[-1] not in config.eos_ids):
      expected.append(int(stream.log_p().argmax()))
      stream.read(expected[-1:])
    assert generated.tokens == expected, tokenizer.decode(generated.tokens)


def two_contexts(student, hint, *, beta, most, splitter):
  """Greedy Hinted Decoding as a loop over two contexts in PyTorch."""
  tokenizer, config, _ = ours()
  p, q, text = TorchStream(hint), TorchStream(student), []
  while len(text) < most:
    log_p, log_q = p.log_p(), q.log_p()
    entropy = -(np.exp(log_p) * log_p).sum()
    lam = min(beta * entropy / math.log(config.vocab_size), 1)
    if not text:
      lam = 0
    if splitter in tokenizer.decode(text):
      lam = 1
    text.append(int(((1 - lam) * log_p + lam * log_q).argmax()))
    if text[-1] in config.eos_ids and len(text) > 1:
      break
    for stream in (p, q):
      stream.read(text[-1:])
  return text


def test_hinted_texts_are_those_of_a_loop_over_two_contexts():
  tokenizer, config, params = ours()
  pairs = [(asked(p), hinted(p, s)) for p, s in zip(PROBLEMS, SOLUTIONS, strict=True)]
  options = dict(beta=3.0, splitter=' is')  # which these texts contain
  found = hinted_decode.generate(
      params, config, pairs, key=KEY, max_new_tokens=24, temperature=1.0, top_p=1.0,
      greedy=True, tokenizer=tokenizer, eos_ids=config.eos_ids, **options)
  for pair, generated in zip(pairs, found, strict=True):
    assert generated.tokens == two_contexts(*pair, most=24, **options)
  assert any(g.student_only_from for g in found)


# At these sizes the controls are off by several standard errors.
SAMPLES, TOKENS = 96, 32
# It ends most answers to this prompt, and never with certainty: the last token's phi
# is not 0 on average, so that a mask without it shows.
SHORT, SHORT_SAMPLES, SHORT_TOKENS = 'Give me a word that rhymes with cat.', 224, 12


def dispatch(params, examples, **options):
  mesh = sharding.make_mesh(devices=jax.devices()[:1])
  return forward.dispatch(
      params, ours()[1], examples, batch=16, mesh=mesh, **options)


@functools.cache
def own_samples(problems=PROBLEMS, samples=SAMPLES, tokens=TOKENS):
  """(texts that the model drew at temperature 1, their prompts)."""
  _, config, params = ours()
  ids = [asked(problems[i % len(problems)]) for i in range(samples)]
  drawn = engine.generate(
      params, config, ids, key=KEY, max_new_tokens=tokens, temperature=1.0,
      top_p=1.0, eos_ids=())
  return texts_of(params, ids, [g.tokens for g in drawn]), ids


def texts_of(params, ids, answers, **options):
  """calibration.Texts of answers of one length."""
  examples = [chat.answered(p, x) for p, x in zip(ids, answers, strict=True)]
  _, stats = dispatch(params, examples, tail=True, **options).collect()
  answers = np.array(answers)
  stats = stats.map(lambda x: np.asarray(x).reshape(answers.shape))
  stops = np.isin(answers, ours()[1].eos_ids)
  lengths = np.where(stops.any(1), stops.argmax(1) + 1, answers.shape[1])
  return calibration.Texts(
      answers, stats, calibration.randomised_pit(stats, 0), lengths)


def test_own_samples_pass_the_self_test():
  texts, _ = own_samples()
  found = calibration.self_test(texts)
  assert found.passed, found


def test_another_model_is_rejected():
  found = controls.noisy_weights(
      ours()[2], *own_samples(), dispatch, noise=0.05, seed=1)
  assert found.is_told
  assert not found.test.phi_is_zero and not found.test.pit_is_uniform, found


def test_another_temperature_is_rejected():
  texts, ids = own_samples()
  found = calibration.self_test(
      texts_of(ours()[2], ids, texts.ids, temperature=0.8))
  assert not found.phi_is_zero and not found.pit_is_uniform, found


def test_a_mask_shifted_by_one_token_is_told():
  texts, ids = own_samples((SHORT,), SHORT_SAMPLES, SHORT_TOKENS)
  assert calibration.self_test(texts).passed
  found = controls.shifted_mask(ours()[2], texts, ids, dispatch, seed=0)
  assert abs(found.change) > calibration.STANDARD_ERRORS * found.change_se, found


def test_a_round_runs_from_end_to_end_and_transformers_reads_its_model(tmp_path):
  import torch
  options = {
      'data.gym.problems': 24, 'evaluation.problems': 4, 'curate.samples': 1,
      'train.batch': 4, 'validation.every': 2, 'report.examples': 4,
      'curate.fallback': 'reference',  # there may be no right answer among so few
      'train.epochs': 1, 'evaluation.samples': 0, 'log.tensorboard': False,
  }
  done = commands.run(
      'experiments.train', '--config', 'configs/idft.py:smollm2',
      f'--workdir={tmp_path}', *(f'--config.{k}={v}' for k, v in options.items()),
      timeout=900)
  assert 'retained' in done.stdout
  assert metrics.read(tmp_path, 'train')[-1]['nll'] > 0
  folder = tmp_path / 'model'
  for name in ('config.json', 'generation_config.json', 'model.safetensors',
               'tokenizer.json', 'tokenizer_config.json', 'chat_template.jinja'):
    assert (folder / name).exists(), name
  tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
  ids = tokenizer.apply_chat_template(
      prompts.student_chat(PROBLEMS[0]), add_generation_prompt=True,
      return_dict=False)
  assert ids == asked(PROBLEMS[0])
  config, params = weights.load(folder)
  found, _ = model.forward(params, config, np.array([ids]))
  exported = transformers.AutoModelForCausalLM.from_pretrained(folder)
  with torch.no_grad():
    expected = exported(torch.tensor([ids])).logits[0]
  np.testing.assert_allclose(found[0], expected, rtol=0, atol=2e-4)
  # It has learnt: these are not the logits that it began with.
  assert np.abs(expected.numpy() - torch_logits(ids)).max() > 0.01
