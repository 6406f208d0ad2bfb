"""The tokenizer of a GGUF file, for transformers."""

from typing import Any

import tokenizers
from tokenizers import decoders
from tokenizers import models
from tokenizers import normalizers
from tokenizers import pre_tokenizers
from tokenizers import processors
import transformers

from ddt_jax import errors

# GGUF's types of tokens. Unused ones pad the vocabulary to a round number.
UNKNOWN, CONTROL, USER_DEFINED, UNUSED = 2, 3, 4, 5

_BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)


def _split(pattern: str) -> pre_tokenizers.PreTokenizer:
  split = pre_tokenizers.Split(tokenizers.Regex(pattern), 'isolated')
  return pre_tokenizers.Sequence([split, _BYTES])


def _words(digits: str) -> str:
  """The pattern of tiktoken's cl100k, with so many digits to a piece."""
  return (
      r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|" + digits
      + r'| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+')


_QWEN2 = _split(_words(r'\p{N}'))
_GPT2 = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
# tokenizer.ggml.pre -> how text is cut before the merges; llama.cpp's names.
PRE_TOKENIZERS = {
    'gpt-2': _GPT2,
    'smollm': pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True), _GPT2]),
    'llama-bpe': _split(_words(r'\p{N}{1,3}')),
    'qwen2': _QWEN2,
    'deepseek-r1-qwen': _QWEN2,
}


def make(fields: dict[str, Any], max_positions: int) -> Any:
  """Builds the tokenizer of transformers that a GGUF file describes.

  Args:
    fields: of the file.
    max_positions: longest input of the model; stored with the tokenizer.

  Raises:
    errors.InputError: it is not byte-level BPE, or has another pre-tokenizer than
      those of `PRE_TOKENIZERS`, or lacks a list.
  """
  kind = fields.get('tokenizer.ggml.model')
  pre = fields.get('tokenizer.ggml.pre')
  if kind != 'gpt2':
    raise errors.InputError(
        f'tokenizer {kind!r} is not byte-level BPE (gpt2); convert the model with'
        ' the tokenizer of its Hugging Face folder')
  if pre not in PRE_TOKENIZERS:
    raise errors.InputError(
        f'pre-tokenizer {pre!r}, not one of {", ".join(PRE_TOKENIZERS)}')
  try:
    tokens, types, merges = (
        fields[f'tokenizer.ggml.{x}'] for x in ('tokens', 'token_type', 'merges'))
  except KeyError as e:
    raise errors.InputError(f'{e.args[0]} is missing') from None
  bpe = tokenizers.Tokenizer(models.BPE(
      vocab={t: i for i, (t, kind) in enumerate(zip(tokens, types, strict=True))
             if kind != UNUSED},
      # A piece holds no blank: byte-level BPE writes it as another character.
      merges=[tuple(m.split(' ')) for m in merges],
      # Llama 3's vocabulary has words that no sequence of its merges reaches.
      ignore_merges=pre == 'llama-bpe',
  ))
  if pre in ('qwen2', 'deepseek-r1-qwen'):
    bpe.normalizer = normalizers.NFC()
  bpe.pre_tokenizer = PRE_TOKENIZERS[pre]
  bpe.decoder = decoders.ByteLevel()
  # Kept whole in a text; control tokens disappear when it is decoded for reading.
  bpe.add_tokens([
      tokenizers.AddedToken(t, normalized=False, special=kind != USER_DEFINED)
      for t, kind in zip(tokens, types, strict=True)
      if kind in (UNKNOWN, CONTROL, USER_DEFINED)])
  special = {
      f'{ours}_token': tokens[fields[key]]
      for ours, theirs in (('bos', 'bos'), ('eos', 'eos'), ('pad', 'padding'),
                           ('unk', 'unknown'))
      if (key := f'tokenizer.ggml.{theirs}_token_id') in fields}
  if fields.get('tokenizer.ggml.add_bos_token') and 'bos_token' in special:
    bos = special['bos_token']
    bpe.post_processor = processors.TemplateProcessing(
        single=f'{bos} $A', pair=f'{bos} $A {bos} $B',
        special_tokens=[(bos, tokens.index(bos))])
  return transformers.PreTrainedTokenizerFast(
      tokenizer_object=bpe,
      chat_template=fields.get('tokenizer.chat_template'),
      model_max_length=max_positions,
      # The default of some versions removes the space before punctuation.
      clean_up_tokenization_spaces=False,
      **special,
  )
