"""The coordinate system of a run: the leading singular triplets of every target weight, computed once.

    W0 = U diag(S) Vh        U (out, k), S (k,), Vh (k, in), k = rank, fp32    (BoostLoRA section 3, TinyLoRA section 3)

Departures from a textbook SVD, and why:
- The triplets come from an fp64 eigendecomposition of the smaller Gram matrix (W W^T or W^T W): several times faster
  than a full SVD and exact to fp32 for the leading triplets; randomised SVD was measured 4.5% off and is not used.
- Signs are fixed (the largest entry of every column of U is positive). They are arbitrary otherwise, and a flipped
  sign would change what the adapter's R means.
- On a CPU several weights are decomposed at once, each by one thread: one decomposition gains little from a second
  thread, and its bits do not depend on how many threads there are.
- The far-side vectors are computed `CHUNK` columns at a time, so that the first columns have the same bits whatever
  the rank: a run may be continued for more rounds than its basis was first computed for.
- On disk it is filed under a hash of the weights it belongs to; another model's basis cannot be picked up.
"""

import contextlib
import logging
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm.auto import tqdm

from boostlib.common import world
from boostlib.common.errors import ModelError
from boostlib.common.settings import Names, valid
from boostlib.common.stable import cache_dir as default_cache_dir
from boostlib.common.stable import fingerprint_tensors
from boostlib.common.targets import matrix, require_plain, target_modules, without

log = logging.getLogger(__name__)

TOGETHER = 8  # weights decomposed at once at most: each needs a few copies in fp64
BLOCK = 128  # rows of a Gram matrix computed in one product
CHUNK = 8  # columns per matrix product: a fixed shape keeps the bits independent of the rank
VERSION = 2  # part of the cache key: raise it when the numbers change
NOISE = 1e-6  # singular values below this share of the largest are noise, and so are their directions


