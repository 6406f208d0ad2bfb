"""Hinted Decoding against every greedy run of the official code."""

import dataclasses
import functools
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import transformers

from ddt_jax import embedded
from ddt_jax import engine
from ddt_jax import errors
from ddt_jax import hinted_decode
from ddt_jax import model
from ddt_jax import sampling
from ddt_jax import stopping
from ddt_jax import verify
from ddt_jax import weights
from ddt_jax.data import chat
from ddt_jax.data import prompts
from tests.support import paths

RUNS = json.loads((paths.GOLDEN / 'hinted' / 'hinted.json').read_text())
FINISH = {'Max-length': 'length', 'EOS-drafter': 'eos', 'Repeating': 'repetition'}
# Defects of the official code that are not reproduced, and what it can do with
# two models.
NOT_OURS = ('use_cache_true', 'two_models', 'replacement_char_splitter',
            'splitter_without_tokenizer')
GREEDY = [
    run for kind in ('cases', 'special', 'repetition') for run in RUNS[kind]
    if not any(name in run['id'] for name in NOT_OURS)
]
KEY = jax.random.key(0)

load = functools.cache(weights.load)


@pytest.fixture(autouse=True)
def few_programs_at_a_time():
  """Hundreds of compiled loops in one process are more than XLA bears."""
  yield
  jax.clear_caches()


@functools.cache
def tokenizer():
  return transformers.AutoTokenizer.from_pretrained(paths.GOLDEN / 'tokenizer')


def pair(model, i):
  found = RUNS['pairs'][model][i]
  return found['student'], found['hinted']


def limit(run):
  """Tokens it may have: the official maximum less one, and its context's."""
  most = run['max_gen_len'] - 1
  if context := run.get('ctx_override'):
    longest = max(map(len, pair(run['model'], run['pair'])))
    most = min(most, context - longest - 1)
  return max(most, int(run.get('first_target', True)))


def check(run, *, mates=True, slots=None):
  """Decodes the run, alone or beside all of the model's pairs."""
  config, params = load(paths.GOLDEN / 'models' / run['model'])
  others = range(len(RUNS['pairs'][run['model']])) if mates else []
  pairs = [pair(run['model'], i) for i in [*others, run['pair']]]
  # The others' lengths are such that mates end while the run goes on.
  limits = [max(47 - 7 * i, 2) for i in others] + [limit(run)]
  *_, found = hinted_decode.generate(
      params, config, pairs, key=KEY, max_new_tokens=max(limits),
      max_tokens=limits, beta=run['beta'], schedule=run['lambda_mode'],
      center=run.get('sigmoid_center', 0.5),
      bounds=run.get('piecewise_bounds', (0.3, 0.7)), temperature=1.0,
      top_p=1.0, greedy=True, splitter=run.get('splitter'),
      tokenizer=tokenizer(), slots=slots,
      eos_ids=[i for i in run.get('eos') or () if i >= 0],
      first_from_hint=run.get('first_target', True),
  )
  assert found.tokens == run['tokens'], run['id']
  assert found.finish == FINISH[run['finish']], run['id']
  if run.get('splitter'):
    assert found.student_only_from == run['switch_after'], run['id']


@pytest.mark.parametrize('slots', [1, 3, 16])
def test_a_fifth_of_the_official_greedy_runs_of_a_model(slots):
  for run in [r for r in GREEDY if r['model'] == 'qwen2-tiny'][::5]:
    check(run, slots=slots)


def runs_of(model):
  return [run for run in GREEDY if run['model'] == model]


@pytest.mark.slow
@pytest.mark.parametrize('model', sorted(RUNS['pairs']))
@pytest.mark.parametrize('slots', [1, 3, 16])
def test_every_greedy_run_beside_others(model, slots):
  for run in runs_of(model):
    check(run, slots=slots)


@pytest.mark.long  # for the many shapes that are compiled
@pytest.mark.parametrize('model', sorted(RUNS['pairs']))
def test_every_greedy_run_alone(model):
  for run in runs_of(model):
    check(run, mates=False)


def test_a_run_alone():
  for run in runs_of('qwen3-tiny')[::20]:
    check(run, mates=False)


