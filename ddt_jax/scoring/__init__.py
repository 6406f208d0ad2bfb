"""phi over corpora: numbers only."""
