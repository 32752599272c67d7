"""Rows for TRL's trainers, tokenized already: what the data step wrote, mapped into memory, cut as the trainer cuts it.

TRL would render and tokenize each row again, in one process. The trained tokens are the same
(tests/training/test_tokenized.py compares the batches). Where the tokens do not fit the tokenizer, because another
version wrote them, the trainer is given conversations and tokenizes them itself.
"""

from __future__ import annotations

import os
import shutil
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hubkit.training.data.prepared import TrainingRows
from hubkit.training.data.tokens import IGNORED, Encoder, TokenFiles, find, write
from hubkit.training.last_batch import dividing
from hubkit.training.rehearsal import Method

if TYPE_CHECKING:
    from datasets import Dataset

_BATCH = 1000


def dpo_trainer() -> type[Any]:
    """TRL's DPOTrainer, which leaves a dataset as it is that is tokenized already (SFTTrainer does so itself)."""
    from trl import DPOTrainer

    class Tokenized(dividing(DPOTrainer, "rows")):  # type: ignore[misc]
        def _prepare_dataset(self, dataset: Any, *given: Any, **named: Any) -> Any:
            if "prompt_ids" in dataset.column_names:
                return dataset
            return super()._prepare_dataset(dataset, *given, **named)

    Tokenized.__name__ = DPOTrainer.__name__
    return Tokenized


def datasets_for(
    rows: TrainingRows,
    tokenizer: Any,
    method: Method,
    args: Any,
    scratch: Path,
    encoder: Encoder | None = None,
) -> tuple[Dataset, Dataset | None]:
    """The rows to train on and those to evaluate on (None: none), for TRL's trainer of ``method`` with ``args``.

    ``args``, of TRL, are told that the rows are prepared. What is written goes to ``scratch``. ``encoder`` tokenizes
    rows again that the trainer could not: it trains the last answer alone, and its rows lose what only some tools have.
    """
    found = rows.tokens(tokenizer)
    if found is None and encoder is not None and (encoder.all_answers or rows.offer_tools()):
        found = _again(rows, encoder, scratch / "again")
    evaluated = rows.evaluation_tokens(tokenizer)
    if found is None:
        return rows.dataset(scratch / "rows"), None
    shutil.rmtree(scratch / "tokens", ignore_errors=True)
    trained = _handed_over(found, method, args, scratch / "tokens" / "trained", packing=bool(_arg(args, "packing")))
    if method == "sft" and _arg(args, "shuffle_dataset") and _skips(args):
        trained = trained.shuffle(seed=args.seed)
    if evaluated is None:
        return trained, None
    return trained, _handed_over(evaluated, method, args, scratch / "tokens" / "evaluated", packing=False)


def _again(rows: TrainingRows, encoder: Encoder, folder: Path) -> TokenFiles | None:
    shutil.rmtree(folder, ignore_errors=True)
    with rows.file.open(encoding="utf-8", newline="\n") as lines:
        number = sum(1 for _ in lines)
    with rows.file.open(encoding="utf-8", newline="\n") as lines:
        for _ in write(lines, number, folder, encoder):
            pass
    return find(folder, encoder.tokenizer)


def first_rows(dataset: Dataset, count: int, rows: TrainingRows) -> list[dict[str, Any]]:
    """The first ``count`` rows of ``dataset`` with their conversations, which tokenized rows have in ``rows`` alone.

    A row that has none any more, because it is packed, comes without.
    """
    found = list(islice(iter(dataset), count))
    numbers = [row["row"] for row in found if "row" in row]
    if not numbers:
        return found
    conversations = rows.numbered(numbers)
    return [{**conversations[row["row"]], **row} for row in found]


def _arg(args: Any, name: str) -> Any:
    return getattr(args, name, None)


def _skips(args: Any) -> bool:
    return bool((_arg(args, "dataset_kwargs") or {}).get("skip_prepare_dataset"))


def _handed_over(files: TokenFiles, method: Method, args: Any, folder: Path, *, packing: bool) -> Dataset:
    dataset = _mapped(files, folder)
    length, keep = args.max_length, args.truncation_mode
    if method == "dpo":
        return _with_room(dataset, files, length) if keep == "keep_start" and length is not None else dataset
    if args.completion_only_loss is False:
        return dataset.remove_columns("labels")  # TRL then makes them of all tokens
    args.completion_only_loss = True
    if packing:
        return dataset
    args.dataset_kwargs = {**(args.dataset_kwargs or {}), "skip_prepare_dataset": True}
    if length is None or files.longest["input_ids"] <= length:
        return dataset
    return _cut(dataset, length, keep, folder / "cut.arrow")


def _mapped(files: TokenFiles, folder: Path) -> Dataset:
    """The tokens, mapped from links in ``folder``: the library writes what it derives beside the files."""
    from datasets import Dataset, concatenate_datasets

    folder.mkdir(parents=True, exist_ok=True)
    parts = []
    for file in files.files:
        link = folder / file.name
        try:
            os.link(file, link)
        except OSError:  # another disk
            shutil.copyfile(file, link)
        parts.append(Dataset.from_file(str(link)))
    return parts[0] if len(parts) == 1 else concatenate_datasets(parts)


def _with_room(dataset: Dataset, files: TokenFiles, length: int) -> Dataset:
    """``dataset`` without the rows whose prompt alone fills ``length``: nothing of their answers would be left."""
    if files.longest["prompt_ids"] < length:
        return dataset
    import numpy as np
    import pyarrow.compute as pc

    column = dataset.data.column("prompt_ids")
    return dataset.select(np.flatnonzero(np.asarray(pc.less(pc.list_value_length(column), length))))


def _cut(dataset: Dataset, length: int, keep: str, file: Path) -> Dataset:
    """``dataset`` with its rows cut at ``length`` tokens, without those that then have no trained token."""

    def cut(table: Any) -> Any:
        import numpy as np
        import pyarrow as pa

        columns, trained = {"row": table["row"].combine_chunks()}, None
        for name in ("input_ids", "labels"):
            lists = table[name].combine_chunks()
            offsets, values = lists.offsets.to_numpy(), lists.values.to_numpy()
            lengths, start = np.diff(offsets), offsets[0]
            values = values[start : offsets[-1]]
            place = np.arange(len(values)) - np.repeat(offsets[:-1] - start, lengths)
            dropped = np.repeat(np.maximum(lengths - length, 0), lengths) if keep == "keep_end" else 0
            kept = (place >= dropped) & (place < length + dropped)
            ends = np.concatenate(([0], np.cumsum(np.minimum(lengths, length)))).astype(np.int32)
            values = values[kept]
            columns[name] = pa.ListArray.from_arrays(pa.array(ends), pa.array(values))
            if name == "labels":
                before = np.concatenate(([0], np.cumsum(values != IGNORED)))
                trained = pa.array(before[ends[1:]] > before[ends[:-1]])
        return pa.table(columns).filter(trained)

    cut_dataset = dataset.with_format("arrow").map(
        cut, batched=True, batch_size=_BATCH, cache_file_name=str(file), load_from_cache_file=False
    )
    return cut_dataset.with_format(None)
