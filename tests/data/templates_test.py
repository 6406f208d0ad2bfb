"""Chat templates of all kinds end in a mask, or in one error that fits."""

import copy
import json
import pathlib

import numpy as np
import pytest

from ddt_jax import errors
from ddt_jax.data import chat
from ddt_jax.data import lengths
from ddt_jax.data import readers
from ddt_jax.data import records
from ddt_jax.data import turns
from experiments.run import inputs
from tests.support import student

CASES = pathlib.Path(__file__).parent / 'cases'
HEAD = "{% for m in messages %}<|im_start|>{{m.role}}\n"
TAIL = ("<|im_end|>\n{% endfor %}{% if add_generation_prompt %}"
        "{{'<|im_start|>assistant\n'}}{% endif %}")
CHATML = HEAD + '{{m.content}}' + TAIL
# Thoughts of earlier answers are dropped, as in Qwen3's template.
THINKING = (
    "{% for m in messages %}<|im_start|>{{m.role}}\n{% if m.role == 'assistant' %}"
    "{% set t = m.reasoning_content or (m.content.split('</think>')[0]"
    ".split('<think>')[-1] if '</think>' in m.content else '') %}"
    "{% if loop.last %}<think>\n{{t.strip('\n')}}\n</think>\n\n{% endif %}"
    "{{m.content.split('</think>')[-1].lstrip('\n')}}{% else %}{{m.content}}"
    "{% endif %}" + TAIL)
USER = {'role': 'user', 'content': '2 + 5?'}
MORE = {'role': 'user', 'content': 'And 3 more?'}
SYSTEM = {'role': 'system', 'content': 'Be brief.'}


def says(content, **fields):
  return {'role': 'assistant', 'content': content} | fields


def tokenizer(template):
  made = copy.deepcopy(student.tokenizer())
  made.chat_template = template
  return made


def trained(template, messages):
  """The supervised text of a conversation."""
  words = tokenizer(template)
  end = chat.turn_end(words)
  problem = records.Problem(
      'x', 'x', source='rows.jsonl:7', messages=tuple(messages))
  example, = lengths.prepare(words, [problem], end, 500).examples
  return words.decode(example.tokens[example.supervised])


def refusal(template, messages):
  with pytest.raises(errors.InputError) as e:
    trained(template, messages)
  text = str(e.value)
  assert '\n' not in text
  return text


def load(path, template=CHATML, **options):
  """Reads a file as the train command does."""
  words = tokenizer(template)
  return inputs.load_data(
      words, chat.turn_end(words), evaluation_problems=9, name='', path=str(path),
      max_tokens=256, overlong='truncate',
      **dict(validation=0.0, evaluation=0.0) | options)


def write(folder, *conversations):
  file = folder / 'rows.jsonl'
  file.write_text(''.join(
      json.dumps({'messages': turns}) + '\n' for turns in conversations))
  return file


GIVEN = [json.loads(line) for line in open(CASES / 'templates.jsonl')]


@pytest.mark.parametrize('case', GIVEN, ids=lambda case: case['why'][:40])
def test_public_reports(case, tmp_path):
  template, expected = case.get('template', CHATML), case['expected']
  messages = case.get('messages', [USER, says('7')])
  file = write(tmp_path, messages)
  try:
    _, fitted, _ = load(file, template)
  except errors.InputError as e:
    assert 'Error' in expected or 'row refused' in expected, e
    named = student.tokenizer().name_or_path if (
        'folder' in expected or 'no generation prompt' in expected
    ) else f'{file}:1: '
    assert named in str(e)
    return
  text = tokenizer(template).decode(
      fitted.examples[0].tokens[fitted.examples[0].supervised])
  assert 'accepted' in expected or expected == f'supervised == {json.dumps(text)}'
  if 'blank' in expected:
    assert text.endswith('. <|im_end|>') and text.startswith(' It')


def folder_error(name, **options):
  folder = CASES / name
  template = folder / 'chat_template.jinja'
  template = template.read_text() if template.exists() else CHATML
  with pytest.raises(errors.InputError) as e:
    load(folder / 'rows.jsonl', template, **options)
  return str(e.value)


def test_a_row_that_the_template_refuses_is_named_and_skipped():
  said = folder_error('template-raises')
  assert 'rows.jsonl:2: the chat template of' in said
  assert 'no system turn here' in said
  template = (CASES / 'template-raises/chat_template.jinja').read_text()
  found, fitted, _ = load(
      CASES / 'template-raises/rows.jsonl', template, bad_rows='skip')
  assert (found.bad_rows, len(fitted.examples)) == (1, 1)
  assert 'rows.jsonl:2: ' in found.description


def test_a_template_that_does_not_parse_names_its_folder():
  said = folder_error('template-syntax')
  assert student.tokenizer().name_or_path in said and 'line 1' in said
  assert '\n' not in said


