"""Secret keys of 256 bits, and the permutations that are derived from them.

The published scheme draws its permutations from a random generator seeded with a number below
2^32, which a laptop tries exhaustively. A `SecretKey` holds 32 bytes from the operating system
instead and derives every permutation from a SHAKE-256 stream (FIPS 202), so that a permutation
tells nothing about another one, nor about the secret. Not in the paper.

Derivation, for a program in any language. The permutation of ``n`` positions number ``index``
(0 is the image's, 1, 2, ... the layers' outputs in network order) under the nonce ``nonce`` (empty
for keys that are the same for all images) reads ``n`` words, unsigned 64-bit little-endian, from

    SHAKE-256("PrivDL permutation v1" || secret || u64(len(nonce)) || nonce
              || u64(index) || u64(n) || u64(attempt))

with ``u64`` little-endian and ``attempt`` = 0. If two words are equal (a chance of n^2 / 2^65) the
next attempt's words are used. The permutation lists the positions of the words in ascending order.

Why this is unbiased: words that are independent, uniform and distinct are in each of their ``n!``
orders equally often, exactly. A Fisher-Yates shuffle has the same distribution but needs a bounded
random number per step (with rejection, to be exact) and does not vectorise over a batch; sorting
takes 0.06 ms for a 32x32 image here, and any language has a sort.

A key of other use is derived, so that one tells nothing about another: the key named ``label`` has
the first 32 bytes of SHAKE-256("PrivDL derived key v1" || secret || label) as its secret.

A block key moves the ``B`` blocks of ``N x N`` pixels of an image, and turns and mirrors them
(``operators.blocks`` says how both are numbered). It comes from the key derived under the label
"blocks:N", N in decimal: the order of the blocks is its permutation number 0 of ``B`` positions
under the nonce, and the symmetry of block ``b``, before it moves, is the number 0..7 whose bits,
lowest first, are bits ``3*b`` to ``3*b + 2`` of its ``3*B`` bits under the nonce (`bits`).
"""

import hashlib
import itertools
import os
import secrets
import stat
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

SECRET_BYTES = 32
NONCE_BYTES = 16
FILE_HEADER = "PrivDL key v1"


