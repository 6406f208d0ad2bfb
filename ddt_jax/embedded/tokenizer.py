"""The student's tokenizer: byte-level BPE, one token a digit, ChatML turns.

Single digits let a small model learn arithmetic once, and not anew for every
number that happens to be one token. Real models such as Qwen's do the same.
"""

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
# A prime: no tile size divides it, so that partial tiles are always exercised.
VOCAB_SIZE = 661

# ChatML, the format of Qwen's models, without their default system turn.
CHAT_TEMPLATE = (
    "{%- for m in messages %}{{ '<|im_start|>' + m['role'] + '\n'"
    " + m['content'] + '<|im_end|>\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{%- endif %}"
)


def train(texts: Iterable[str], *, max_positions: int) -> Any:
  """Trains a tokenizer of `VOCAB_SIZE` tokens.

  Args:
    texts: rendered conversations.
    max_positions: longest input of the model; stored with the tokenizer.

  Returns:
    A tokenizer of transformers.
  """
  bpe = tokenizers.Tokenizer(models.BPE())
  # transformers replaces normalizer and pre-tokenizer of every folder of the qwen2
  # family by these. Others would give the saved tokenizer other ids once loaded.
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
          # All 256 bytes, so that any text can be encoded, also one with characters
          # that the training texts lack.
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
      # The default of some versions removes the space before punctuation: decoded
      # text would then differ from what was encoded.
      clean_up_tokenization_spaces=False,
      model_max_length=max_positions,
  )