class SVDBasis(Mapping[str, tuple[Tensor, Tensor, Tensor]]):
    """Module name -> (U (out, k), S (k,), Vh (k, in)), fp32, in the model's module order."""

    def __init__(self, triplets: Mapping[str, tuple[Tensor, Tensor, Tensor]]):
        self._triplets = dict(triplets)

    @classmethod
    def from_model(
        cls,
        model: nn.Module,
        rank: int = 40,
        targets: Names | None = None,
        cache_dir: str | Path | None = None,
    ) -> "SVDBasis":
        """The basis of `model`'s present weights, from the cache where it is there already.

        rank: directions per weight; a run of T rounds of rank r needs r * T. cache_dir: default `<cache>/basis`.
        Raises ModelError where a weight is no plain matrix (quantized, offloaded, shared by two modules), smaller than
        `rank`, numerically of lower rank, or not finite.
        """
        rank = valid("from_model(rank=", rank, int)
        names = target_modules(model, targets)
        require_plain(model, names)
        weights = {name: matrix(model.get_submodule(name)).detach() for name in names}
        _check_shapes(weights, rank)
        smallest = min(min(w.shape) for w in weights.values())
        columns = min(-(-rank // CHUNK) * CHUNK, smallest)
        key = fingerprint_tensors(weights)
        folder = Path(cache_dir) if cache_dir is not None else default_cache_dir() / "basis"
        path = folder / f"{key[:32]}-v{VERSION}-r{columns}.safetensors"
        basis = cls._load(path, key)
        if basis is None:
            basis = cls(_decomposed(weights, columns))
            basis._save(path, key)
        basis._check_rank(rank)
        return cls({name: (u[:, :rank], s[:rank], vh[:rank]) for name, (u, s, vh) in basis.items()})

    @property
    def rank(self) -> int:
        """Directions held per weight."""
        return min(s.shape[0] for _, s, _ in self.values())

    def hash(self, rank: int) -> str:
        """SHA-256 of the first `rank` directions of every weight: what a run of that total rank depends on."""
        return fingerprint_tensors(
            (f"{name}.{part}", tensor)
            for name, (u, s, vh) in self.items()
            for part, tensor in (("U", u[:, :rank]), ("S", s[:rank]), ("Vh", vh[:rank]))
        )

    def __getitem__(self, name: str) -> tuple[Tensor, Tensor, Tensor]:
        return self._triplets[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._triplets)

    def __len__(self) -> int:
        return len(self._triplets)

    def _check_rank(self, rank: int) -> None:
        for name, (_, s, _) in self.items():
            if not s[rank - 1] > NOISE * s[0]:
                good = int((s > NOISE * s[0]).sum())
                raise ModelError(
                    f"{name} has numerical rank {good}, fewer than the {rank} directions asked for: "
                    f"use at most {good} (rank * rounds), or leave this module out with targets="
                )

    def _save(self, path: Path, key: str) -> None:
        tensors = {
            f"{name}.{part}": tensor.contiguous()
            for name, triplet in self.items()
            for part, tensor in zip(("U", "S", "Vh"), triplet, strict=True)
        }
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file(tensors, temporary, metadata={"weights": key, "modules": "\n".join(self)})
            os.replace(temporary, path)
        except (OSError, SafetensorError) as error:  # a full or read-only cache costs time, not the run
            log.warning("basis not cached under %s: %s", path, error)
            with contextlib.suppress(OSError):
                temporary.unlink()

    @classmethod
    def _load(cls, path: Path, key: str) -> "SVDBasis | None":
        try:
            with safe_open(path, framework="pt") as file:
                if (file.metadata() or {}).get("weights") != key:
                    return None
                names = file.metadata()["modules"].split("\n")
                return cls({n: tuple(file.get_tensor(f"{n}.{part}") for part in ("U", "S", "Vh")) for n in names})
        except (OSError, SafetensorError):  # not there, or cut short by a full disk: compute it anew
            return None


def _check_shapes(weights: Mapping[str, Tensor], rank: int) -> None:
    name, weight = min(weights.items(), key=lambda item: min(item[1].shape))
    if rank < 1 or rank > min(weight.shape):
        small = [n for n, w in weights.items() if min(w.shape) < rank]
        raise ModelError(
            f"a basis of rank {rank} was asked for, but {name} is {tuple(weight.shape)}: "
            f"rank * rounds must lie between 1 and {min(weight.shape)}, or small weights be left out"
            f"{without(weights, small)}"
        )
    broken = [name for name, weight in weights.items() if not torch.stack(weight.aminmax()).isfinite().all()]
    if broken:
        raise ModelError(f"weights of {broken[0]} are not finite (NaN or infinity): reload the model from a good copy")


def _decomposed(weights: Mapping[str, Tensor], columns: int) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    """`_triplets` of every weight, with a progress bar: on a CPU a weight a thread, on a GPU one after the other."""
    threads, on_cpu = torch.get_num_threads(), all(weight.device.type == "cpu" for weight in weights.values())
    workers = min(threads, TOGETHER) if on_cpu else 1
    pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,))
    try:
        found = pool.map(_triplets, weights.values(), [columns] * len(weights))
        hidden = not world.is_main()
        bar = tqdm(found, total=len(weights), desc="basis", unit="weight", leave=False, disable=hidden)
        return dict(zip(weights, bar, strict=True))
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)  # threads made later take over the last setting of any thread


def _triplets(weight: Tensor, columns: int) -> tuple[Tensor, Tensor, Tensor]:
    """Leading (U, S, Vh) of one weight on the CPU in fp32; the work is done in fp64 on the weight's device."""
    w = weight.double().contiguous()  # (out, in), row by row however it lies: the last bits depend on it
    tall = w.shape[0] > w.shape[1]
    if tall:
        w = w.T
    _, vectors = torch.linalg.eigh(_gram(w))  # ascending
    near = vectors[:, -columns:].flip(1)  # (short side, k)
    parts = [w.T @ chunk.contiguous() for chunk in near.split(CHUNK, dim=1)]
    far = torch.cat(parts, dim=1)  # (long side, k), length of column i = S[i]
    s = far.norm(dim=0)
    far = far / s.clamp_min(torch.finfo(torch.float64).tiny)
    u, v = (far, near) if tall else (near, far)
    sign = u.gather(0, u.abs().argmax(dim=0, keepdim=True)).sign()  # (1, k)
    return tuple(t.float().cpu().contiguous() for t in (u * sign, s, (v * sign).T))


def _gram(w: Tensor) -> Tensor:
    """w @ w.T below and on the diagonal, all that eigh reads, and little above it: two thirds of the work. (n, n)"""
    gram = w.new_zeros(w.shape[0], w.shape[0])
    for start in range(0, w.shape[0], BLOCK):
        gram[start : start + BLOCK, : start + BLOCK] = w[start : start + BLOCK] @ w[: start + BLOCK].T
    return gram
