"""OpenAI's completions and chat completions as vLLM speaks them: what a request asks for, and what answers look like.

Tokens of texts are counted as four bytes each; a prompt given as token ids is exact.
"""

from __future__ import annotations

import json
import math
import uuid
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

TOKEN = " token"  # what every token of an answer reads
BYTES_PER_TOKEN = 4
CHAT_TOKENS_PER_MESSAGE = 4
COMPLETION_DEFAULT_TOKENS = 16


class RefusedError(Exception):
    """An answer other than 200."""

    def __init__(self, status: int, kind: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": status}}


@dataclass(frozen=True, slots=True)
class Ask:
    """What one request asks for, in tokens."""

    chat: bool
    model: str
    prompt_tokens: int
    output_tokens: int
    max_tokens: int
    reason: str
    stream: bool
    include_usage: bool


@dataclass(frozen=True, slots=True)
class Catalogue:
    """What the server serves. `typical_output` is the mean length of an answer that ends by itself."""

    names: tuple[str, ...]
    max_model_len: int
    typical_output: float


def read_ask(body: bytes, catalogue: Catalogue, *, chat: bool) -> Ask:
    """Raises RefusedError with the status and words vLLM has for it."""
    given = _read_json(body)
    model = given.get("model") or catalogue.names[0]
    if model not in catalogue.names:
        raise RefusedError(404, "NotFoundError", f"The model `{model}` does not exist.", "model")
    if given.get("n", 1) != 1:
        raise _bad("this simulated engine answers with one choice: n must be 1", "n")
    prompt_tokens, seed = _count_chat(given) if chat else _count_prompt(given)
    max_tokens = _max_tokens(given, prompt_tokens, catalogue, chat=chat)
    output_tokens = _output_tokens(given, max_tokens, seed, catalogue)
    options = given.get("stream_options") or {}
    return Ask(
        chat=chat,
        model=model,
        prompt_tokens=prompt_tokens,
        output_tokens=output_tokens,
        max_tokens=max_tokens,
        reason="length" if output_tokens == max_tokens else "stop",
        stream=bool(given.get("stream")),
        include_usage=isinstance(options, dict) and bool(options.get("include_usage")),
    )


def _bad(message: str, param: str | None = None) -> RefusedError:
    return RefusedError(400, "BadRequestError", message, param)


def _read_json(body: bytes) -> Mapping[str, Any]:
    try:
        given = json.loads(body)
    except ValueError as error:
        raise _bad(f"JSON decode error: {error}") from error
    if not isinstance(given, dict):
        raise _bad("the body must be a JSON object")
    return given


def _count_prompt(given: Mapping[str, Any]) -> tuple[int, bytes]:
    prompt = given.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str | list):
        prompt = prompt[0]
    if isinstance(prompt, str) and prompt:
        return _count_text(prompt), prompt.encode()
    if isinstance(prompt, list) and prompt and all(isinstance(token, int) for token in prompt):
        return len(prompt), repr(prompt[:64]).encode()
    raise _bad("prompt must be one text or one list of token ids, and not empty", "prompt")


def _count_chat(given: Mapping[str, Any]) -> tuple[int, bytes]:
    messages = given.get("messages")
    if not isinstance(messages, list) or not messages or not all(isinstance(m, dict) and "role" in m for m in messages):
        raise _bad("messages must be a list of objects with role and content, and not empty", "messages")
    texts = [content if isinstance(content := m.get("content"), str) else json.dumps(content) for m in messages]
    tokens = sum(_count_text(text) + CHAT_TOKENS_PER_MESSAGE for text in texts)
    return tokens, "\n".join(texts).encode()


def _count_text(text: str) -> int:
    return max(1, math.ceil(len(text.encode()) / BYTES_PER_TOKEN))


def _whole_number(given: Mapping[str, Any], name: str, least: int) -> int | None:
    value = given.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise _bad(f"{name} must be at least {least}, got {value}.", name)
    return value


