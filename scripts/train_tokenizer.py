"""Train a byte-level BPE table and write its JSON: python scripts/train_tokenizer.py --entries 4096 --out bpe4096.json

It reads the Shakespeare plays outside the validation set, or each `--text FILE`, and prints the id of the table. The tables in
tensorlm/data/assets were made so.
"""

import argparse
from pathlib import Path

from tensorlm.data.shakespeare import training_plays
from tensorlm.data.source import decode_utf8
from tensorlm.data.tokenizer import BpeTokenizer, train_bpe


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--entries", type=int, default=4096)
    parser.add_argument("--text", type=Path, action="append", help="UTF-8 file, repeatable (else the training plays)")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    files = options.text or []
    texts = [decode_utf8(path.read_bytes(), path) for path in files] or list(training_plays().values())
    table = train_bpe(texts, options.entries)
    options.out.write_text(table, encoding="utf-8")
    codec = BpeTokenizer(table, options.out.stem)
    print(f"{codec.id}: {codec.vocab_size} entries, {len(table) / 1024:.0f} KB, {options.out}")


if __name__ == "__main__":
    main()
