"""What crosses the wire of the test-time-training (TTT) server, and the limits it must keep.

One socket speaks two dialects, both one JSON object a message:

- the **official** one (SEAL's own server): a `TTTRequest`, answered by a `TTTReply` or by
  `{"error": "Type: text"}`; `{"cmd": "shutdown"}` is answered by `{"status": "bye"}`;
- the **versioned** one: an `Envelope` (`"v": 1`), answered by objects that repeat `v` and `id` and carry a
  `type`: `result`, `error`, `progress`, `health`, `status`, `tokenizer`, `cancelled` or `bye`.

`seed` and `key` are our additions to the official request; both may be left out.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NoReturn, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from seal import training_config as tc
from seal.errors import ServeError

PROTOCOL = 1
"""Version of the envelope; a server refuses any other."""

CODES = {
    "bad_json": "BadJSON",
    "bad_request": "BadRequest",
    "limit": "LimitExceeded",
    "busy": "Busy",
    "cancelled": "Cancelled",
    "deadline": "DeadlineExceeded",
    "forbidden": "Forbidden",
    "key_conflict": "KeyConflict",
    "adapt": "AdaptError",
    "grading": "GradingError",
    "shutting_down": "ShuttingDown",
    "internal": "InternalError",
}
"""Machine-readable code of an error -> the type name that the official dialect shows."""


OFFICIAL_NAMES = {
    "rank": "lora_rank",
    "alpha": "lora_alpha",
    "dropout": "lora_dropout",
    "epochs": "finetune_epochs",
    "learning_rate": "finetune_lr",
    "batch_size": "batch_size",
    "accumulation": "gradient_accumulation_steps",
}
"""Field of `TrainingConfig` -> its name in the official request."""


class WireError(ServeError):
    """A request that is answered by a typed error. `code` is a key of `CODES`."""

    def __init__(self, message: str, fix: str = "", code: str = "bad_request") -> None:
        super().__init__(message, fix)
        self.code = code

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.message, self.fix, self.code)

    def wire(self) -> dict[str, Any]:
        """The official error object, with the code beside it."""
        return {"error": f"{CODES[self.code]}: {self}", "code": self.code}


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request may ask for. Over it: a `LimitExceeded` error, at once."""

    bytes: int = 16 * 2**20
    """Size of one message. Past four times this the connection is dropped unread."""
    depth: int = 12
    """Nesting of the JSON."""
    keys: int = 100
    """Keys of one JSON object."""
    sequences: int = 20_000
    """Training sequences."""
    questions: int = 20_000
    tokens: int = 2_000_000
    """Training tokens of one epoch, and, apart from that, tokens of all prompts."""
    rank: int = 256
    epochs: int = 100
    steps: int = 10_000
    new_tokens: int = 4_096
    """Tokens of one answer."""


def _utf8(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("holds a lone surrogate, which is no text") from None
    return text


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("must not be empty")
    return text


_T = TypeVar("_T")
_List = Annotated[list[_T], tc.FirstError()]
Text = Annotated[str, AfterValidator(_utf8)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Name = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_utf8)]