def _max_tokens(given: Mapping[str, Any], prompt_tokens: int, catalogue: Catalogue, *, chat: bool) -> int:
    left = catalogue.max_model_len - prompt_tokens
    asked = _whole_number(given, "max_tokens", 1)
    if chat:
        asked = _whole_number(given, "max_completion_tokens", 1) or asked
    wanted = asked or (max(left, 1) if chat else COMPLETION_DEFAULT_TOKENS)
    if wanted > left:
        place = "messages" if chat else "prompt"
        raise _bad(
            f"This model's maximum context length is {catalogue.max_model_len} tokens. However, you requested "
            f"{prompt_tokens + wanted} tokens ({prompt_tokens} in the {place}, {wanted} in the completion). Please "
            f"reduce the length of the {place} or completion."
        )
    return wanted


def _output_tokens(given: Mapping[str, Any], max_tokens: int, seed: bytes, catalogue: Catalogue) -> int:
    """Exactly max_tokens with `ignore_eos`; else the answer ends by itself, always alike for the same prompt."""
    least = _whole_number(given, "min_tokens", 0) or 0
    if least > max_tokens:
        raise _bad(f"min_tokens must be less than or equal to max_tokens={max_tokens}, got {least}.", "min_tokens")
    if given.get("ignore_eos"):
        return max_tokens
    uniform = (zlib.crc32(seed) + 0.5) / 2**32
    natural = math.ceil(-catalogue.typical_output * math.log(uniform))
    return max(1, least, min(max_tokens, natural))


class Reply:
    """Writes one answer."""

    def __init__(self, ask: Ask, created: int) -> None:
        self._ask = ask
        kind = "chat.completion" if ask.chat else "text_completion"
        self._head = {
            "id": f"{'chatcmpl' if ask.chat else 'cmpl'}-{uuid.uuid4().hex}",
            "object": f"{kind}.chunk" if ask.chat and ask.stream else kind,
            "created": created,
            "model": ask.model,
        }
        self._sent = 0

    def chunk(self, tokens: int) -> bytes:
        """The next tokens as server-sent events; the last ones bring usage, where asked for, and the end."""
        events = [self._event(self._delta({"role": "assistant", "content": ""}, None))] if self._opens() else []
        self._sent += tokens
        reason = self._ask.reason if self._sent >= self._ask.output_tokens else None
        choice = self._delta({"content": TOKEN * tokens}, reason) if self._ask.chat else self._text(tokens, reason)
        events.append(self._event(choice))
        if reason:
            if self._ask.include_usage:
                events.append(_sse({**self._head, "choices": [], "usage": self._usage()}))
            events.append(b"data: [DONE]\n\n")
        return b"".join(events)

    def whole(self) -> dict[str, Any]:
        """The answer as one object."""
        tokens, reason = self._ask.output_tokens, self._ask.reason
        choice = self._text(tokens, reason)
        if self._ask.chat:
            choice["message"] = {"role": "assistant", "content": choice.pop("text"), "tool_calls": []}
        return {**self._head, "choices": [choice], "usage": self._usage()}

    def _opens(self) -> bool:
        return self._ask.chat and self._sent == 0

    def _event(self, choice: Mapping[str, Any]) -> bytes:
        return _sse({**self._head, "choices": [choice]})

    def _delta(self, delta: Mapping[str, str], reason: str | None) -> dict[str, Any]:
        return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}

    def _text(self, tokens: int, reason: str | None) -> dict[str, Any]:
        return {"index": 0, "text": TOKEN * tokens, "logprobs": None, "finish_reason": reason, "stop_reason": None}

    def _usage(self) -> dict[str, int]:
        prompt, output = self._ask.prompt_tokens, self._ask.output_tokens
        return {"prompt_tokens": prompt, "total_tokens": prompt + output, "completion_tokens": output}


def _sse(event: Mapping[str, Any]) -> bytes:
    return b"data: " + json.dumps(event, separators=(",", ":")).encode() + b"\n\n"
