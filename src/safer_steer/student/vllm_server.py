"""One vLLM server: token ids and features of pictures in, token ids and log-probabilities out.

The server is one that `vllm serve ... --enable-scale-out` started (docs/how-to/rollouts.md).
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import random
import weakref
from collections.abc import Collection, Coroutine, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any, TypeVar

from PIL import Image
from pydantic_core import to_json

from safer_steer.config.rl import Rollouts
from safer_steer.endpoints.answers import Complaint, complaint
from safer_steer.endpoints.clients import Answer, NoAnswer, checked_url, close_all, key, lend
from safer_steer.errors import EndpointError, UserError, shortened

Result = TypeVar("Result")

MOST_MB = 1024
"""Megabytes of one answer. The features of a picture are the largest: 6 bytes a pixel, in base64."""
FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 30.0
FORGETTING_WAITS_S = 0.2, 1.0, 5.0, 20.0
KEY = "rl.rollouts.base_url"
GO_ON = "; start the server, then run the same command to go on"


@dataclass(frozen=True)
class Offer:
    """A model on a server."""

    server: Server
    name: str
    root: str
    """Where the server took its weights from, as the server was told."""
    base: str | None
    """The name of the model that it is an adapter of."""
    max_length: int | None
    """Tokens of prompt and answer together; None for an adapter."""


@dataclass(frozen=True)
class Features:
    """What a server makes of one picture; good for any prompt with that picture, on any server of the
    model."""

    modality: str
    hash: str
    tokens: tuple[int, ...]
    """The tokens that stand for the picture in a prompt."""
    data: str
    metadata: str | None


class Server:
    """Its HTTP interface. Errors are of two kinds: a server that is not there or set up otherwise ends the
    run (`UserError`), an answer that does not come costs its dialogue (`EndpointError`)."""

    def __init__(self, url: str, settings: Rollouts) -> None:
        """`url` with or without `/v1` at its end. Raises as `checked_url` and `key` do."""
        self.url = checked_url(url, KEY, "http://localhost:8000").rstrip("/").removesuffix("/v1")
        self.settings = settings
        self._sent: set[str] = set()
        self._key = key(settings.api_key_env, "rl.rollouts.api_key_env")

    async def models(self) -> list[Offer]:
        """The models it offers, adapters included."""
        data = await self._ask("v1/models", None)
        try:
            return [
                Offer(self, card["id"], card["root"] or "", card.get("parent"), card.get("max_model_len"))
                for card in data["data"]
            ]
        except (LookupError, TypeError):
            raise UserError(f"{KEY}: {self.url} is no vLLM server; give the address of one") from None

    async def features(self, model: str, picture: Image.Image) -> Features:
        """Have the server process one picture."""
        part = {"type": "image_url", "image_url": {"url": data_url(picture)}}
        messages = [{"role": "user", "content": [part]}]
        body = {"model": model, "messages": messages, "max_tokens": 1}
        data = await self._ask("v1/chat/completions/render", body)
        try:
            encoded = data["features"]
            [modality] = encoded["mm_hashes"]
            [hashed], [place] = encoded["mm_hashes"][modality], encoded["mm_placeholders"][modality]
            [content] = encoded["kwargs_data"][modality]
            [metadata] = (encoded.get("mm_metadata") or {}).get(modality) or [None]
            tokens = data["token_ids"][place["offset"] : place["offset"] + place["length"]]
        except (LookupError, TypeError, ValueError):
            raise UserError(
                f"{KEY}: {self.url} makes no features of a picture; is its model blind?"
            ) from None
        return Features(modality, hashed, tuple(tokens), content, metadata)

    async def generate(
        self, model: str, ids: list[int], pictures: Sequence[Features], sampling: dict[str, Any]
    ) -> dict[str, Any]:
        """The answer to `/inference/v1/generate`. `pictures` are those of the prompt, in order.

        A picture that the server has had already is named by its hash; if that fails, it is sent again.
        """
        body = {"model": model, "token_ids": ids, "sampling_params": sampling}
        offsets = placed(ids, pictures)
        whole = body | {"features": _request(pictures, offsets, frozenset())}
        hashes = {picture.hash for picture in pictures} & self._sent
        brief = body | {"features": _request(pictures, offsets, hashes)} if hashes else whole
        data = await self._ask("inference/v1/generate", brief, whole)
        self._sent |= {picture.hash for picture in pictures}
        return data if isinstance(data, dict) else {}

    async def load(self, name: str, folder: str) -> None:
        """Offer the adapter in `folder`, which the server must see under the same path, as `name`."""
        await self._ask("v1/load_lora_adapter", {"lora_name": name, "lora_path": folder})

    async def unload(self, name: str) -> None:
        """Offer an adapter no longer."""
        await self._ask("v1/unload_lora_adapter", {"lora_name": name})

    async def forget(self) -> None:
        """Drop all that was computed with weights that have been replaced. Takes VLLM_SERVER_DEV_MODE=1. A
        server keeps what its running requests use, and says so; they are waited for. Raises `UserError` if
        they do not end."""
        for cache in ("prefix", "encoder"):
            for wait in (0, *FORGETTING_WAITS_S):
                await asyncio.sleep(wait)
                answer = await self._ask(f"reset_{cache}_cache", {})
                if not (isinstance(answer, dict) and answer.get("success") is False):
                    break
            else:
                raise UserError(
                    f"{KEY}: {self.url} keeps what it computed with the weights before, since other requests"
                    " use it; let them end, then run the same command to go on"
                )

    async def _ask(self, path: str, body: dict[str, Any] | None, again: dict[str, Any] | None = None) -> Any:
        """The JSON value of the answer to a POST, or to a GET without `body`. Later tries send `again`.

        Raises:
            UserError: the server is down, or declines the request.
            EndpointError: no answer within `timeout_s`, or the server keeps failing.
        """
        content = None if body is None else to_json(body)
        tries = 0
        while True:
            tries += 1
            try:
                answer = await self._once(path, content)
            except TimeoutError:
                raise EndpointError(f"{self.url}: no answer within {self.settings.timeout_s:g} s") from None
            except NoAnswer as error:
                if tries > self.settings.retries:
                    raise UserError(f"{KEY}: {self.url}: {error}{GO_ON}") from None
            else:
                problem = None if 200 <= answer.status < 300 else complaint(answer)
                if problem is None:
                    return answer.data
                if not problem.passing:
                    raise UserError(f"{KEY}: {self.url}: {shortened(problem.line)}{_hint(path, problem)}")
                if tries > self.settings.retries:
                    raise EndpointError(f"{self.url}, {tries} tries: {shortened(problem.line)}")
            if again is not None:
                content = to_json(again)
            wait = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2 ** (tries - 1))
            await asyncio.sleep(wait * random.uniform(0.5, 1))

    async def _once(self, path: str, content: bytes | None) -> Answer:
        client = lend(self, self.url, self._key)
        url = f"{self.url}/{path}"
        async with asyncio.timeout(self.settings.timeout_s):
            return await (client.get(url) if content is None else client.post(url, content, MOST_MB))


def run_and_close(work: Coroutine[Any, Any, Result]) -> Result:
    """Run to completion on an event loop of its own, and close the connections."""

    async def closing() -> Result:
        try:
            return await work
        finally:
            await close_all()

    return asyncio.run(closing())


def _hint(path: str, problem: Complaint) -> str:
    """What to do about an answer that declines a request."""
    if problem.status in (401, 403):
        return "; name the variable with its key in rl.rollouts.api_key_env"
    if problem.status != 404:
        return ""
    if "does not exist" in problem.message:  # an adapter, after a restart of the server
        return "; run the same command to go on"
    if "lora" in path:
        return "; start it with VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 and --enable-lora"
    return "; start it with --enable-scale-out (vLLM 0.30 or later)"


def _request(
    pictures: Sequence[Features], offsets: Sequence[int], hashes: Collection[str]
) -> dict[str, Any] | None:
    """The `features` of a request. Pictures in `hashes` are sent without their data."""
    if not pictures:
        return None
    request: dict[str, dict[str, list[Any]]] = {
        name: {} for name in ("mm_hashes", "mm_placeholders", "kwargs_data", "mm_metadata")
    }
    for picture, offset in zip(pictures, offsets, strict=True):
        has_it = picture.hash in hashes
        for name, value in (
            ("mm_hashes", picture.hash),
            ("mm_placeholders", {"offset": offset, "length": len(picture.tokens)}),
            ("kwargs_data", None if has_it else picture.data),
            ("mm_metadata", None if has_it else picture.metadata),
        ):
            request[name].setdefault(picture.modality, []).append(value)
    return request


def data_url(picture: Image.Image) -> str:
    """The picture as a PNG, which loses nothing."""
    file = BytesIO()
    picture.save(file, "PNG", compress_level=1)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


_digests: dict[int, str] = {}


def digest(picture: Image.Image) -> str:
    """Equal for equal pixels. Computed once for each object; a dialogue asks at every turn."""
    if id(picture) not in _digests:
        content = f"{picture.mode} {picture.size}".encode() + picture.tobytes()
        _digests[id(picture)] = hashlib.sha256(content).hexdigest()
        weakref.finalize(picture, _digests.pop, id(picture), None)
    return _digests[id(picture)]


def placed(ids: Sequence[int], pictures: Sequence[Features]) -> list[int]:
    """Where each picture's tokens begin in `ids`. Raises `UserError` if the pictures' tokens are not those in
    `ids`.

    A server reports where they stand in its own rendering; with other ids the picture would silently land on
    other positions."""
    offsets, begin = [], 0
    for picture in pictures:
        place = _find(ids, picture.tokens, begin)
        if place is None:
            break
        offsets.append(place)
        begin = place + len(picture.tokens)
    stand_for = {picture.tokens[len(picture.tokens) // 2] for picture in pictures}
    theirs = sum(token in stand_for for picture in pictures for token in picture.tokens)
    if len(offsets) < len(pictures) or theirs != sum(token in stand_for for token in ids):
        raise UserError(
            f"{KEY}: the server writes other picture tokens than the student's processor; let it serve the"
            " same model, with the same processor files"
        )
    return offsets


def _find(ids: Sequence[int], part: Sequence[int], begin: int) -> int | None:
    """The first place at or after `begin` where `part` stands in `ids`."""
    part = list(part)
    for place in range(begin, len(ids) - len(part) + 1):
        if ids[place] == part[0] and list(ids[place : place + len(part)]) == part:
            return place
    return None
