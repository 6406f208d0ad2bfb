"""The student's byte-level BPE tokenizer: single digits, ChatML turns."""

from collections.abc import Iterable
from typing import Any

import tokenizers
from tokenizers import decoders
from tokenizers import models
from tokenizers import normalizers
from tokenizers import pre_tokenizers
from tokenizers import trainers
import transformers
from transformers.models.qwen2 import tokenization_qwen2

PAD, START, END = '<|endoftext|>', '<|im_start|>', '<|im_end|>'
VOCAB_SIZE = 661  # a prime: no tile divides it

CHAT_TEMPLATE = (
    "{%- for m in messages %}{{ '<|im_start|>' + m['role'] + '\n'"
    " + m['content'] + '<|im_end|>\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{%- endif %}"
)


def train(texts: Iterable[str], *, max_positions: int) -> Any:
  """A tokenizer of `VOCAB_SIZE` tokens, as `transformers` loads it."""
  bpe = tokenizers.Tokenizer(models.BPE())
  # What transformers gives every folder of the qwen2 family, whatever its
  # tokenizer.json says: words, single digits, runs of punctuation.
  bpe.normalizer = normalizers.NFC()
  pattern = tokenizers.Regex(tokenization_qwen2.PRETOKENIZE_REGEX)
  bpe.pre_tokenizer = pre_tokenizers.Sequence([
      pre_tokenizers.Split(pattern, 'isolated'),
      pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
  ])
  bpe.decoder = decoders.ByteLevel()
  bpe.train_from_iterator(
      texts,
      trainers.BpeTrainer(
          vocab_size=VOCAB_SIZE,
          special_tokens=[PAD, START, END],
          initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
          show_progress=False,
      ),
  )
  return transformers.PreTrainedTokenizerFast(
      tokenizer_object=bpe,
      pad_token=PAD,
      eos_token=END,
      additional_special_tokens=[START],
      chat_template=CHAT_TEMPLATE,
      clean_up_tokenization_spaces=False,
      model_max_length=max_positions,
  )
