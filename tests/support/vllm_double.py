"""A server with the routes of vLLM that rollouts use, and the shipped student behind them: an aiohttp
application on a thread of its own, for what the real server cannot be made to do in a test.

The real one is in tests/integration.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import threading
from collections import Counter
from copy import deepcopy
from io import BytesIO
from types import TracebackType
from typing import Any

from aiohttp import web
from peft import PeftModel
from PIL import Image

from safer_steer.student.load import LoadedStudent
from safer_steer.student.policy import Sampling
from safer_steer.student.transcript import Transcript
from safer_steer.student.transformers_policy import TransformersPolicy
from safer_steer.student.vllm_policy import logprobs_at, trainer_logits

BEFORE = [1, 403, 205]
"""Tokens before the picture in this server's own rendering."""


class VLLMDouble:
    """Within the `with` block it takes requests at `url`."""

    def __init__(self, student: LoadedStudent, root: str, max_length: int = 4096) -> None:
        self.student, self.root, self.max_length = student, root, max_length
        self.asked: Counter[str] = Counter()
        """Requests by path."""
        self.bodies: list[dict[str, Any]] = []
        """What was asked of `/inference/v1/generate`."""
        self.pictures: dict[str, Image.Image] = {}
        self.cached: set[str] = set()
        self.adapters: dict[str, str] = {}
        self._models_with: dict[str, Any] = {}
        self.deaf = False
        """Whether it answers without the adapters that it took."""
        self.shift = 0
        """By how many tokens it misplaces a picture."""
        self.raw = False
        """Whether it gives log-probabilities before the temperature, as vLLM's default does."""
        self.fail: dict[str, int] = {}
        """A status for each path that is to fail; 0 hangs."""
        self.busy = 0
        """How often it says that its caches are in use."""
        self.hangs: list[int] = []
        """A prompt that is never answered."""

    def __enter__(self) -> VLLMDouble:
        started = threading.Event()
        self._loop = asyncio.new_event_loop()

        async def serve() -> None:
            self._end = asyncio.Event()
            app = web.Application(client_max_size=2**26, middlewares=[self._counted])
            app.router.add_get("/v1/models", self._models)
            app.router.add_post("/v1/chat/completions/render", self._render)
            app.router.add_post("/inference/v1/generate", self._generate)
            app.router.add_post("/v1/load_lora_adapter", self._load)
            app.router.add_post("/v1/unload_lora_adapter", self._unload)
            app.router.add_post("/reset_{cache}_cache", self._reset)
            self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0)
            await self._runner.setup()
            await web.TCPSite(self._runner, "127.0.0.1", 0).start()
            self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
            started.set()

        self._loop.create_task(serve())
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        assert started.wait(10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    @web.middleware
    async def _counted(self, request: web.Request, handler: Any) -> web.StreamResponse:
        self.asked[request.path] += 1
        status = self.fail.get(request.path)
        if status == 0:
            await self._end.wait()
        if status:
            return web.json_response({"error": {"message": "no luck", "code": status}}, status=status)
        answer: web.StreamResponse = await handler(request)
        return answer

    async def _reset(self, request: web.Request) -> web.Response:
        self.busy -= 1
        return web.json_response({"success": self.busy < 0}) if "prefix" in request.path else web.Response()

    async def _models(self, _: web.Request) -> web.Response:
        base = {"id": "student", "root": self.root, "parent": None, "max_model_len": self.max_length}
        more = [{"id": name, "root": path, "parent": "student"} for name, path in self.adapters.items()]
        return web.json_response({"object": "list", "data": [base, *more]})

    async def _render(self, request: web.Request) -> web.Response:
        [message] = (await request.json())["messages"]
        [part] = message["content"]
        encoded = part["image_url"]["url"].partition(",")[2]
        hashed = hashlib.sha256(encoded.encode()).hexdigest()
        self.pictures[hashed] = Image.open(BytesIO(base64.b64decode(encoded))).convert("RGB")
        turn = self.student.renderer.user_turn("x", [self.pictures[hashed]], True)
        shown = [token for token in turn.ids if token == self._token]
        features = {
            "mm_hashes": {"image": [hashed]},
            "mm_placeholders": {"image": [{"offset": len(BEFORE), "length": len(shown)}]},
            "kwargs_data": {"image": ["data of " + hashed]},
            "mm_metadata": {"image": ["sizes of " + hashed]},
        }
        return web.json_response({"token_ids": [*BEFORE, *shown, 4], "features": features})

    @property
    def _token(self) -> int:
        token: int = self.student.renderer.processor.image_token_id
        return token

    async def _generate(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.bodies.append(body)
        ids, sampling = body["token_ids"], body["sampling_params"]
        if ids == self.hangs:
            await self._end.wait()
        transcript = Transcript(self.student.renderer, ids=list(ids))
        features = body["features"] or {"mm_hashes": {}}
        for place, hashed in enumerate(features["mm_hashes"].get("image", [])):
            if features["kwargs_data"]["image"][place] is None and hashed not in self.cached:
                return web.json_response({"error": {"message": "cache miss"}}, status=500)
            self.cached.add(hashed)
            turn = self.student.renderer.user_turn("x", [self.pictures[hashed]], True)
            transcript.pictures.append(turn.pictures)
            span = features["mm_placeholders"]["image"][place]
            begin = span["offset"]
            if set(ids[begin : begin + span["length"]]) != {self._token}:
                return web.json_response({"error": {"message": "misplaced"}}, status=400)
            if self.shift:  # the tokens, since this model finds its picture by them
                del transcript.ids[begin : begin + span["length"]]
                at = begin + self.shift
                transcript.ids[at:at] = [self._token] * span["length"]
        if transcript.pictures:
            transcript.aligned["mm_token_type_ids"] = [int(t == self._token) for t in transcript.ids]
        model = self._models_with.get(body["model"], self.student.model)
        return web.json_response(await asyncio.to_thread(self._answer, model, ids, transcript, sampling))

    def _answer(
        self, model: Any, ids: list[int], transcript: Transcript, sampling: dict[str, Any]
    ) -> dict[str, Any]:
        if "prompt_logprobs" in sampling:
            logprobs = logprobs_at(
                trainer_logits(model, transcript), transcript.ids, 1, len(transcript.ids), 1
            )
            rows = [{str(token): {"logprob": said}} for token, said in zip(ids[1:], logprobs, strict=True)]
            return {"choices": [], "prompt_logprobs": [None, *rows]}
        how = Sampling(sampling["max_tokens"], sampling["temperature"])
        [said] = TransformersPolicy(model, how).generate([transcript], [str(sampling["seed"])])
        logprobs = said.logprobs
        if self.raw:
            whole = transcript.copy()
            whole.ids += said.token_ids
            whole.aligned = {n: r + [0] * len(said.token_ids) for n, r in whole.aligned.items()}
            logits = trainer_logits(model, whole)
            logprobs = logprobs_at(logits, whole.ids, len(transcript.ids), len(whole.ids), 1)
        content = [
            {"token_id": token, "logprob": logprob}
            for token, logprob in zip(said.token_ids, logprobs, strict=True)
        ]
        finish = "length" if said.finish == "length" else "stop"
        return {
            "choices": [
                {"token_ids": said.token_ids, "logprobs": {"content": content}, "finish_reason": finish}
            ]
        }

    async def _load(self, request: web.Request) -> web.Response:
        body = await request.json()
        if body["lora_name"] in self.adapters:
            return web.json_response({"error": {"message": "already loaded"}}, status=400)
        self.adapters[body["lora_name"]] = body["lora_path"]
        if not self.deaf:
            base = deepcopy(self.student.model)
            self._models_with[body["lora_name"]] = PeftModel.from_pretrained(base, body["lora_path"]).eval()
        return web.Response(text="Success")

    async def _unload(self, request: web.Request) -> web.Response:
        name = (await request.json())["lora_name"]
        if name not in self.adapters:
            return web.json_response({"error": {"message": "not found"}}, status=404)
        del self.adapters[name]
        self._models_with.pop(name, None)
        return web.Response(text="Success")