@pytest.mark.parametrize('run', RUNS['sampled'], ids=lambda r: r['id'])
def test_distributions_of_the_official_sampled_runs(run):
  # The official text is read again; what it was drawn from must be the same.
  config, params = load(paths.GOLDEN / 'models' / run['model'])
  student, hinted = pair(run['model'], run['pair'])
  text = run['tokens']

  def logits(prompt):
    ids = np.array([[*prompt, *text]])
    return model.forward(params, config, ids)[0][0, len(prompt) - 1: -1]

  switch = run['switch_after']
  count = np.arange(len(text))
  past = count >= (len(text) if switch is None else switch)
  if run['splitter']:
    table = stopping.splitter_automaton(
        tokenizer(), run['splitter'], config.vocab_size
    )
    assert stopping.found_at(table, text) == switch
  mixture = hinted_decode.Mixture(
      run['beta'], run.get('sigmoid_center', 0.5), run['lambda_mode']
  )
  log_m = mixture(jnp.stack([logits(hinted), logits(student)]), count, past)
  log_m = np.asarray(jax.nn.log_softmax(log_m))
  drawn = np.asarray(sampling.distribution(
      log_m, temperature=run['temperature'], top_p=run['top_p']
  ))
  kinds = {'hinted_only': 0, 'mix': 0, 'student_only': 0}
  for t, step in enumerate(run['trace']):
    kinds[step['kind']] += 1
    np.testing.assert_allclose(
        log_m[t, step['top5']], step['top5_logm'], atol=1e-3)
    if step['cum_margin'] > 3e-4:
      assert (drawn[t] > 0).sum() == step['kept_exact'], t
      np.testing.assert_allclose(
          drawn[t, step['top5_out']], step['top5_out_prob'], atol=2e-4)
  assert kinds['hinted_only'] == 1 and kinds['mix'] > 3


PROBLEM = 'Ann has 3 apples. Ann finds 4 more. How many apples does Ann have now?'
TEMPLATE = prompts.load('short')
SOLUTION = 'Ledger of Ann; opening 3; in 4 onto 3 makes 7; balance \\boxed{7}'


@functools.cache
def embedded_student():
  words = transformers.AutoTokenizer.from_pretrained(embedded.STUDENT)
  return words, *load(embedded.STUDENT)


def request():
  words, _, _ = embedded_student()
  return (
      chat.encode_prompt(words, prompts.student_chat(PROBLEM)),
      chat.encode_prompt(words, TEMPLATE.hinted_chat(PROBLEM, SOLUTION)),
  )


def rewrite_all(requests, max_positions=None, **options):
  words, config, params = embedded_student()
  if max_positions is not None:
    config = dataclasses.replace(config, max_positions=max_positions)
  options = dict(
      max_new_tokens=64, max_analysis_tokens=96, beta=3.0, temperature=0.3,
      top_p=0.95, splitter='\\boxed{', tokenizer=words, key=KEY,
      eos_ids=config.eos_ids,
  ) | options
  return hinted_decode.rewrite(params, config, requests, **options)


def test_the_student_rewrites_a_solution_in_its_own_hand():
  words, _, _ = embedded_student()
  found, = rewrite_all([request()])
  analysis = words.decode(found.analysis)
  assert analysis.startswith(prompts.ANALYZE) and analysis.endswith(
      TEMPLATE.marker)
  text = words.decode(found.tokens, skip_special_tokens=True)
  assert '3+4=7' in text and 'onto' not in text
  assert verify.verify(text, '7').correct
  assert found.finish == 'eos' and found.reason == ''
  # The student alone from the end of the splitter on.
  said = words.decode(found.tokens[:found.student_only_from])
  assert said.endswith('\\boxed{')
  assert '\\boxed{' not in words.decode(
      found.tokens[:found.student_only_from - 1])


@pytest.mark.parametrize('options, reason', [
    ({'marker': '# Nowhere'}, "no '# Nowhere'"),
    ({'max_analysis_tokens': 5}, 'no .*length'),
])
def test_what_has_no_analysis_is_skipped_and_says_why(options, reason):
  found, = rewrite_all([request()], **options)
  assert found.finish == 'skipped' and found.tokens == []
  assert re.search(reason, found.reason)


def test_without_an_analysis_the_streams_begin_behind_the_marker():
  found, = rewrite_all([request()], analysis='none', greedy=True, beta=0.0)
  words, _, _ = embedded_student()
  assert words.decode(found.analysis) == TEMPLATE.marker
  assert found.reason == '' and found.finish == 'eos'
  assert '3+4=7' in words.decode(found.tokens)


def test_an_analysis_begins_with_the_prefill():
  words, _, _ = embedded_student()
  whole, = rewrite_all([request()])
  begun = words.decode(whole.analysis[:5])
  assert rewrite_all([request()], prefill=begun) == [whole]
  other, = rewrite_all([request()], prefill='# Analyze\nFirst')
  assert words.decode(other.analysis).startswith('# Analyze\nFirst')