class SecretKey:
    """A 256-bit secret from which permutations are derived.

    Args:
        secret: 32 bytes. Use `SecretKey.generate` or `SecretKey.load` outside of tests.

    Example:
        >>> key = SecretKey(bytes(32))
        >>> key.fingerprint
        '47a2f53e165de0d7'
        >>> key.permutation(8).tolist()
        [7, 0, 4, 2, 3, 5, 6, 1]
    """

    def __init__(self, secret: bytes) -> None:
        if not isinstance(secret, bytes) or len(secret) != SECRET_BYTES:
            got = f"{len(secret)} bytes" if isinstance(secret, bytes) else type(secret).__name__
            raise ValueError(f"a key's secret is {SECRET_BYTES} bytes, got {got}")
        self._secret = secret

    @classmethod
    def generate(cls) -> "SecretKey":
        """A fresh key from the operating system's random generator."""
        return cls(secrets.token_bytes(SECRET_BYTES))

    @classmethod
    def load(cls, path: str | os.PathLike) -> "SecretKey":
        """Read a key file.

        Raises:
            PermissionError: if others may read the file.
            ValueError: if it is not a key file.
        """
        path = Path(path)
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            content = file.read(1024)
        if os.name == "posix" and mode & 0o077:
            raise PermissionError(
                f"{path} has mode {mode:04o}, others may read it; make it private: chmod 600 {path}"
            )
        try:
            header, _, digits = content.decode("ascii").rstrip("\n").rpartition(" ")
            secret = bytes.fromhex(digits)
        except ValueError:
            header = secret = None
        if header != FILE_HEADER or len(secret) != SECRET_BYTES:
            raise ValueError(
                f"{path} is not a key file: it should hold one line, "
                f"'{FILE_HEADER}' and {2 * SECRET_BYTES} hexadecimal digits"
            )
        return cls(secret)

    def save(self, path: str | os.PathLike) -> None:
        """Write the key to a new file that only its owner can read (mode 0600).

        Raises:
            FileExistsError: if there is something at `path`; a key is never overwritten.
        """
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            raise FileExistsError(f"{path} exists; a key file is never overwritten") from None
        try:
            with os.fdopen(handle, "w", encoding="ascii") as file:
                file.write(f"{FILE_HEADER} {self._secret.hex()}\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            os.unlink(path)  # a full disk leaves no half of a key
            raise

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that name the key without revealing it."""
        return hashlib.sha256(b"PrivDL key fingerprint v1" + self._secret).hexdigest()[:16]

    def permutation(self, n: int, index: int = 0, nonce: bytes = b"") -> torch.Tensor:
        """The permutation number `index` of ``0..n-1`` under `nonce`: LongTensor ``(n,)``."""
        return self.permutations(n, [nonce], index)[0]

    def permutations(self, n: int, nonces: Sequence[bytes], index: int = 0) -> torch.Tensor:
        """One permutation of ``0..n-1`` per nonce: LongTensor ``(len(nonces), n)``."""
        if n < 1:
            raise ValueError(f"a permutation needs at least 1 position, got {n}")
        orders = torch.empty(len(nonces), n, dtype=torch.int64)
        for row, nonce in zip(orders, nonces, strict=True):
            row[:] = torch.from_numpy(self._order(n, index, nonce))
        return orders

    def derive(self, label: str) -> "SecretKey":
        """The key named ``label``, which tells nothing about this one or one of another name."""
        stream = hashlib.shake_256(b"PrivDL derived key v1" + self._secret + label.encode())
        return SecretKey(stream.digest(SECRET_BYTES))

    def blocks(
        self, count: int, side: int, nonces: Sequence[bytes]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Order and symmetries of ``count`` blocks of ``side`` x ``side`` pixels under each nonce.

        Both int64 ``(len(nonces), count)``.
        """
        key = self.derive(f"blocks:{side}")
        symmetry = torch.empty(len(nonces), count, dtype=torch.int64)
        for row, nonce in zip(symmetry, nonces, strict=True):
            row[:] = key.octal_digits(count, nonce)
        return key.permutations(count, nonces), symmetry

    def octal_digits(self, n: int, nonce: bytes) -> torch.Tensor:
        """``n`` random numbers 0..7 under `nonce`, int64: three bits each, the lowest first."""
        return (self.bits(3 * n, nonce).view(n, 3) * torch.tensor([1, 2, 4])).sum(1)

    def bits(self, n: int, nonce: bytes) -> torch.Tensor:
        """``n`` random bits under `nonce`, BoolTensor ``(n,)``: the stream below, low bits first.

        SHAKE-256("PrivDL bits v1" || secret || u64(len(nonce)) || nonce || u64(n))
        """
        message = self._secret + _u64(len(nonce)) + nonce + _u64(n)
        stream = hashlib.shake_256(b"PrivDL bits v1" + message).digest((n + 7) // 8)
        packed = np.frombuffer(stream, dtype=np.uint8)
        return torch.from_numpy(np.unpackbits(packed, count=n, bitorder="little").astype(bool))

    def nonces(self, count: int, content: bytes) -> list[bytes]:
        """`count` nonces that depend on `content` alone, for what must come out the same again.

        Other contents get other nonces, whatever the two have in common. The same content gets the
        same ones, which tells that it came again and nothing more. (The idea is that of the
        synthetic initialisation vector, RFC 5297.)

        SHAKE-256("PrivDL nonces v1" || secret || u64(count) || content)
        """
        stream = hashlib.shake_256(b"PrivDL nonces v1" + self._secret + _u64(count) + content)
        digest = stream.digest(NONCE_BYTES * count)
        return [digest[i : i + NONCE_BYTES] for i in range(0, len(digest), NONCE_BYTES)]

    def _order(self, n: int, index: int, nonce: bytes) -> np.ndarray:
        """The order of the words of the first attempt whose words are distinct."""
        for attempt in itertools.count():
            words = self._words(n, index, nonce, attempt)
            order = np.argsort(words)
            if np.diff(words[order]).all():
                return order

    def _words(self, n: int, index: int, nonce: bytes, attempt: int) -> np.ndarray:
        fields = _u64(len(nonce)) + nonce + _u64(index) + _u64(n) + _u64(attempt)
        stream = hashlib.shake_256(b"PrivDL permutation v1" + self._secret + fields)
        return np.frombuffer(stream.digest(8 * n), dtype="<u8")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SecretKey) and secrets.compare_digest(self._secret, other._secret)

    def __hash__(self) -> int:
        return hash(self._secret)

    def __repr__(self) -> str:  # the secret stays out of logs
        return f"SecretKey(fingerprint={self.fingerprint!r})"


def _u64(value: int) -> bytes:
    return value.to_bytes(8, "little")


def new_nonces(count: int) -> list[bytes]:
    """`count` fresh 16-byte nonces from the operating system: public, one per image.

    128 random bits repeat with a chance below 2^-64 among 2^32 images.
    """
    return [secrets.token_bytes(NONCE_BYTES) for _ in range(count)]


def require_distinct(nonces: Sequence[bytes]) -> None:
    """Raise ValueError if a nonce repeats: two images would share a permutation."""
    seen: dict[bytes, int] = {}
    for position, nonce in enumerate(nonces):
        if nonce in seen:
            raise ValueError(
                f"images {seen[nonce]} and {position} share the nonce {nonce.hex()}; "
                "every image needs its own"
            )
        seen[nonce] = position
