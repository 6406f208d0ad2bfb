"""Where problems come from, and which of them are held out."""
