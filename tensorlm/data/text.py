"""Any text file as a corpus: the first nine tenths train, the last tenth validates.

With `tokenizer="chars"` this is the protocol of the character-level benchmarks of nanoGPT (A. Karpathy): the
alphabet is that of the whole file, the split is at `int(0.9 * characters)`. For tiny-shakespeare that gives 65
characters, 1,003,854 for training and 111,540 for validation.
"""

import hashlib
from pathlib import Path

from tensorlm.data.source import TokenData, decode_utf8
from tensorlm.data.tokenizer import open_tokenizer
from tensorlm.files import as_uint16

TRAIN_SHARE = 0.9


def load_text(path: str | Path, tokenizer: str = "chars") -> TokenData:
    """Read a UTF-8 file and split it 90/10 by characters; a byte order mark at its beginning is no part of the text.

    Raises FileNotFoundError for a missing file, ValueError where it is not UTF-8 or too short to split.

    >>> import tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "abc.txt"
    >>> _ = path.write_text("abcabcabca" * 10)
    >>> data = load_text(path)
    >>> len(data.train), len(data.valid), data.vocab_size, data.decode(data.valid[:4])
    (90, 10, 3, 'abca')
    """
    path = Path(path)
    raw = path.read_bytes()
    text = decode_utf8(raw, path)
    if len(text) < 20:
        raise ValueError(f"path={str(path)!r}: {len(text)} characters are too few to split")
    codec = open_tokenizer(tokenizer, alphabet_of=text)
    cut = int(len(text) * TRAIN_SHARE)
    train, valid = (as_uint16(codec.encode_array(piece)) for piece in (text[:cut], text[cut:]))
    return TokenData(
        name=f"text {path.name}", tokenizer=codec.id, vocab_size=codec.vocab_size,
        sha256=hashlib.sha256(raw).hexdigest(), train=train, valid=valid,
        bytes_per_token=len(text[cut:].encode()) / len(valid), codec=codec,
    )
