"""Which cache block belongs to whom: a fixed number of blocks, shared by content.

A block is `block_size` consecutive positions of the paged cache, and is in one of three states:

- *held*: in the block table of at least one running sequence; its holders are counted;
- *idle*: held by nobody but published, so a later sequence with the same prefix can take it up again;
  when blocks run out, idle ones are evicted, the longest idle first;
- *free*: held by nobody and without known content.

A full block is published under the key of its content: a 256-bit BLAKE2b over the key of the block before
it and its own tokens, a chain that begins with the tenant's salt. Equal keys thus mean equal salts, tokens
and positions (a collision would have to be a break of BLAKE2b), and equal content by the law of exactness.
"""

from __future__ import annotations

from array import array
from collections import Counter, OrderedDict
from collections.abc import Iterable
from collections.abc import Sequence as Seq
from hashlib import blake2b

__all__ = ["BlockManager", "adapted_salt", "block_key", "root_key"]


def root_key(salt: bytes) -> bytes:
    """The key that the chain of a tenant's blocks begins with."""
    return blake2b(salt, digest_size=32, person=b"mohist salt").digest()


def adapted_salt(salt: bytes, adapter_key: bytes) -> bytes:
    """The salt of a tenant whose blocks are computed with an adapter; its key has up to 64 bytes."""
    return blake2b(salt, digest_size=32, key=adapter_key, person=b"mohist adapter").digest()


def block_key(parent: bytes, tokens: Seq[int]) -> bytes:
    """The key of a full block of `tokens` (ids below 2**32) that follows the block with key `parent`."""
    return blake2b(parent + array("I", tokens).tobytes(), digest_size=32, person=b"mohist block").digest()


class BlockManager:
    """Counts the holders of every block, and finds published blocks by key."""

    __slots__ = ("_block_of", "_free", "_holders", "_idle", "_key_of", "block_size", "num_blocks")

    def __init__(self, num_blocks: int, block_size: int) -> None:
        assert num_blocks >= 1, f"num_blocks = {num_blocks}"
        assert block_size >= 1, f"block_size = {block_size}"
        self.num_blocks = num_blocks
        self.block_size = block_size
        self._holders = [0] * num_blocks
        self._free = list(range(num_blocks - 1, -1, -1))
        self._idle: OrderedDict[int, None] = OrderedDict()
        self._block_of: dict[bytes, int] = {}
        self._key_of: list[bytes | None] = [None] * num_blocks

    @property
    def num_available(self) -> int:
        """Blocks that can be taken: free or idle."""
        return len(self._free) + len(self._idle)

    @property
    def num_held(self) -> int:
        """Blocks in the table of at least one sequence."""
        return self.num_blocks - self.num_available

    def num_blocks_for(self, num_rows: int) -> int:
        """How many blocks hold `num_rows` positions."""
        return -(-num_rows // self.block_size)

    def extend_keys(self, keys: list[bytes], tokens: Seq[int], salt: bytes, count: int) -> None:
        """Prolong `keys`, the keys of the leading full blocks of `tokens`, in place to at least `count`."""
        size = self.block_size
        parent = keys[-1] if keys else root_key(salt)
        for index in range(len(keys), count):
            parent = block_key(parent, tokens[index * size : (index + 1) * size])
            keys.append(parent)

    def acquire(self, keys: Seq[bytes], num_blocks: int, *, leaving: int = 0) -> tuple[list[int], int] | None:
        """A table of `num_blocks` blocks, and how many of its first ones already hold what `keys` name.

        Takes the longest published run of `keys` and new blocks for the rest. All or nothing: None if fewer
        than `leaving` blocks would stay available.
        """
        if self.num_available + len(keys) < num_blocks + leaving:
            return None
        table: list[int] = []
        num_idle = 0
        for key in keys:
            block = self._block_of.get(key)
            if block is None:
                break
            table.append(block)
            num_idle += not self._holders[block]
        num_shared = len(table)
        if self.num_available - num_idle < num_blocks - num_shared + leaving:
            return None
        for block in table:
            if not self._holders[block]:
                del self._idle[block]
            self._holders[block] += 1
        table.extend([self.take() for _ in range(num_blocks - num_shared)])
        return table, num_shared

    def take(self) -> int:
        """A block of unknown content with one holder; evicts the longest idle block if none is free."""
        assert self.num_available, "no block is available"
        if self._free:
            block = self._free.pop()
        else:
            block, _ = self._idle.popitem(last=False)
            self._withdraw(block)
        self._holders[block] = 1
        return block

    def publish(self, block: int, key: bytes) -> None:
        """Let others share a held, full block; if another block is published as `key`, that one stays."""
        assert self._holders[block], f"block {block} is published but not held"
        assert self._key_of[block] is None, f"block {block} is published twice"
        if key not in self._block_of:
            self._block_of[key] = block
            self._key_of[block] = key

    def release(self, table: Seq[int]) -> None:
        """One holder less for every block of a table. The last blocks of a prefix are evicted first."""
        for block in reversed(table):
            assert self._holders[block], f"block {block} is released more often than it was taken"
            self._holders[block] -= 1
            if self._holders[block]:
                continue
            if self._key_of[block] is None:
                self._free.append(block)
            else:
                self._idle[block] = None

    def reset(self) -> None:
        """Forget all content, since the weights changed or a step failed. No block may be held."""
        assert not self.num_held, f"{self.num_held} blocks are held: preempt or finish their sequences first"
        for block in self._idle:
            self._withdraw(block)
            self._free.append(block)
        self._idle.clear()

    def check(self, tables: Iterable[Seq[int]]) -> None:
        """Assert that the books are right when the sequences hold just these `tables`."""
        holders: Counter[int] = Counter()
        for table in tables:
            assert len(set(table)) == len(table), f"a block is twice in the table {table}"
            holders.update(table)
        assert self._holders == [holders[block] for block in range(self.num_blocks)], "holders are miscounted"
        held = [block for block in range(self.num_blocks) if self._holders[block]]
        assert sorted([*held, *self._idle, *self._free]) == list(range(self.num_blocks)), "a block leaked"
        keys = {key: block for block, key in enumerate(self._key_of) if key is not None}
        assert keys == self._block_of, "the two directions of the key index disagree"
        assert all(self._key_of[block] is not None for block in self._idle), "an idle block has no key"
        assert all(self._key_of[block] is None for block in self._free), "a free block has a key"

    def _withdraw(self, block: int) -> None:
        key = self._key_of[block]
        assert key is not None, f"block {block} is not published"
        del self._block_of[key]
        self._key_of[block] = None
