"""The student that ships with the project, and the world it lives in."""

import pathlib

STUDENT = pathlib.Path(__file__).parent / 'student'  # a Hugging Face folder
