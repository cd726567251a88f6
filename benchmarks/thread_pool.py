"""The other side of `benchmarks/bench.py`: a plain evaluation script with the openai client in threads."""

from __future__ import annotations

import argparse
import base64
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai

from safer_steer.prompts.base import Exchange
from safer_steer.prompts.judge import JUDGE, JudgeInput

SYSTEM = "You are a helpful assistant."


def picture(path: Path) -> dict[str, Any]:
    encoded = base64.b64encode(path.read_bytes()).decode()
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{encoded}"}}


def ask(client: openai.OpenAI, model: str, messages: list[Any], temperature: float, **more: Any) -> str:
    completion = client.chat.completions.create(
        model=model, messages=messages, temperature=temperature, top_p=1, max_tokens=2048, **more
    )
    return completion.choices[0].message.content or ""


def play(client: openai.OpenAI, model: str, judge: str, folder: Path, row: dict[str, Any]) -> dict[str, Any]:
    """One dialogue, turn by turn."""
    history: list[Exchange] = []
    turns = []
    schema = {"type": "json_schema", "json_schema": {"name": "JudgeVerdict", "schema": JUDGE.schema()}}
    for turn in row["turns"]:
        messages: list[Any] = [{"role": "system", "content": SYSTEM}]
        for before in history:
            messages.append({"role": "user", "content": before.user})
            messages.append({"role": "assistant", "content": before.assistant})
        messages.append({"role": "user", "content": turn["user"]})
        first = {"type": "text", "text": messages[1]["content"]}
        messages[1]["content"] = [*(picture(folder / image) for image in row["images"]), first]
        answer = ask(client, model, messages, 0.7)
        system, user = JUDGE.render(JudgeInput(history=history, question=turn["user"], answer=answer.strip()))
        shown = [*(picture(folder / image) for image in row["images"]), {"type": "text", "text": user}]
        asked = [{"role": "system", "content": system}, {"role": "user", "content": shown}]
        said = json.loads(ask(client, judge, asked, 0.7, response_format=schema))
        scores = {name: float(said[name]) for name in ("harmlessness", "helpfulness", "refused")}
        turns.append({"user": turn["user"], "assistant": answer, "scores": scores})
        history.append(Exchange(user=turn["user"], assistant=answer.strip()))
    return {"id": row["id"], "turns": turns}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for option in ("--url", "--model", "--judge"):
        parser.add_argument(option, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("suites", nargs="+", type=Path)
    args = parser.parse_args()
    work = [
        (suite.parent, json.loads(line))
        for suite in args.suites
        for line in suite.read_text(encoding="utf-8").splitlines()
    ]
    client = openai.OpenAI(base_url=args.url, api_key="none")
    with ThreadPoolExecutor(args.threads) as pool:
        played = list(pool.map(lambda job: play(client, args.model, args.judge, *job), work))
    args.out.write_text("".join(json.dumps(row) + "\n" for row in played), encoding="utf-8")
    scored = [turn["scores"] for row in played for turn in row["turns"]]
    print({name: sum(one[name] for one in scored) / len(scored) for name in scored[0]})


if __name__ == "__main__":
    main()
