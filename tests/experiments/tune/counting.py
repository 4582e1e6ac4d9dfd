"""Counts what an Item LLM encodes, in every process of a test; Ray's workers import it."""

import os


def count_encodings():
    """Note each pass over texts in the file $ENCODINGS: process and number of texts."""
    from recbole_lite.text.text_encoder import TextEncoder

    encode = TextEncoder.encode

    def counted(self, texts, *arguments, **others):
        with open(os.environ["ENCODINGS"], "a") as file:
            file.write(f"{os.getpid()} {len(texts)}\n")
        return encode(self, texts, *arguments, **others)

    TextEncoder.encode = counted