def test_what_is_too_long_is_skipped_and_changes_nothing_else():
  student, hinted = request()
  _, config, _ = embedded_student()
  long = student * (config.max_positions // len(student) + 1)
  of_chat, of_student, found, again = rewrite_all(
      [(student, long), (long, hinted), (student, hinted), (student, hinted)])
  for skipped in (of_chat, of_student):
    assert skipped.finish == 'skipped' and skipped.tokens == []
    assert f'{len(long)} tokens leave no room for 64' in skipped.reason
  # Their draws go by their places among all requests.
  alone = rewrite_all([(student, hinted)] * 4)
  assert [found, again] == alone[2:] and found.tokens != again.tokens


def test_an_analysis_leaves_room_for_what_follows():
  asked = request()
  whole, = rewrite_all([asked])
  positions = len(asked[1]) + len(whole.analysis) + 64
  found, = rewrite_all([asked], max_positions=positions)
  assert found == whole
  found, = rewrite_all([asked], max_positions=positions - 1)
  assert found.analysis == whole.analysis[:-1] and 'length' in found.reason


@pytest.mark.parametrize('options, message', [
    ({'beta': -1.0}, 'hint.beta -1'),
    ({'bounds': [0.3]}, 'hint.bounds'),
    ({'schedule': 'piecewise', 'bounds': [0.7, 0.3]}, 'hint.bounds'),
    ({'order': 'both'}, "order='both'"),
    ({'cache_dtype': 'uint8'}, 'decoding.cache_dtype uint8'),
    ({'max_new_tokens': -1}, 'request 0: .*limit below 0'),
    ({'max_tokens': [5]}, 'max_tokens.*rewrite'),
    ({'requests': [([1], [2]), ([], [2])]}, 'request 1: an empty prompt'),
    ({'requests': [([1], [2]), ([9999], [2])]}, 'request 1: .*vocabulary'),
], ids=str)
def test_what_cannot_be_rewritten_is_refused_before_any_decoding(
    options, message, monkeypatch
):
  for function in ('generate', 'run'):
    monkeypatch.setattr(engine, function, None)
  with pytest.raises(errors.InputError, match=message):
    rewrite_all(options.pop('requests', [request()]), **options)


@pytest.mark.parametrize('options, message', [
    ({'beta': -1.0}, 'beta -1'),
    ({'schedule': 'cosine'}, "'cosine'"),
    ({'beta': float('nan')}, 'hint.beta nan'),
    ({'center': float('inf')}, 'hint.center inf'),
    ({'schedule': 'piecewise', 'bounds': (0.7, 0.3)}, 'hint.bounds'),
    ({'bounds': (0.1, 0.3, 0.7)}, 'hint.bounds'),
    ({'top_p': 0.0}, 'top_p 0'),
    ({'splitter': 'x'}, 'needs a tokenizer'),
    ({'eos_ids': [503]}, 'EOS.*503'),
    ({'pairs': [([1], [2]), ([], [2])]}, 'request 1: an empty prompt'),
    ({'pairs': [([1], [2] * 2048)]}, 'request 0: 2048 prompt'),
], ids=str)
def test_what_cannot_be_decoded_is_refused_by_name(options, message):
  config, params = load(paths.GOLDEN / 'models' / 'qwen2-tiny')
  options = dict(
      pairs=[([1], [2])], key=KEY, max_new_tokens=4, beta=1.0, temperature=1.0,
      top_p=1.0, eos_ids=[],
  ) | options
  with pytest.raises(errors.InputError, match=message):
    hinted_decode.generate(params, config, options.pop('pairs'), **options)


def test_options_come_as_they_stand_in_a_config():
  plain, = rewrite_all([request()], schedule='piecewise', bounds=(0.2, 0.6))
  listed, = rewrite_all(
      [request()], schedule='piecewise', bounds=[0.2, 0.6], cache_dtype='',
      order='top_p_first', center=0.5)
  assert listed == plain
  same = [request()] * 8
  for options, other in (
      ({'schedule': 'sigmoid', 'temperature': 1.0}, {'center': 0.9}),
      ({'temperature': 2.0}, {'order': 'temperature_first'}),
  ):
    assert rewrite_all(same, **options) != rewrite_all(same, **options | other)


def test_a_cache_dtype_by_its_name_rounds_keys_and_values():
  config, params = load(paths.GOLDEN / 'models' / 'qwen2-tiny')
  pairs = [pair('qwen2-tiny', i) for i in range(len(RUNS['pairs']['qwen2-tiny']))]
  exact, rounded, by_class = (
      hinted_decode.generate(
          params, config, pairs, key=KEY, max_new_tokens=40, beta=1.0,
          temperature=1.0, top_p=1.0, greedy=True, eos_ids=(), repetition=None,
          cache_dtype=dtype)
      for dtype in (None, 'bfloat16', jnp.bfloat16)
  )
  assert rounded == by_class != exact
