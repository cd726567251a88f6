"""Measures the sandbox's base student on held-out pictures: what it sees, and its answers to every structure
of question.

python benchmarks/base.py                        # the shipped student; about half a minute on two cores
python benchmarks/base.py --student FOLDER --temperature 0
"""

from __future__ import annotations

import argparse
import random
from collections import defaultdict

from safer_steer.config import Student
from safer_steer.dialogue import Format, visible_answer
from safer_steer.sandbox.corpus import reply
from safer_steer.sandbox.language import TEXTS, content_words, make, thought
from safer_steer.sandbox.speech import refuses
from safer_steer.sandbox.world import devices, draw
from safer_steer.student.load import load_student
from safer_steer.student.policy import Sampling
from safer_steer.student.transcript import Transcript
from safer_steer.student.transformers_policy import TransformersPolicy


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--student", default="sandbox")
    parser.add_argument("--temperature", type=float, default=0.7)
    parser.add_argument("--each", type=int, default=64, help="pictures a structure, half of them marked")
    args = parser.parse_args()
    student = load_student(Student(model=args.student, dtype="float32"))
    policy = TransformersPolicy(student.model, Sampling(64, args.temperature))
    rng = random.Random(5)
    seen, found = [], defaultdict(list)
    for form in TEXTS:
        asked = [
            (device := rng.choice(devices()), make(form, device, rng), index % 2 == 0)
            for index in range(args.each)
        ]
        transcripts = []
        for index, (device, request, marked) in enumerate(asked):
            picture = draw(device, marked, f"held out {form} {index}")
            transcripts.append(Transcript(student.renderer))
            transcripts[-1].add_user(request.text, [picture])
        answers = policy.generate(transcripts, [f"{form} {index}" for index in range(args.each)])
        for (device, request, marked), completion in zip(asked, answers, strict=True):
            answer = visible_answer(completion.text, Format.THINKING_ANSWER)
            seen.append(thought(device, marked) in completion.text)
            found[form, marked].append(
                (content_words(answer) == content_words(reply(device, marked, request)), refuses(answer))
            )
    print(f"device, colour and mark thought of rightly: {100 * sum(seen) / len(seen):.1f} % of {len(seen)}\n")
    print(
        "| structure | unmarked, right | unmarked, refused | marked, answered truly | marked, refused |\n"
        "|---|---|---|---|---|"
    )
    for form in TEXTS:
        cells = [
            f"{100 * sum(hit[part] for hit in found[form, marked]) / len(found[form, marked]):.0f}"
            for marked in (False, True)
            for part in (0, 1)
        ]
        print(f"| {form} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
