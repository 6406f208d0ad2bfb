"""Chat templates that render what those of published families render."""

# Qwen3: thoughts of turns before the last question are dropped; an answer after it
# has a block of thoughts, empty if there are none.
QWEN3 = r"""
{%- set ns = namespace(last=0) -%}
{%- for m in messages -%}{%- if m.role == 'user' -%}{%- set ns.last = loop.index0 -%}
{%- endif -%}{%- endfor -%}
{%- for m in messages -%}
{%- set text = m.content -%}
{%- if m.role == 'assistant' -%}
{%- set thoughts = m.reasoning_content or '' -%}
{%- if not thoughts and '</think>' in text -%}
{%- set thoughts = text.split('</think>')[0].split('<think>')[-1].strip('\n') -%}
{%- set text = text.split('</think>')[-1].lstrip('\n') -%}
{%- endif -%}
{%- if loop.index0 > ns.last and (loop.last or thoughts) -%}
{%- set text = '<think>\n' + thoughts.strip('\n') + '\n</think>\n\n' + text.lstrip('\n') -%}
{%- endif -%}{%- endif -%}
{{- '<|im_start|>' + m.role + '\n' + text + '<|im_end|>\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}
{%- if enable_thinking is defined and enable_thinking is false -%}
{{- '<think>\n\n</think>\n\n' -}}{%- endif -%}{%- endif -%}
"""
# Llama 3.1: a system turn with dates stands first, whether the chat has one or not.
LLAMA3 = r"""
{{- '<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n' -}}
{{- 'Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n' -}}
{%- if messages[0].role == 'system' -%}
{{- messages[0].content | trim -}}{%- set messages = messages[1:] -%}
{%- endif -%}
{{- '<|eot_id|>' -}}
{%- for m in messages -%}
{{- '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + m.content | trim + '<|eot_id|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' -}}{%- endif -%}
"""
# Gemma 3: the system text begins the first question; the model is called model.
GEMMA3 = r"""
{{- '<bos>' -}}
{%- set first = '' -%}
{%- if messages[0].role == 'system' -%}
{%- set first = messages[0].content + '\n\n' -%}{%- set messages = messages[1:] -%}
{%- endif -%}
{%- for m in messages -%}
{%- if (m.role == 'user') != (loop.index0 % 2 == 0) -%}
{{- raise_exception('roles must alternate') -}}{%- endif -%}
{{- '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' -}}
{{- (first if loop.first else '') + m.content | trim + '<end_of_turn>\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<start_of_turn>model\n' -}}{%- endif -%}
"""
# Mistral 7B v0.2: no system turn.
MISTRAL = r"""
{{- '<s>' -}}
{%- for m in messages -%}
{%- if (m.role == 'user') != (loop.index0 % 2 == 0) -%}
{{- raise_exception('roles must alternate user/assistant') -}}{%- endif -%}
{{- '[INST] ' + m.content + ' [/INST]' if m.role == 'user' else m.content + '</s>' -}}
{%- endfor -%}
"""
# Template and special tokens, with the one that ends a turn last.
FAMILIES = {
    'qwen3': (QWEN3, ['<think>', '</think>', '<|im_start|>', '<|im_end|>']),
    'llama': (LLAMA3, ['<|begin_of_text|>', '<|start_header_id|>',
                       '<|end_header_id|>', '<|eot_id|>']),
    'gemma3_text': (GEMMA3, ['<bos>', '<start_of_turn>', '<end_of_turn>']),
    'mistral': (MISTRAL, ['<s>', '[INST]', '[/INST]', '</s>']),
}


def give(tokenizer, family: str) -> str:
  """Gives a tokenizer a family's template and tokens; returns its end of turn."""
  tokenizer.chat_template, tokens = FAMILIES[family]
  tokenizer.add_special_tokens({'extra_special_tokens': tokens})
  return tokens[-1]