def test_an_answer_without_a_prompt_is_named_and_skipped():
  assert 'rows.jsonl:2: ' in (said := folder_error('assistant-first'))
  assert 'begins with an assistant turn' in said
  found, fitted, _ = load(CASES / 'assistant-first/rows.jsonl', bad_rows='skip')
  assert (found.bad_rows, len(fitted.examples)) == (1, 1)
  with_weight = [says('Hello.', train=False), USER, says('7')]
  assert trained(CHATML, with_weight) == '7<|im_end|>'
  assert 'begins with an assistant' in refusal(CHATML, [says('Hi'), USER, says('7')])


def test_thoughts_that_the_template_drops_are_a_fault():
  said = folder_error('thoughts-dropped')
  assert "rows.jsonl:1: the chat template leaves out '<think>' of messages[1]" in said


def test_a_generation_prompt_that_the_answer_lacks_is_quoted():
  said = folder_error('prompt-opens-thoughts')
  assert "rows.jsonl:1: the generation prompt ends with '<think>\\n', which" in said


def test_a_template_without_a_generation_prompt_is_refused():
  assert 'has no generation prompt' in folder_error('no-generation-prompt')


def test_a_blank_before_the_end_of_a_turn_is_supervised():
  folder = CASES / 'blank-before-end'
  template = (folder / 'chat_template.jinja').read_text()
  _, fitted, _ = load(folder / 'rows.jsonl', template)
  e = fitted.examples[0]
  text = tokenizer(template).decode(e.tokens[e.supervised])
  assert text == ' 1 + 1 = 2, so \\boxed{2}. <|im_end|>'


def test_an_end_that_the_config_does_not_list_is_said(caplog):
  with caplog.at_level('WARNING'):
    assert chat.turn_end(tokenizer(CHATML), [0]).text == '<|im_end|>'
  assert "'<|im_end|>' (2), which is not among" in caplog.text
  caplog.clear()
  with caplog.at_level('WARNING'):
    chat.turn_end(tokenizer(CHATML), [0, 2])
  assert not caplog.records


@pytest.mark.parametrize('template, said', [
    (HEAD + "{{m.content + 1}}" + TAIL, 'concatenate str'),
    (HEAD + "{{1 // 0}}" + TAIL, 'division'),
    (HEAD + "{{m.nothing.more}}" + TAIL, 'has no attribute'),
    (HEAD + "{{m.content | nosuchfilter}}" + TAIL, 'nosuchfilter'),
    (HEAD + "{% include 'x' %}" + TAIL, 'fails'),
    (HEAD + "{{ raise_exception('a\nb') }}" + TAIL, 'a b'),
    (HEAD + "{% for i in range(10 ** 9) %}{% endfor %}" + TAIL, 'fails'),
])
def test_whatever_a_template_raises_is_one_line_with_its_folder(template, said):
  text = refusal(template, [USER, says('7')])
  assert said in text and student.tokenizer().name_or_path in text


@pytest.mark.parametrize('template', [
    HEAD + "{% for part in m.content %}{{part.text}}{% endfor %}" + TAIL,
    HEAD + "{{m.content[0]['text']}}" + TAIL,
])
def test_a_template_for_lists_of_parts_is_refused(template):
  assert 'a list of parts' in refusal(template, [USER, says('7')])


def test_a_template_that_leaves_out_the_answer_is_refused():
  assert "leaves out the assistant's content" in refusal(
      HEAD + TAIL, [USER, says('7')])


def test_prompts_that_lose_their_text_are_a_fault():
  quiet = CHATML.replace(
      '{{m.content}}', "{% if m.role != 'system' %}{{m.content}}{% endif %}")
  assert trained(quiet, [USER, says('7')]) == '7<|im_end|>'
  said = refusal(quiet, [SYSTEM, USER, says('7')])
  assert "rows.jsonl:7: the chat template leaves out 'Be brief.'" in said
  # Text is found although it is trimmed.
  trims = CHATML.replace('m.content', 'm.content | trim')
  spaced = USER | {'content': ' 2 + 5?\n'}
  assert trained(trims, [spaced, says(' 7\n')]) == '7<|im_end|>'


@pytest.mark.parametrize('field', ['reasoning_content', 'reasoning', 'thinking'])
def test_reasoning_in_its_own_field_is_rendered_or_refused(field, tmp_path):
  file = write(tmp_path, [USER, says('7', **{field: 'two and five'})])
  renders = CHATML.replace('{{m.content}}', (
      f"{{% if m.{field} %}}<think>{{{{m.{field}}}}}</think>{{% endif %}}"
      "{{m.content}}"))
  found, fitted, _ = load(file, renders)
  assert found.train[0].messages[1][field] == 'two and five'
  e = fitted.examples[0]
  assert student.tokenizer().decode(e.tokens[e.supervised]) == (
      '<think>two and five</think>7<|im_end|>')
  with pytest.raises(errors.InputError, match=(
      fr"rows.jsonl:1: .*leaves out 'two and five' of messages\[1\].{field}")):
    load(file)
  found, fitted, _ = load(
      write(tmp_path, [USER, says('7', **{field: 'x y'})], [USER, says('8')]),
      bad_rows='skip')
  assert (found.bad_rows, len(fitted.examples)) == (1, 1)


