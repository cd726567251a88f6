"""Chat tokens and picture inputs of one student, derived from its processor's own chat template.

The template renders a probe dialogue [system, user, assistant, user]. What follows the assistant's text is
the bridge from an answer to the next one: the token that ends the answer, the next user turn, and the
assistant's opening. The processor expands the pictures and returns whatever the model takes. So no marker of
any model family is named here; `proof.load_renderer` proves that the pieces are what the template renders in
one go.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from safer_steer.errors import UserError
from safer_steer.prompts.base import split_markers

SYSTEM, QUESTION, ANSWER = "Sprobe", "Qprobe", "Aprobe"
"""Texts of the probe dialogue. A template writes them as they are."""
ANOTHER = "give another one in student.chat_template: FILE"
NO_PICTURES = "its chat template does not write pictures; choose a vision-language model"
NO_LATER_PICTURES = (
    "its chat template takes pictures in the first user turn only; give one that takes them in every turn in"
    " student.chat_template: FILE, or scripts that show all pictures in their first turn"
)

_NO_SYSTEM = f'set student.system: "", or {ANOTHER}'
_SYSTEM_ELSEWHERE = (
    "its chat template leaves the system message out, or writes it into the last user turn, so that every"
    " turn changes those before it"
)
_PART = re.compile(r"""['"]type['"]: ['"]text['"]""")
"""A part of a message, written out as code by a template that takes strings."""


@dataclass(frozen=True)
class UserTurn:
    """A user turn as the model reads it: from the end of the last answer to the opening of the next one."""

    ids: list[int]
    """A turn that follows an answer begins with the token that ends the answer."""
    aligned: dict[str, list[int]]
    """Model inputs with one number for each token, such as `token_type_ids`."""
    pictures: dict[str, torch.Tensor]
    """Inputs of the vision tower by argument name; empty if the turn has no picture."""


class Renderer:
    """Renders the turns of one student's dialogues. Raises `UserError` if the processor has no chat template,
    or its template closes an answer with no special token."""

    def __init__(self, processor: Any, system: str) -> None:
        """`system` is the text of the system message; empty for none."""
        self.processor, self.system = processor, system
        self.tokenizer: Any = getattr(processor, "tokenizer", None)
        if self.tokenizer is None or not getattr(processor, "chat_template", None):
            raise self.refused(
                "it has no processor with a chat template; choose a vision-language chat model"
            )
        self._special = self._special_tokens()
        self._find_special = _opening_of(self._special)
        self._find_markup = _opening_of({*self._special, *self._tokens_of_the_template()})
        self._strings: tuple[str, ...] = ()
        """Roles whose messages are strings instead of lists of parts."""
        talk = self._first_talk()
        self._before = talk.partition(ANSWER)[0]
        """What the template writes before the first answer of the probe dialogue."""
        self.end = self._end_of(talk[len(self._before) + len(ANSWER) :])
        pad = self.tokenizer.pad_token_id
        self.pad: int = self.end if pad is None else pad
        self.stops = sorted({self.end, *self._special.values()})
        """Sampling any of these ends the turn. All but `end` are left out of the transcript."""
        self.lead = self._before[len(self.render([QUESTION])) :]
        """What the template writes between its opening and a past answer; a model samples it itself."""
        self.later_pictures = True
        """Whether user turns after the first may show pictures; `proof.load_renderer` finds out."""
        seeing = self._seeing()
        self.aligned_inputs = tuple(seeing.aligned)
        """Names of further inputs with one number for each token."""
        several = seeing.pictures
        self.picture_inputs = tuple(several)
        """Names of the inputs of the vision tower. A picture may have some of them alone."""
        self.rowwise = frozenset(n for n, tensor in several.items() if tensor.ndim > 1 and len(tensor) == 1)
        """Picture inputs of shape [dialogues, pictures, ...]; all others are [pictures or patches, ...]."""

    def _first_talk(self) -> str:
        """The probe dialogue [question, answer, question]. Some templates take parts from users only, so
        answers are given as strings if they are not taken as parts. Raises `UserError` if it takes none, or
        no system message, or leaves that out, moves it or takes a string alone, which TRL does not give."""
        forms: tuple[tuple[str, ...], ...] = ((), ("assistant",))
        errors = []
        for self._strings in forms:
            tried = self._talk()
            if isinstance(tried, str):
                if self._moves_system():
                    raise self.refused(f"{_SYSTEM_ELSEWHERE}; {_NO_SYSTEM}")
                return tried
            errors.append(tried)
        self._strings = ("system", "assistant")
        if self.system and isinstance(self._talk(), str):
            moved = self._moves_system()
            why = _SYSTEM_ELSEWHERE if moved else "its chat template takes no parts of a system message"
            raise self.refused(f"{why}; {_NO_SYSTEM}")
        system, self.system = self.system, ""
        for self._strings in forms:
            if system and isinstance(self._talk(), str):
                why = f"its chat template takes no system message ({reason_of(errors[0])})"
                raise self.refused(f"{why}; {_NO_SYSTEM}")
        raise self.cannot_render("a dialogue", errors[0])

    def _talk(self) -> str | Exception:
        """The probe dialogue, or why there is none."""
        try:
            talk = self.render([QUESTION, ANSWER, QUESTION])
        except Exception as error:  # of any kind: a template is foreign code
            return error
        if ANSWER in talk and not _PART.search(talk):
            return talk
        return ValueError("it writes no answer, or takes no messages of parts")

    def _moves_system(self) -> bool:
        """Whether the system message is not at the beginning. A template may trim its text, but hardly a
        word."""
        if not self.system:
            return False
        system, self.system = self.system, SYSTEM
        talk = self._talk()
        self.system = system
        return not isinstance(talk, str) or SYSTEM not in talk.partition(ANSWER)[0]

    def refused(self, why: str) -> UserError:
        """The error for a student that cannot be rendered."""
        return UserError(f"student {name_of(self.processor)}: {why}")

    def cannot_render(self, what: str, error: Exception) -> UserError:
        """The error for a template that fails."""
        return self.refused(f"its chat template cannot render {what} ({reason_of(error)}); {ANOTHER}")

    def _special_tokens(self) -> dict[str, int]:
        """Special tokens, and the strings that the processor replaces by pictures, with their ids."""
        tokenizer = self.tokenizer
        added = tokenizer.added_tokens_decoder.items()
        numbers = {token.content: number for number, token in added if token.special}
        numbers |= {tokenizer.convert_ids_to_tokens(number): number for number in tokenizer.all_special_ids}
        for name, value in vars(self.processor).items():
            if name.endswith("_token") and isinstance(value, str):
                numbers[value] = tokenizer.convert_tokens_to_ids(value)
        return {token: number for token, number in numbers.items() if token and number is not None}

    def marks(self) -> list[str]:
        """Tokens that the template names and that an answer may hold, such as `<think>` and `</think>`, or
        `<|channel>`: those of a model that was trained to reason, above all. Special tokens that every
        dialogue has, which end or open a turn or show a picture, are no part of an answer."""
        pictures = [[Image.new("RGB", (112, 84))], []]
        usual = self.render([QUESTION, ANSWER, QUESTION], pictures)
        named = set(re.findall(r"</?\w+>", str(self.processor.chat_template)))
        tokens = {name for name in named if name in self.tokenizer.get_vocab()}
        tokens |= self._tokens_of_the_template()
        return sorted(token for token in tokens if token not in self._special or token not in usual)

    def _tokens_of_the_template(self) -> set[str]:
        """Added tokens that are not special but written by the template, such as `<think>`."""
        template = str(self.processor.chat_template)  # some processors have several, by name
        added = (token.content for token in self.tokenizer.added_tokens_decoder.values())
        return {token for token in added if len(token.strip()) > 1 and token in template}

    def _end_of(self, bridge: str) -> int:
        """The token that ends an answer: the first of the bridge."""
        for token in sorted(self._special, key=len, reverse=True):
            if bridge.startswith(token):
                return self._special[token]
        raise self.refused(
            f"its chat template closes an answer with {bridge[:20]!r}, which is no special token;"
            " give one that does in student.chat_template: FILE"
        )

    def _seeing(self) -> UserTurn:
        """A first turn with several pictures. Of an elongated one, processors may give parts, too."""
        images = [Image.new("RGB", size, "grey") for size in ((112, 84), (84, 112), (168, 56))]
        try:
            writes = self.render([QUESTION], [images]) != self.render([QUESTION])
        except Exception as error:  # as above
            raise self.cannot_render("a dialogue with pictures", error) from None
        if not writes:
            raise self.refused(NO_PICTURES)
        seeing, blind = self._first_turn("with", images), self._first_turn("without", [])
        if not seeing.pictures or len(seeing.ids) <= len(blind.ids):
            raise self.refused(NO_PICTURES)
        return seeing

    def _first_turn(self, how: str, images: list[Image.Image]) -> UserTurn:
        """A first turn, which the template renders. Raises `UserError` if the processor does not take it."""
        try:
            return self.user_turn(QUESTION, images, True)
        except Exception as error:  # as of a template
            why = f"its processor takes no dialogue {how} pictures ({reason_of(error)})"
            raise self.refused(f"{why}; choose another model") from None

    def talk(self, texts: Sequence[str], pictures: Sequence[Sequence[Image.Image]] = ()) -> list[dict]:
        """Chat messages: the system message, then users and assistants in turn, beginning with a user.

        Args:
            pictures: the pictures of each user turn; they come before its text.
        """
        messages: list[dict] = []
        if self.system:
            messages.append({"role": "system", "content": self._content("system", self.system)})
        for number, text in enumerate(texts):
            role = "assistant" if number % 2 else "user"
            content = self._content(role, text)
            if role == "user" and number // 2 < len(pictures):
                content = [*({"type": "image", "image": image} for image in pictures[number // 2]), *content]
            messages.append({"role": role, "content": content})
        return messages

    def _content(self, role: str, text: str) -> Any:
        return text if role in self._strings else [{"type": "text", "text": text}]

    def render(self, texts: Sequence[str], pictures: Sequence[Sequence[Image.Image]] = ()) -> str:
        """The dialogue as the template writes it, with the assistant's opening after a last user turn."""
        talk = self.talk(texts, pictures)
        return str(self.processor.apply_chat_template(talk, add_generation_prompt=True))

    def rendered(self, texts: Sequence[str], pictures: Sequence[Sequence[Image.Image]] = ()) -> Any:
        """The same as model inputs: `input_ids` [1, tokens] and whatever else the processor makes."""
        options = {"tokenize": True, "return_dict": True, "return_tensors": "pt"}
        talk = self.talk(texts, pictures)
        return self.processor.apply_chat_template(talk, add_generation_prompt=True, **options)

    def user_turn(self, text: str, images: Sequence[Image.Image], first: bool) -> UserTurn:
        """A user turn of outside text. Special tokens and markup in it are encoded as ordinary characters.

        Raises:
            UserError: a later turn shows pictures, and the template takes none there.
            Exception: the template or the processor fails.
        """
        text, images = self.defused(text), list(images)
        if images and not (first or self.later_pictures):
            raise self.refused(NO_LATER_PICTURES)
        if first:  # the template's own way, whatever it does about a token that begins the text
            encoding = self.rendered([text], [images])
        else:
            encoding = self._encode(self.bridge(text, images), images)
        inputs = dict(encoding)
        ids = inputs.pop("input_ids")
        inputs.pop("attention_mask", None)
        aligned = {}
        for name in [name for name in inputs if name.endswith("token_type_ids")]:
            aligned[name] = inputs.pop(name)[0].tolist()
        pictures = {name: value for name, value in inputs.items() if isinstance(value, torch.Tensor)}
        return UserTurn(ids[0].tolist(), aligned, pictures)

    def bridge(self, text: str, images: Sequence[Image.Image]) -> str:
        """What the template writes from the end of an answer to the next one's opening, with this user
        turn."""
        talk = self.render([QUESTION, ANSWER, text], [[], images])
        return talk[len(self._before) + len(ANSWER) :]

    def _encode(self, text: str, images: list[Image.Image]) -> Any:
        pictures = {"images": [images]} if images else {}
        return self.processor(text=[text], **pictures, return_tensors="pt", add_special_tokens=False)

    def defused(self, text: str) -> str:
        """Outside text in which nothing is read as markup: a blank splits each marker."""
        return self._find_markup.sub(r"\g<0> ", split_markers(text)).strip()

    def quoted(self, text: str) -> str:
        """A given answer in which nothing is read as a special token: a blank splits each."""
        return self._find_special.sub(r"\g<0> ", text.strip())

    def plain(self, text: str) -> list[int]:
        """Ids of a given answer. Special tokens in it are encoded as ordinary characters."""
        return list(self.tokenizer(self.lead + self.quoted(text), add_special_tokens=False)["input_ids"])

    def decode(self, ids: list[int]) -> str:
        """The text of sampled tokens, without the end token."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))


def _opening_of(markers: Any) -> re.Pattern[str]:
    """Matches the first character of each of the markers, also of those that overlap."""
    return re.compile(f"(?=(?:{'|'.join(map(re.escape, sorted(markers)))})).", re.DOTALL)


def reason_of(error: Exception) -> str:
    """What an error says, in one line."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


def name_of(processor: Any) -> str:
    """The folder or hub id that a processor was loaded from, for messages."""
    return str(getattr(processor, "tokenizer", processor).name_or_path or type(processor).__name__)
