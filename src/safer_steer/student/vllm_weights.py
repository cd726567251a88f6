"""Which server offers the student's weights, under which name; and how weights in training get there.

LoRA adapters go by file, a new name a step. All weights go over NCCL, with TRL's client.
"""

from __future__ import annotations

import asyncio
import hashlib
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch

from safer_steer.config import Student
from safer_steer.config.rl import Rollouts
from safer_steer.errors import EndpointError, UserError, shortened
from safer_steer.files.store import whole_folder
from safer_steer.student.adapters import (
    WEIGHTS,
    adapter_weights,
    base_of,
    is_adapter,
    write_adapter,
)
from safer_steer.student.policy import SampledStudent
from safer_steer.student.vllm_server import GO_ON, KEY, Offer, Server, run_and_close

GROUP_PORT = 51216
"""Where trainer and first server meet to exchange weights; the next server takes the next port."""
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Values of vLLM's --max-lora-rank."""


def serve_line(settings: Student, saved: str, training: bool) -> str:
    """The command that starts a server for what is saved at `saved`, to be measured or to be trained from.
    With adapters it is one for the base, and for all adapters on it."""
    model = settings.base if settings.lora_rank else saved
    model = str(Path(model).resolve()) if Path(model).exists() else model
    words = ["vllm", "serve", model, "--dtype", settings.dtype, "--max-model-len", str(settings.max_length)]
    words += ["--limit-mm-per-prompt", '{"image": 4, "video": 0}', "--generation-config", "vllm"]
    words += ["--logprobs-mode", "processed_logprobs", "--enable-scale-out"]
    before = ""
    if settings.lora_rank:
        rank = next((rank for rank in RANKS if rank >= settings.lora_rank), RANKS[-1])
        before = "VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 "
        words += ["--enable-lora", "--max-lora-rank", str(rank), "--max-loras", "2"]
    elif training:
        before = "VLLM_SERVER_DEV_MODE=1 "
        words += ["--weight-transfer-config", '{"backend": "nccl"}']
    return before + shlex.join(words)


def check_servers(rollouts: Rollouts, settings: Student, saved: str, training: bool) -> None:
    """Ask every server once, before weights are loaded here. See `serve_line` for the arguments. Raises
    `UserError` if a server is down, offers no model, or takes too few tokens."""
    once = rollouts.model_copy(update={"retries": 0, "timeout_s": min(10.0, rollouts.timeout_s)})

    try:
        run_and_close(_bases([Server(url, once) for url in rollouts.base_url], settings))
    except (UserError, EndpointError) as error:
        line = serve_line(settings, saved, training)
        what = str(error).removeprefix(f"{KEY}: ").removesuffix(GO_ON)
        raise UserError(f"{KEY}: {what}; start it with: {line}") from None


def adapter_in_training(student: SampledStudent) -> dict[str, torch.Tensor]:
    """`adapter_weights` of a student in training; none if it trains no adapter."""
    if student.step is None or not student.settings.lora_rank:
        return {}
    return adapter_weights(student.model)


async def offered(
    servers: Sequence[Server], student: SampledStudent, weights: dict[str, torch.Tensor]
) -> list[Offer]:
    """The servers that offer the student's weights, and what they call them. Weights in training, and those
    of an adapter, are sent there first. Raises `UserError` if a server is down, none has these weights, or
    they cannot be sent to it.

    Args:
        weights: of the adapter in training (`adapter_in_training`).
    """
    settings, saved = student.settings, student.saved
    offers = _of(await _bases(servers, settings), base_of(settings, saved), student)
    if student.step is None:
        return await _with_adapter(offers, Path(saved), Path(saved).parent) if is_adapter(saved) else offers
    if settings.lora_rank:
        assert student.folder, "RL has a folder"
        adapter = student.folder / ".adapters" / f"{student.step:05d}"
        with whole_folder(adapter) as part:
            write_adapter(student.model, part, weights)
        return await _with_adapter(offers, adapter, student.folder)
    refuse_full_weights(settings, student.rollouts)
    _send_weights(offers, student.model)
    for offer in offers:
        await offer.server.forget()
    return offers


def _of(bases: Sequence[Offer], saved: str, student: SampledStudent) -> list[Offer]:
    """The offers of the weights at `saved`: those of that path. If there is none, those whose path says
    nothing: it may be another on their machine, and a probe will tell. Raises `UserError` if all offer
    others."""
    exact = [offer for offer in bases if _is(offer.root, saved)]
    unknown = [offer for offer in bases if not (Path(saved).exists() and _is_known(offer.root))]
    if not (exact or unknown):
        line = serve_line(student.settings, student.saved, student.step is not None)
        raise UserError(
            f"{KEY}: {bases[0].server.url} offers {bases[0].root}, not {saved}; start it with: {line}"
        )
    return exact or unknown


