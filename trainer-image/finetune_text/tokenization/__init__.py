"""Examples as token sequences: chat templates, tokenizers, the stop token, what carries loss."""
