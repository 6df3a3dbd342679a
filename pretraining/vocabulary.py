"""The pocket base's tokenizer: byte-level BPE in CLIP's format; every word of the twin world is one token."""

import itertools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from transformers import CLIPTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

Pair = tuple[str, str]
SPECIAL = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>"}
LENGTH = 32  # tokens of a prompt, including begin and end


def merges_for(words: Iterable[str]) -> list[Pair]:
    """Merges, in order of their rank, that turn each word into one token.

    Later merges only join tokens that earlier ones left apart, so that no word changes how another is split.

    Args:
        words: lower-case words; punctuation, which the tokenizer splits off, as words of their own.
    """
    merges: list[Pair] = []
    for word in dict.fromkeys(words):
        tokens = split(word, merges)
        while len(tokens) > 1:
            merges.append((tokens[0], tokens[1]))
            tokens = split(word, merges)
    return merges


def split(word: str, merges: list[Pair]) -> list[str]:
    """Split a word into tokens (Sennrich et al. 2016): the pair of the lowest rank is joined until there is none."""
    letters = [bytes_to_unicode()[byte] for byte in word.encode()]
    tokens = [*letters[:-1], f"{letters[-1]}</w>"]
    ranks = {pair: rank for rank, pair in enumerate(merges)}
    while True:
        pairs = set(itertools.pairwise(tokens)) & ranks.keys()
        if not pairs:
            return tokens
        best = min(pairs, key=ranks.__getitem__)
        joined: list[str] = []
        for token in tokens:
            if joined and (joined[-1], token) == best:
                joined[-1] += token
            else:
                joined.append(token)
        tokens = joined


def write_tokenizer(folder: Path, words: Iterable[str]) -> None:
    """Write vocab.json (bytes, word-final bytes, merges, special tokens), merges.txt and tokenizer_config.json."""
    merges = merges_for(words)
    symbols = list(bytes_to_unicode().values())
    tokens = [*symbols, *(f"{s}</w>" for s in symbols), *(a + b for a, b in merges), *SPECIAL.values()]
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {token: k for k, token in enumerate(dict.fromkeys(tokens))}
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    end = SPECIAL["eos_token"]
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": LENGTH, **SPECIAL}
    (folder / "tokenizer_config.json").write_text(
        json.dumps({**config, "pad_token": end, "unk_token": end}, indent=2) + "\n"
    )


def read_tokenizer(folder: Path) -> CLIPTokenizer:
    """Load a tokenizer written by `write_tokenizer`."""
    vocabulary = json.loads((folder / "vocab.json").read_text())
    lines = (folder / "merges.txt").read_text().splitlines()[1:]
    merges = [tuple(line.split()) for line in lines]
    # transformers hands merges to tokenizers' BPE, which takes pairs
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=LENGTH)  # type: ignore[arg-type]


def text_config(config: dict[str, Any], tokenizer: CLIPTokenizer) -> dict[str, Any]:
    """The text encoder's config with the tokenizer's vocabulary size and special tokens."""
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    return {**config, "vocab_size": len(tokenizer), **ids, "pad_token_id": tokenizer.eos_token_id}