async def _bases(servers: Sequence[Server], settings: Student) -> list[Offer]:
    """The models without adapters of all servers. Raises `UserError` if a server is down, offers none, or
    takes too few tokens."""
    models = await asyncio.gather(*(server.models() for server in servers))
    bases = [offer for offers in models for offer in offers if offer.base is None]
    if not bases:
        raise UserError(f"{KEY}: {servers[0].url} offers no model")
    for offer in bases:
        if offer.max_length is not None and offer.max_length < settings.max_length:
            raise UserError(
                f"{KEY}: {offer.server.url} takes {offer.max_length} tokens, and student.max_length is"
                f" {settings.max_length}; start it with --max-model-len {settings.max_length}"
            )
    return bases


async def _with_adapter(offers: Sequence[Offer], adapter: Path, folder: Path) -> list[Offer]:
    """Offer the adapter on all servers, and those of this run that were offered before no longer.

    Its name holds the hash of its weights: the prefix cache goes by names, so weights of another step, or of
    a step that is repeated after a kill, never meet keys and values of others.
    """
    ours = f"steer-{hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:8]}-"
    weights = hashlib.sha256((adapter / WEIGHTS).read_bytes()).hexdigest()[:16]
    name = f"{ours}{adapter.name}-{weights}"

    async def offer_it(offer: Offer) -> Offer:
        server = offer.server
        names = [served.name for served in await server.models() if served.name.startswith(ours)]
        if name not in names:
            await server.load(name, str(adapter.resolve()))
        for stale in names:
            if stale != name:
                await server.unload(stale)
        return replace(offer, name=name, base=offer.name)

    offering = await asyncio.gather(*map(offer_it, offers))
    for other in adapter.parent.iterdir():
        if adapter.parent.name == ".adapters" and other != adapter:
            shutil.rmtree(other)
    return offering


def refuse_full_weights(student: Student, rollouts: Rollouts) -> None:
    """Raises `UserError` where all weights are trained and cannot be sent to a server: that takes a GPU, vLLM
    installed beside the trainer, weights that are not split, and a server without a key."""
    from trl.import_utils import is_vllm_available

    if student.lora_rank:
        return
    if student.sharding == "full":
        raise UserError(
            "rl.rollouts.engine: vllm is not sent all weights of a student with sharding: full; set"
            " student.lora_rank, or engine: transformers"
        )
    if rollouts.api_key_env:
        raise UserError(
            "rl.rollouts.api_key_env: TRL sends all weights without a key, so the server would decline them;"
            " start it without --api-key and leave this out, or set student.lora_rank"
        )
    why = "" if is_vllm_available() else "vLLM is not installed here"
    if student.device == "cpu" or not torch.cuda.is_available():
        why = "there is no GPU"
    if why:
        raise UserError(
            f"rl.rollouts.engine: vllm is sent all weights over NCCL, and {why}; set student.lora_rank, whose"
            " adapters go by file, or engine: transformers"
        )


_lines: WeakKeyDictionary[Any, dict[str, Any]] = WeakKeyDictionary()
"""TRL's clients with an open NCCL group, by the model whose weights they send and by server. Kept here
because RL makes a new policy for the same model at every step."""


def _send_weights(offers: Sequence[Offer], model: Any) -> None:
    """Send all weights to every server. Raises `UserError` if a server does not take them."""
    from trl.generation.vllm_client import VLLMClient

    lines = _lines.setdefault(model, {})
    for number, offer in enumerate(offers):
        url = offer.server.url
        try:
            if url not in lines:
                client = VLLMClient(url, group_port=GROUP_PORT + number)
                client.init_communicator(device=model.device)
                lines[url] = client
            lines[url].update_model_params(model)
        except Exception as error:  # TRL raises Exception itself
            raise UserError(f"{KEY}: {url} takes no weights: {shortened(str(error))}") from None


def _is_known(root: str) -> bool:
    """Whether a server's path is a folder here, or looks like a hub id."""
    return Path(root).exists() or (not root.startswith(("/", ".", "~")) and root.count("/") < 2)


def _is(root: str, saved: str) -> bool:
    """Whether a server's path and ours are one folder or hub id."""
    return root == saved or (Path(saved).exists() and Path(root).resolve() == Path(saved).resolve())
