"""One point of choice: which GPU type, how many of them per engine, how many engines per GPU, which engine limits."""

from __future__ import annotations

from dataclasses import dataclass


class _HashedOnce:
    """Remembers its hash: these are the keys of the planner, looked up hundreds of times in each decision."""

    __slots__ = ("_hash",)
    _hash: int

    def __hash__(self) -> int:
        try:
            return self._hash
        except AttributeError:
            object.__setattr__(self, "_hash", hash(self._key()))
            return self._hash

    def _key(self) -> tuple[object, ...]:
        raise NotImplementedError


@dataclass(frozen=True, slots=True, order=True)
class Configuration(_HashedOnce):
    """One point of choice of the planner.

    `accelerator` is the product name with dashes (`NVIDIA-H100-80GB-HBM3`). A replica is `tensor_parallel` GPUs with
    one engine,
    or one GPU with `engines_per_gpu` engines: one of the two is always 1. `api_servers`: server processes in front of
    one engine; 1 leaves them to the engine class.
    """

    accelerator: str
    tensor_parallel: int = 1
    engines_per_gpu: int = 1
    max_num_seqs: int = 256
    max_num_batched_tokens: int = 2048
    api_servers: int = 1

    def __post_init__(self) -> None:
        limits = (self.max_num_seqs, self.max_num_batched_tokens, self.api_servers)
        if min(self.tensor_parallel, self.engines_per_gpu, *limits) < 1:
            raise ValueError(f"every number of a configuration is at least 1: {self}")
        if self.tensor_parallel > 1 and self.engines_per_gpu > 1:
            raise ValueError(f"an engine over several GPUs cannot share them with other engines: {self}")

    __hash__ = _HashedOnce.__hash__

    def _key(self) -> tuple[object, ...]:
        shape = self.tensor_parallel, self.engines_per_gpu
        return self.accelerator, *shape, self.max_num_seqs, self.max_num_batched_tokens, self.api_servers

    @property
    def gpus_per_replica(self) -> int:
        """GPUs one replica (one pod) occupies."""
        return self.tensor_parallel

    @property
    def engines_per_replica(self) -> int:
        """Engines (server processes, ports, queues) in one replica."""
        return self.engines_per_gpu

    @property
    def shape(self) -> str:
        """`TP2`, or `(4/GPU)` for four engines on one GPU: the words of the PLAN column."""
        return f"({self.engines_per_gpu}/GPU)" if self.engines_per_gpu > 1 else f"TP{self.tensor_parallel}"

    def __str__(self) -> str:
        servers = f" servers={self.api_servers}" if self.api_servers > 1 else ""
        return f"{self.accelerator} {self.shape} seqs={self.max_num_seqs} chunk={self.max_num_batched_tokens}{servers}"


@dataclass(frozen=True, slots=True, order=True)
class Placement(_HashedOnce):
    """A configuration in one pool: what a variant is made from."""

    pool: str
    configuration: Configuration

    __hash__ = _HashedOnce.__hash__

    def _key(self) -> tuple[object, ...]:
        return self.pool, self.configuration

    def __str__(self) -> str:
        return f"{self.pool} {self.configuration.shape}"