@pytest.mark.parametrize('flag', [
    {'weight': 0}, {'train': False}, {'weight': 0.0}, {'train': 0},
    {'weight': 0, 'train': True},
])
def test_a_turn_s_weight_is_honoured(flag, tmp_path):
  file = write(
      tmp_path, [USER, says('7', **flag), MORE, says('10', weight=1, train=None)],
      [USER, says('7', weight=1), MORE, says('10', **flag)])
  found, fitted, _ = load(file)
  texts = [student.tokenizer().decode(e.tokens[e.supervised])
           for e in fitted.examples]
  assert texts == ['10<|im_end|>', '7<|im_end|>']
  whole = student.tokenizer().decode(fitted.examples[0].tokens)
  assert whole.count('<|im_end|>') == 4  # the untrained turn is in the prompt
  # Nothing depends on turns after the last trained one.
  assert [p.solution for p in found.train] == ['10', '7']


@pytest.mark.parametrize('flag', [
    {'weight': 0.5}, {'weight': 'no'}, {'train': [0]}, {'train': 2}])
def test_another_weight_is_a_fault(flag, tmp_path):
  with pytest.raises(errors.InputError, match='rows.jsonl:1: .*must be 0 or 1'):
    load(write(tmp_path, [USER, says('7', **flag)]))
  with pytest.raises(errors.InputError, match='each has weight 0'):
    load(write(tmp_path, [USER, says('7', weight=0)]))


TWO = [USER, says('<think>\n2 and 5\n</think>\n\n7'), MORE,
       says('<think>\n7 and 3\n</think>\n\n10')]


def test_a_thinking_template_splits_a_conversation_by_turns(tmp_path):
  file = write(tmp_path, TWO, [USER, says('<think>\n\n</think>\n\n7')])
  found, fitted, _ = load(file, THINKING)
  assert [p.id for p in found.train] == [
      'rows.jsonl:1.turn1', 'rows.jsonl:1', 'rows.jsonl:2']
  assert '1 conversations are split by turns, which adds 1 examples' in (
      found.description)
  words = tokenizer(THINKING)
  texts = [words.decode(e.tokens[e.supervised]) for e in fitted.examples]
  assert texts == ['<think>\n2 and 5\n</think>\n\n7<|im_end|>',
                   '<think>\n7 and 3\n</think>\n\n10<|im_end|>',
                   '<think>\n\n</think>\n\n7<|im_end|>']
  # Each prompt is what sampling shows the model.
  for p, e in zip(found.train, fitted.examples, strict=True):
    prompt = chat.encode_prompt(words, p.conversation[:-1])
    np.testing.assert_array_equal(e.tokens[:len(prompt)], prompt)
    np.testing.assert_array_equal(
        e.supervised, np.arange(len(e.tokens)) >= len(prompt))
    assert fitted.by_id[p.id] is e
  # Earlier turns are references and no more.
  assert [p.answer for p in found.train[:1]] == ['']


def test_a_thinking_template_refuses_a_conversation_without_splitting(tmp_path):
  file = write(tmp_path, TWO, [USER, says('7')])
  with pytest.raises(errors.InputError, match=(
      'rows.jsonl:1: .*not prefix-stable at turn 3.*data.split_turns=True')):
    load(file, THINKING, split_turns=False)
  found, _, _ = load(file, THINKING, split_turns=False, bad_rows='skip')
  assert found.bad_rows == 1
  # A stable template is not split, with the option or without.
  plain = [USER, says('7'), MORE, says('10')]
  for split_turns in (True, False):
    found, fitted, _ = load(write(tmp_path, plain), split_turns=split_turns)
    assert [p.id for p in found.train] == ['rows.jsonl:1']
    assert len(fitted.examples) == 1 and 'split' not in found.description


def test_split_turns_have_ids_of_their_own():
  problem = records.Problem('1', 'x', messages=tuple(TWO))
  other = records.Problem('1.turn1', 'x', 'y')
  found = turns.split([problem, other], {'1'})
  assert [p.id for p in found] == ['1.turn1_', '1', '1.turn1']
  assert found[1].conversation[-1] == TWO[-1]
  # A turn that was not trained stays so.
  quiet = (TWO[0], TWO[1] | {'train': False}, *TWO[2:])
  found = turns.split([records.Problem('1', 'x', messages=quiet)], {'1'})
  assert [p.id for p in found] == ['1']


def test_the_end_of_a_turn_may_not_be_missing():
  text = refusal(
      CHATML.replace('<|im_end|>\n', (
          "{% if m.content != '8' %}<|im_end|>{% endif %}\n")), [USER, says('8')])
  assert "does not end turn 1 with '<|im_end|>'" in text


def test_readers_name_the_row_that_a_check_refuses(tmp_path):
  def accept(problem):
    raise errors.InputError('no')

  with pytest.raises(errors.InputError, match='rows.jsonl:1: no'):
    readers.read(write(tmp_path, [USER, says('7')]), accept=accept)
