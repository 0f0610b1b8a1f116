"""Named, independent streams of randomness. The only place where a seed becomes another."""

from hashlib import blake2b


def seed_for(seed: int, *names: str | int) -> int:
    """Return a seed that depends on the run's seed and on what it is for, in [0, 2**63).

    A hash: the order in which twins run, or the engine that runs them, cannot change it.
    """
    text = "\0".join(map(str, (seed, *names)))
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest()) >> 1
