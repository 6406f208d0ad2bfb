"""A small trained model that ships with the project, and its synthetic data.

  world          stories that are sums, and two styles of solving them
  hands          solutions in several styles, from the student's own to a stranger's
  skills         other tasks the student can do, to measure forgetting
  problems       splits of both, and the text of pre-training
  word_problems  the splits as a data set on disk, and as the corpus of a run
  tokenizer      the student's tokenizer
  student/       the student, a Hugging Face folder of 0.5M parameters
"""

import pathlib

STUDENT = pathlib.Path(__file__).parent / 'student'
