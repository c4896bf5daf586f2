"""The demo checkpoint's recipe: sentences, voices, corpus, training, export, evaluation."""
