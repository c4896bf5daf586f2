"""The synthetic-voice model's recipe: sentences, voices, corpus, training, export, evaluation."""
