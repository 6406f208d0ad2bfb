"""One round: answers, rewriting, selection, evaluation."""
