"""Chats: answering a problem, and rewriting a given solution of it."""

Chat = list[dict[str, str]]

ANALYZE = '# Analyze'
COT = '# CoT'

REWRITE = (
    f'Read the problem and its solution. Under {ANALYZE} say what the solution'
    f' does; then, under {COT}, solve the problem in your own words.'
)

# What stands between the analysis and the model's own solution.
MARKER = f'{COT}\n'


def student_chat(problem: str) -> Chat:
  """The problem alone, as any user would pose it."""
  return [{'role': 'user', 'content': problem}]


def hinted_chat(problem: str, solution: str, *, system: str = REWRITE) -> Chat:
  """The problem with a reference solution, to be told in the model's words."""
  content = f'{problem}\nSolution: {solution}'
  return [
      {'role': 'system', 'content': system},
      {'role': 'user', 'content': content},
  ]


def rewritten(analysis: str, solution: str) -> str:
  """The answer that `hinted_chat` asks for."""
  return f'{ANALYZE}\n{analysis}\n{MARKER}{solution}'