class _Message(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class EvalQuestion(_Message):
    """One question, asked without its passage."""

    title: Text = ""
    context: Text = ""
    question: Annotated[Text, AfterValidator(_not_blank)]
    answer: Annotated[Text, AfterValidator(_not_blank)]
    """Gold answer."""
    also: Annotated[
        _List[Annotated[Text, AfterValidator(_not_blank)]], Field(exclude_if=lambda v: not v)
    ] = []
    """Further accepted answers. Not in the official format, so it is only sent when there are some."""


class TTTRequest(_Message):
    """Train a temporary adapter on `train_sequences` and answer `eval_questions` without and with it."""

    train_sequences: _List[Text] = []
    eval_questions: _List[EvalQuestion] = []
    lora_rank: tc.Rank = 32
    lora_alpha: tc.Alpha = 64
    lora_dropout: tc.Dropout = 0.0
    finetune_epochs: tc.Epochs = 10
    finetune_lr: tc.LearningRate = 1e-3
    batch_size: tc.BatchSize = 1
    gradient_accumulation_steps: tc.Accumulation = 1
    end_mask_substring: Text | None = ""
    """Tokens up to and including it are not trained on; empty: all are."""
    skip_training: bool = False
    seed: Seed | None = None
    """Randomness of the training; None: from the content and how often it was asked before."""
    key: Name | None = None
    """The same key trains once; its stored reply is sent again."""

    @property
    def baseline_only(self) -> bool:
        """Whether nothing is trained, so that the adapter's answers are the baseline's."""
        return self.skip_training or not self.train_sequences or not self.finetune_epochs

    @classmethod
    def of(cls, training: tc.TrainingConfig, **texts: Any) -> TTTRequest:
        """A request that trains like `training`, with its `texts`."""
        return cls(**{theirs: getattr(training, ours) for ours, theirs in OFFICIAL_NAMES.items()}, **texts)

    def training(self) -> tc.TrainingConfig:
        """How the engine trains."""
        return tc.checked({ours: getattr(self, theirs) for ours, theirs in OFFICIAL_NAMES.items()})

    def digest(self) -> str:
        """SHA-256 of what is asked, without `seed` and `key`."""
        return digest(self.model_dump(mode="json", exclude={"seed", "key"}))


class TTTReply(_Message):
    """The official reply. Accuracies are shares of the questions, rounded to 4 decimals."""

    baseline_accuracy: float
    adapter_accuracy: float
    adapter_gain: float
    baseline_texts: list[str]
    adapter_texts: list[str]
    baseline_correct: list[bool]
    adapter_correct: list[bool]
    gains: list[int]
    """1, 0 or -1 a question."""


class Envelope(_Message):
    """One message of the versioned dialect."""

    v: int
    id: Name
    """Chosen by the client (a random one cannot be guessed by others); replies repeat it."""
    cmd: Literal["ttt", "adapt", "health", "status", "tokenizer", "cancel", "shutdown"]
    key: Name | None = None
    """The same key trains once; None: the content and its seed are the key."""
    seed: Seed | None = None
    deadline_s: Annotated[float, Field(gt=0, le=30 * 86_400)] | None = None
    """Seconds from receipt after which the client no longer wants the answer."""
    progress: bool = False
    """Whether the client can take progress beats before the result (REQ sockets cannot)."""
    request: TTTRequest | None = None
    """What `ttt` trains."""
    job: dict[str, Any] | None = None
    """What `adapt` runs: an `AdaptJob`."""
    target: Name | None = None
    """The request that `cancel` ends."""
    token: Text = ""
    """Proof of the right to shut down, where the server asks for one."""


class Shutdown(_Message):
    """The official dialect's only command."""

    cmd: Literal["shutdown"]
    token: Text = ""


Incoming = TTTRequest | Envelope | Shutdown
_M = TypeVar("_M", bound=BaseModel)
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
"""A JSON string, or one that nothing ends; it never steps back, so time and memory grow with the bytes."""
_ALIKE = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


def digest(value: Any) -> str:
    """SHA-256 of a JSON value in canonical form."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def encode(message: dict[str, Any]) -> bytes:
    """A message as bytes for the socket."""
    return json.dumps(message, ensure_ascii=False, allow_nan=False).encode()


def _check_depth(raw: bytes, most: int) -> None:
    """Before anything recursive sees it: each turn takes the innermost pairs of brackets away."""
    brackets = _STRING.sub(b"", raw).translate(_ALIKE, _NO_BRACKETS)
    for _ in range(most):
        brackets = brackets.replace(b"[]", b"")
    if b"[]" in brackets or brackets.count(b"[") > most:
        raise WireError(f"the message nests deeper than {most} levels", "send a flatter object", "limit")


def _object(pairs: list[tuple[str, Any]], most: int) -> dict[str, Any]:
    """A JSON object with at most `most` keys, none of them twice."""
    if len(pairs) > most:
        raise WireError(f"an object has {len(pairs)} keys, the limit is {most}", "send fewer", "limit")
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise WireError(f"the key {twice[:60]!r} stands twice in one object", "send it once")
    return found


def _no_constant(name: str) -> NoReturn:
    raise WireError(f"{name} is not a finite number", "send finite numbers only")


def parse(raw: bytes, limits: Limits) -> dict[str, Any]:
    """The JSON object in `raw`.

    Raises:
        WireError: it is too large, too deep, no JSON object, names a key twice or too many, or holds NaN or
            infinity.
    """
    if len(raw) > limits.bytes:
        raise WireError(
            f"the message has {len(raw)} bytes, the limit is {limits.bytes}", "send less at once", "limit"
        )
    _check_depth(raw, limits.depth)
    try:
        value = json.loads(
            raw.decode(),
            object_pairs_hook=lambda pairs: _object(pairs, limits.keys),
            parse_constant=_no_constant,
        )
    except UnicodeDecodeError as error:
        raise WireError(f"byte {error.start} is not UTF-8", "send UTF-8 JSON", "bad_json") from None
    except (ValueError, RecursionError) as error:
        raise WireError(f"not JSON: {error}", "send one JSON object", "bad_json") from None
    if not isinstance(value, dict):
        raise WireError(f"the message is a {type(value).__name__}", "send one JSON object")
    return value


def explain(error: ValidationError, model: type[BaseModel]) -> WireError:
    """The first thing that is wrong, in one line; `model` knows the keys that may have been meant."""
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"]) or "message"
    if first["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        near = difflib.get_close_matches(str(first["loc"][-1])[:80], list(model.model_fields), 1)
        return WireError(
            f"unknown key {where[:80]!r}", f"did you mean {near[0]!r}?" if near else "leave it out"
        )
    given = "" if first["type"] == "missing" else f", given {repr(first['input'])[:80]}"
    more = f" and {error.error_count() - 1} more" if error.error_count() > 1 else ""
    return WireError(f"{where[:80]}: {first['msg']}{given}{more}")


def _validate(model: type[_M], value: dict[str, Any]) -> _M:
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise explain(error, model) from None


def understand(value: dict[str, Any], limits: Limits) -> Incoming:
    """The typed message in a parsed object, within `limits`.

    Raises:
        WireError: a key is unknown or missing, a value has the wrong type or is over a limit.
    """
    if "v" in value:
        if value["v"] != PROTOCOL or isinstance(value["v"], bool):
            raise WireError(f"protocol version {value['v']!r:.40}", f"speak version {PROTOCOL}")
        _check_lengths(value.get("request"), limits)
        envelope = _validate(Envelope, value)
        needed = {"ttt": envelope.request, "adapt": envelope.job, "cancel": envelope.target}
        if needed.get(envelope.cmd, "") is None:
            name = {"ttt": "request", "adapt": "job", "cancel": "target"}[envelope.cmd]
            raise WireError(f"{envelope.cmd!r} needs {name!r}")
        if envelope.request is not None:
            check_request(envelope.request, limits)
        return envelope
    if "cmd" in value:
        return _validate(Shutdown, value)
    if "train_sequences" not in value and "eval_questions" not in value:
        raise WireError("neither 'train_sequences' nor 'eval_questions' is given", "send one of them")
    _check_lengths(value, limits)
    request = _validate(TTTRequest, value)
    check_request(request, limits)
    return request


def within(name: str, given: float, most: float) -> None:
    """Raise `WireError` when `given` is more than `most`."""
    if given > most:
        shown = min(given, 10**15)  # a float cannot hold every integer
        raise WireError(f"{name} {shown:g} is over the limit of {most:g}", "ask for less", "limit")


def _check_lengths(request: Any, limits: Limits) -> None:
    """Before millions of items are looked at one by one."""
    for name, most in (("train_sequences", limits.sequences), ("eval_questions", limits.questions)):
        items = request.get(name) if isinstance(request, dict) else None
        if isinstance(items, list):
            within(f"number of {name}", len(items), most)


def check_request(request: TTTRequest, limits: Limits) -> None:
    """Raise `WireError` where the training of a text request is over a limit."""
    within("lora_rank", request.lora_rank, limits.rank)
    within("finetune_epochs", request.finetune_epochs, limits.epochs)
