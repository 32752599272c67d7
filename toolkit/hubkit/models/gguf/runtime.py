"""A GGUF file as llama.cpp runs it, by llama-cpp-python: token ids, logits, and greedy answers that end where it stops.

with GgufModel(Path("model-Q8_0.gguf"), context=1024) as model:
    ids = model.tokenize("<|im_start|>user\\n...")
    new = model.answer(ids, max_new_tokens=100)
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from hubkit.core.errors import HubkitError, RefusedError
from hubkit.models.gguf.library import runtime
from hubkit.models.merging.overlap import cores

_SMALLEST_CONTEXT = 32


class GgufModel:
    """The model in ``path``, on the CPU; ``context`` tokens at most at a time. Use as a context.

    ``vocabulary_only``: no weight is loaded, and nothing can be asked. ``every_logit``: :meth:`all_logits` can be
    asked. HubkitError when llama.cpp cannot load it.
    """

    def __init__(
        self,
        path: Path,
        *,
        context: int = 512,
        vocabulary_only: bool = False,
        threads: int | None = None,
        every_logit: bool = False,
    ) -> None:
        self._library = runtime()
        quiet(self._library)
        try:
            self._llama = self._library.Llama(
                model_path=str(path),
                n_ctx=max(context, _SMALLEST_CONTEXT),
                n_batch=max(context, _SMALLEST_CONTEXT),
                n_ubatch=512,
                vocab_only=vocabulary_only,
                logits_all=every_logit,
                n_threads=threads or cores(),
                n_threads_batch=threads or cores(),
                verbose=False,
            )
        except (ValueError, RuntimeError, AssertionError) as error:
            raise HubkitError(
                f"llama.cpp cannot load {path.name}: {error}.",
                hint="Write the file again; an older llama-cpp-python may not know the architecture.",
            ) from error
        self.metadata: Mapping[str, str] = dict(self._llama.metadata)
        self._vocabulary = self._library.llama_model_get_vocab(self._llama.model)

    def tokenize(self, text: str) -> list[int]:
        """The ids of ``text``, in which control tokens are read as such; nothing is put around it."""
        content = text.encode()
        room = len(content) + 8
        while True:
            found = (self._library.llama_token * room)()
            got = self._library.llama_tokenize(self._vocabulary, content, len(content), found, room, False, True)
            if got >= 0:
                return list(found[:got])
            room = -got

    def text(self, ids: Sequence[int], *, special: bool = True) -> str:
        """The text of ``ids``; without ``special``, control tokens are left out."""
        return b"".join(self._piece(number, special) for number in ids).decode(errors="replace")

    def _piece(self, number: int, special: bool) -> bytes:
        room = 64
        while True:
            buffer = ctypes.create_string_buffer(room)
            got = self._library.llama_token_to_piece(self._vocabulary, number, buffer, room, 0, special)
            if got >= 0:
                return bytes(buffer.raw[:got])
            room = -got

    def stops_at(self, number: int) -> bool:
        """Whether llama.cpp ends an answer at this token."""
        return bool(self._library.llama_vocab_is_eog(self._vocabulary, number))

    @property
    def token_count(self) -> int:
        """Tokens of the vocabulary."""
        return int(self._library.llama_vocab_n_tokens(self._vocabulary))

    @property
    def template(self) -> str:
        """The chat template in the file; RefusedError without one."""
        found = self.metadata.get("tokenizer.chat_template")
        if not found:
            raise RefusedError("The GGUF file has no chat template.", hint="Write it from a model that has one.")
        return found

    @property
    def special_texts(self) -> dict[str, str]:
        """The special tokens by the names that a chat template may use; those that the file sets."""
        named = {"bos_token": "bos_token_id", "eos_token": "eos_token_id", "pad_token": "padding_token_id"}
        keys = {name: self.metadata.get(f"tokenizer.ggml.{key}") for name, key in named.items()}
        return {name: self.text([int(value)]) for name, value in keys.items() if value is not None}

    def logits(self, ids: Sequence[int]) -> Any:
        """The logits after the last of ``ids``: a numpy array of float32."""
        self._llama.reset()
        self._llama.eval(list(ids))
        return self._last_logits().copy()

    def _last_logits(self) -> Any:
        import numpy

        found = self._library.llama_get_logits_ith(self._llama.ctx, -1)
        return numpy.ctypeslib.as_array(found, shape=(self.token_count,))

    def all_logits(self, ids: Sequence[int]) -> Any:
        """The logits after each of ``ids``: a numpy array of float32, of the shape (tokens, vocabulary)."""
        self._llama.reset()
        self._llama.eval(list(ids))
        return self._llama.scores[: len(ids)].copy()

    def answer(self, ids: Sequence[int], *, max_new_tokens: int) -> list[int]:
        """The greedy answer to ``ids``, up to and with the token at which llama.cpp stops."""
        return list(self.stream(ids, max_new_tokens=max_new_tokens))

    def stream(self, ids: Sequence[int], *, max_new_tokens: int) -> Iterator[int]:
        """:meth:`answer`, token by token."""
        self._llama.reset()
        pending = list(ids)
        for _ in range(max_new_tokens):
            self._llama.eval(pending)
            number = int(self._last_logits().argmax())
            yield number
            if self.stops_at(number):
                break
            pending = [number]

    def choices(self, ids: Sequence[int], answer: Sequence[int]) -> list[int]:
        """The token that is chosen greedily in the place of each of ``answer``, after ``ids`` and what is before it."""
        self._llama.reset()
        found: list[int] = []
        pending = list(ids)
        for number in answer:
            self._llama.eval(pending)
            found.append(int(self._last_logits().argmax()))
            pending = [number]
        return found

    def close(self) -> None:
        """Free its memory."""
        self._llama.close()

    def __enter__(self) -> GgufModel:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()


_kept: list[Any] = []


def quiet(library: Any) -> None:
    """Keep llama.cpp from writing its log to standard error, where a command's progress is."""
    if _kept:
        return

    ignore = library.llama_log_callback(lambda level, text, data: None)
    library.llama_log_set(ignore, None)
    _kept.append(ignore)  # llama.cpp calls it as long as the process lives
